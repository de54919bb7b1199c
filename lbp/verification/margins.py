"""Lower bounds of the margins, for verdicts and for losses, and when one decides a verdict."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.perturbations import PerturbationLpNorm
from lbp.specification import margins

SLACK = 256
"""Room that a bound must leave, in units in the last place of the largest of 1, itself and what it is compared with.

Only where bounds are rounded to nearest, so that they may be wrong by some units in the last place. Those of larger
numbers that cancel on the way, in a hidden layer even, leave no trace in a bound and have no room here: they need
`rounding="outward"`, which follows the magnitudes through all layers.
"""


def certainly_above(lower: Tensor, limit: Tensor | float = 0.0, *, rounding: str = "nearest") -> Tensor:
    """Whether lower bounds are above a limit by more than rounding; NaN and infinite bounds are not.

    Args:
        lower: bounds of any shape, float32 or float64.
        limit: number, or tensor that broadcasts to them, without rounding a number of their dtype.
        rounding: what the bounds account for, one of `lbp.rounding.LEVELS`; only "nearest" ones need room.

    Returns:
        bool, the shape of `lower`.
    """
    limit = torch.as_tensor(limit, dtype=lower.dtype, device=lower.device)
    if rounding != "nearest":
        return torch.isfinite(lower) & (lower > limit)
    scale = torch.maximum(lower.abs(), limit.abs()).clamp_min(1.0)
    return torch.isfinite(lower) & (lower - limit > SLACK * torch.finfo(lower.dtype).eps * scale)


def margin_bounds(
    bounded: BoundedModule,
    x: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    perturbation: PerturbationLpNorm,
    method: str,
    interm_bounds: Mapping[str, Sequence[Tensor]] | None = None,
) -> Tensor:
    """Lower bounds of the true logit minus every other over the regions around inputs.

    Args:
        bounded: network to logits.
        x: inputs [B, *shape].
        labels: int64 [B].
        num_classes: number of logits.
        perturbation: the region around every input.
        method: as `compute_bounds` takes it.
        interm_bounds: bounds of hidden layers to use as they are, as `compute_bounds` takes them.

    Returns:
        [B, num_classes - 1], differentiable.
    """
    region = BoundedTensor(x, perturbation)
    specification = margins(labels, num_classes, dtype=x.dtype)
    lower = bounded.compute_bounds(
        x=(region,), C=specification, method=method, bound_upper=False, interm_bounds=interm_bounds
    )[0]
    assert lower is not None
    return lower
