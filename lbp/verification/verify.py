"""Verification of labelled examples by one method after another."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from numbers import Real
from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from lbp.bounded import BoundedModule
from lbp.checks import check_has_values
from lbp.errors import InvalidInputError
from lbp.methods.names import parse_method
from lbp.methods.options import STRATEGY_OPTIONS
from lbp.nn import evaluation_mode
from lbp.perturbations import PerturbationLpNorm
from lbp.rounding import LEVELS
from lbp.verification.answers import answers
from lbp.verification.batches import images_at_once
from lbp.verification.checks import check_images, checked_classes
from lbp.verification.close_calls import CloseCalls
from lbp.verification.falsify import predicted_classes
from lbp.verification.margins import certainly_above
from lbp.verification.result import MethodResult, VerificationResult
from lbp.verification.search import smallest_margin

METHODS = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "Relaxed-CROWN-2", "CROWN")
"""The six methods of Lyu et al. 2021, cheapest first."""


def _known_strategy(name: str) -> str:
    if name not in STRATEGY_OPTIONS:
        raise ValueError(f"bounding lines must be one of {', '.join(STRATEGY_OPTIONS)}, got {name!r}")
    return name


Strategy = Annotated[str, AfterValidator(_known_strategy)]
"""Bounding lines by name, in settings."""


def _known_level(name: str) -> str:
    if name not in LEVELS:
        raise ValueError(f"must be one of {', '.join(LEVELS)}, got {name!r}")
    return name


Rounding = Annotated[str, AfterValidator(_known_level)]
"""What bounds account for, one of `lbp.rounding.LEVELS`, in settings."""

Progress = Callable[[str, int, int], None]


def verify(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    *,
    norm: float = math.inf,
    clip: tuple[float, float] | None = None,
    methods: str | Sequence[str] = METHODS,
    strategy: str = "tight",
    rounding: str = "outward",
    cascade: bool = False,
    batch_size: int | None = None,
    memory_budget: int | str | None = None,
    num_classes: int | None = None,
    progress: Progress | None = None,
) -> VerificationResult:
    """Bounds the margins of labelled examples over l_p balls; an example is verified when all are above 0.

    A verified example is classified correctly at every point of its region: by the network in exact arithmetic, with
    `rounding="inference"` also by the network as it is evaluated in its dtype. With tight lines the methods are
    ordered, to rounding: IBP <= LBP, CROWN-IBP <= CROWN-LBP <= CROWN (Lyu et al. 2021, theorem 2); they are the
    textbook methods, CROWN with back-substitution for every hidden neuron. With `rounding="outward"`, what only the
    roundings of float32 leave open is decided in float64 (`lbp.verification.close_calls`). A margin bound that is NaN,
    infinite or (with `rounding="nearest"`) above 0 by no more than rounding verifies nothing, and neither does a
    misclassified example; one with a NaN among its logits counts as misclassified, with the prediction -1. Predictions
    are those of the network in the full precision of its dtype, whatever the switches say.

    Args:
        model: network from inputs to logits [B, classes]; run in evaluation mode and put back as it was.
        x: inputs [N, *shape], float32 or float64 as the model's weights and on their device.
        labels: int64 [N], on any device.
        eps: radius of the ball, >= 0, the same for all examples.
        norm: p of the l_p ball, >= 1.
        clip: valid range of the data, with which every ball is intersected.
        methods: one or several of `METHODS`, "Relaxed-CROWN-v" for other v; case does not matter.
        strategy: bounding lines of the activations: "tight", "adaptive", "constant", "same-slope", ...
        rounding: what the bounds account for: "outward" ones hold whatever their computation rounds, "inference" covers
            the network's own rounding as well, "nearest" ones may be wrong by a few units in the last place of the
            largest numbers on the way, and by more than themselves where those cancel.
        cascade: run the methods from the cheapest on, each only on correctly classified examples that are still open.
        batch_size: examples at a time; by default as many as each method can take within the memory budget. Does not
            change verdicts beyond rounding.
        memory_budget: bytes, or text like "4GiB", that bounds may take; None: half of the memory that is free. Does not
            change verdicts beyond rounding.
        num_classes: number of logits; by default that of the model.
        progress: called with (method, examples done, examples in all) after every batch.

    Returns:
        margins, verdicts and times per method and example, on the CPU.

    Raises:
        InvalidInputError: shapes or labels that do not fit, an eps that is not one number, negative or NaN eps.
        UnsupportedArgumentError: unknown method.
        UnsupportedLayerError: the model has a layer without bounds.
        UnanalysedRoundingError: a layer, or an environment, whose rounding errors are not known.
    """
    eps = _single_radius(eps)
    names = method_names(methods, sort=cascade)
    check_images(model, x, labels, batch_size)
    weights = next(model.parameters(), None)
    if len(x) == 0:
        raise InvalidInputError(f"x must be a batch of inputs [N, *shape] with N >= 1, got shape {list(x.shape)}")
    if weights is not None and x.device != weights.device:
        raise InvalidInputError(f"x is on {x.device}, the model's weights are on {weights.device}; move one")
    labels = labels.to(x.device)
    perturbation = PerturbationLpNorm(eps=eps, norm=norm, clip=clip)
    with evaluation_mode(model), torch.no_grad():
        options = bound_options(strategy, memory_budget, rounding=rounding)
        net = BoundedModule(model, x[:1], bound_opts=options)
        sizes = {name: images_at_once(net, name, batch_size) for name in ("IBP", *names)}
        logits = torch.cat([answers(model, part) for part in x.split(sizes["IBP"])])
        classes = checked_classes(logits, labels, num_classes)
        predictions, at_image = predicted_classes(logits), smallest_margin(logits, labels)
        close_calls = CloseCalls(model, x[:1], options, perturbation, classes)
        left = predictions == labels if cascade else torch.ones_like(labels, dtype=torch.bool)
        results = {}
        for name in names:
            bound = partial(_bounds_of, close_calls, net, x, labels, at_image, name)
            result = _run(name, bound, x.dtype, left, classes, sizes[name], rounding, progress)
            result.verified.logical_and_((predictions == labels).cpu())
            results[name] = result
            if cascade:
                left = left & ~result.verified.to(left.device)
    return VerificationResult(eps, norm, strategy, rounding, cascade, labels.cpu(), predictions.cpu(), results)


def _bounds_of(
    close_calls: CloseCalls, net: BoundedModule, x: Tensor, labels: Tensor, at_image: Tensor, name: str, index: Tensor
) -> Tensor:
    return close_calls.bounds(net, x[index], labels[index], at_image[index], name)


def _run(
    name: str,
    bound: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    chosen: Tensor,
    classes: int,
    batch_size: int,
    rounding: str,
    progress: Progress | None,
) -> MethodResult:
    """Bounds the chosen examples batch by batch."""
    result = MethodResult(
        method=name,
        margins=torch.full((len(chosen), classes - 1), math.nan, dtype=dtype, device="cpu"),
        verified=torch.zeros(len(chosen), dtype=torch.bool, device="cpu"),
        computed=chosen.cpu().clone(),
        seconds=torch.zeros(len(chosen), dtype=torch.float64, device="cpu"),
    )
    todo = chosen.nonzero().squeeze(1)
    for start in range(0, len(todo), batch_size):
        index = todo[start : start + batch_size]
        started = time.perf_counter()
        lower = bound(index).cpu()
        place = index.cpu()
        result.seconds[place] = (time.perf_counter() - started) / len(index)
        result.margins[place] = lower
        result.verified[place] = certainly_above(lower, rounding=rounding).all(dim=1)
        if progress is not None:
            progress(name, start + len(index), len(todo))
    return result


def method_names(methods: str | Sequence[str], *, sort: bool = False) -> list[str]:
    """Canonical names of methods, without repetitions.

    Args:
        methods: one name or several, in any spelling that `compute_bounds` knows.
        sort: cheapest first.

    Raises:
        UnsupportedArgumentError: an unknown name.
        InvalidInputError: no name at all, or something that is no name.
    """
    given = [methods] if isinstance(methods, str) else methods
    if not isinstance(given, Iterable):
        raise InvalidInputError(f"methods must be names, got {methods!r}; choose among {', '.join(METHODS)}")
    names = list(dict.fromkeys(_canonical(method) for method in given))
    if not names:
        raise InvalidInputError(f"no method given; choose among {', '.join(METHODS)}")
    return sorted(names, key=_cost) if sort else names


def bound_options(
    strategy: str, memory_budget: int | str | None = None, *, textbook: bool = True, rounding: str = "nearest"
) -> dict[str, object]:
    """Options of `BoundedModule`.

    Args:
        strategy: bounding lines of the activations.
        memory_budget: bytes, or text like "4GiB", that bounds may take; None: half of the memory that is free.
        textbook: CROWN as published, every hidden neuron bounded by back-substitution and nothing else; False: only
            neurons that intervals leave open, and the tighter of both bounds, which costs less and verifies more.
        rounding: what the bounds account for, one of `lbp.rounding.LEVELS`.
    """
    return {
        "rounding": rounding,
        "activation_bound_option": strategy,
        "sparse_intermediate_bounds": not textbook,
        "memory_budget": memory_budget,
    }


def _canonical(name: str) -> str:
    if not isinstance(name, str):
        raise InvalidInputError(f"methods must be names, got {name!r}; choose among {', '.join(METHODS)}")
    return str(parse_method(name.strip()))


def _cost(name: str) -> tuple[int, int]:
    if name.startswith("Relaxed"):
        return METHODS.index("Relaxed-CROWN-2"), int(name.rpartition("-")[2])
    return METHODS.index(name), 0


def _single_radius(eps: float | Tensor) -> float:
    """Return eps as a number."""
    if isinstance(eps, Tensor) and eps.numel() != 1:
        raise InvalidInputError(
            f"eps must be one number for all examples, got a tensor of shape {list(eps.shape)}; verify the examples of "
            "every radius in a call of their own"
        )
    if isinstance(eps, bool) or not isinstance(eps, Real | Tensor):
        raise InvalidInputError(f"eps must be a number, got {eps!r} ({type(eps).__name__})")
    if isinstance(eps, Tensor):
        check_has_values("eps", eps)
        if eps.is_complex():
            raise InvalidInputError(f"eps must be a real number, got {eps!r}")
        eps = eps.detach()
    return float(eps)
