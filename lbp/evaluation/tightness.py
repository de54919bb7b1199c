"""How wide the bounds of every method are as the radius grows (Lyu et al. 2021, figure 3)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.errors import InvalidInputError
from lbp.nn import evaluation_mode
from lbp.perturbations import PerturbationLpNorm
from lbp.verification import method_names
from lbp.verification.batches import images_at_once
from lbp.verification.checks import check_inputs
from lbp.verification.verify import bound_options


@dataclass(frozen=True)
class WidthCurve:
    """The bounds of one method with one kind of lines.

    Attributes:
        method, strategy: their names.
        radii: l_inf radii.
        widths: for every radius the mean of upper minus lower bound over logits and examples; NaN if one is.
    """

    method: str
    strategy: str
    radii: tuple[float, ...]
    widths: tuple[float, ...]


def tightness(
    model: nn.Module,
    x: Tensor,
    radii: Sequence[float],
    *,
    clip: tuple[float, float] | None = None,
    methods: Sequence[str],
    strategies: Sequence[str] = ("tight", "adaptive"),
    progress: Callable[[int, int], None] | None = None,
) -> list[WidthCurve]:
    """Bounds the logits over balls of growing radius by every method with every kind of lines.

    Args:
        model: network to logits; run in evaluation mode and put back as it was.
        x: inputs [N, *shape], on the device of the model.
        radii: at least one.
        clip: valid range of the data.
        methods: names as `verify` takes them.
        strategies: bounding lines.
        progress: called with the number of curves done and in all.

    Returns:
        a curve per method and strategy; IBP, which has no lines, once.

    Raises:
        InvalidInputError: no inputs or no radii, or inputs that do not fit.
    """
    check_inputs(model, x)
    if len(x) == 0 or not radii:
        raise InvalidInputError(f"tightness needs inputs and radii, got {len(x)} inputs and {len(radii)} radii")
    names = method_names(methods)
    wanted = [(name, strategy) for name in names for strategy in (strategies if name != "IBP" else strategies[:1])]
    curves = []
    with evaluation_mode(model), torch.no_grad():
        for number, (name, strategy) in enumerate(wanted, start=1):
            net = BoundedModule(model, x[:1], bound_opts=bound_options(strategy))
            size = images_at_once(net, name)
            widths = [_mean_width(net, x, PerturbationLpNorm(eps=eps, clip=clip), name, size) for eps in radii]
            curves.append(WidthCurve(name, strategy, tuple(radii), tuple(widths)))
            if progress is not None:
                progress(number, len(wanted))
    return curves


def _mean_width(net: BoundedModule, x: Tensor, region: PerturbationLpNorm, method: str, batch_size: int) -> float:
    sums = []
    count = 0
    for part in x.split(batch_size):
        lower, upper = net.compute_bounds(x=(BoundedTensor(part, region),), method=method)[:2]
        assert lower is not None
        assert upper is not None
        sums.append(float((upper - lower).double().sum()))
        count += lower.numel()
    return math.fsum(sums) / count if all(map(math.isfinite, sums)) else math.nan
