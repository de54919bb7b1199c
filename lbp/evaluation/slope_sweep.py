"""Margin bounds of a trained network as its ReLUs become LeakyReLUs (Lyu et al. 2021, appendix)."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lbp.errors import InvalidInputError
from lbp.nn import LeakyReLU, ParamRamp
from lbp.verification import verify


@dataclass(frozen=True)
class SlopeCurve:
    """One method with one kind of lines.

    Attributes:
        method, strategy: their names.
        slopes: left slopes of the activations.
        margins: for every slope the mean over the examples of the smallest margin bound; NaN if one is.
        clean_errors: for every slope the share misclassified without perturbation.
    """

    method: str
    strategy: str
    slopes: tuple[float, ...]
    margins: tuple[float, ...]
    clean_errors: tuple[float, ...]


def slope_sweep(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    slopes: Sequence[float],
    *,
    clip: tuple[float, float] | None = None,
    methods: Sequence[str],
    strategies: Sequence[str] = ("tight", "adaptive"),
    progress: Callable[[int, int], None] | None = None,
) -> list[SlopeCurve]:
    """Verifies copies of a network with other slopes, every ReLU replaced by LeakyReLU; nothing is trained again.

    Args:
        model: network with ReLU, LeakyReLU or ParamRamp modules; left as it is.
        x: inputs [N, *shape].
        labels: int64 [N].
        eps: radius.
        slopes: left slopes in [0, 1], at least one.
        clip: valid range of the data.
        methods: names as `verify` takes them.
        strategies: bounding lines.
        progress: called with the number of verifications done and in all.

    Returns:
        a curve per method and strategy; IBP, which has no lines, once.

    Raises:
        InvalidInputError: no slopes, one outside [0, 1], or a network without such modules.
    """
    if not slopes:
        raise InvalidInputError("slope_sweep needs at least one slope")
    points: dict[tuple[str, str], list[float]] = {}
    clean: dict[str, list[float]] = {strategy: [] for strategy in strategies}
    runs = [(slope, strategy) for slope in slopes for strategy in strategies]
    for number, (slope, strategy) in enumerate(runs, start=1):
        result = verify(with_slope(model, slope), x, labels, eps, clip=clip, methods=methods, strategy=strategy)
        clean[strategy].append(result.clean_error)
        for name, method in result.methods.items():
            points.setdefault((name, strategy), []).append(method.mean_margin)
        if progress is not None:
            progress(number, len(runs))
    return [
        SlopeCurve(name, strategy, tuple(slopes), tuple(margins), tuple(clean[strategy]))
        for (name, strategy), margins in points.items()
        if name != "IBP" or strategy == strategies[0]
    ]


def with_slope(model: nn.Module, slope: float) -> nn.Module:
    """A copy of a network with every ReLU and LeakyReLU replaced by LeakyReLU with this left slope.

    ParamRamp takes it as its outer slope eta.

    Raises:
        InvalidInputError: a slope outside [0, 1], or no such module.
    """
    if not 0 <= slope <= 1:
        raise InvalidInputError(f"left slopes must be in [0, 1], got {slope}")
    if isinstance(model, _REPLACED):
        return nn.LeakyReLU(slope)
    changed = copy.deepcopy(model)
    ramps = [module for module in changed.modules() if isinstance(module, ParamRamp)]
    for ramp in ramps:
        ramp.set_eta(slope)
    parents = [parent for parent in changed.modules() if not isinstance(parent, _REPLACED)]
    places = [
        (parent, name) for parent in parents for name, child in parent.named_children() if isinstance(child, _REPLACED)
    ]
    if not places and not ramps:
        raise InvalidInputError("the network has no ReLU, LeakyReLU or ParamRamp module whose slope could be changed")
    with torch.no_grad():
        for parent, name in places:
            setattr(parent, name, nn.LeakyReLU(slope))
    return changed


_REPLACED = (nn.ReLU, nn.LeakyReLU, LeakyReLU)
