"""Lower bounds of the margins, for verdicts and for losses."""

from torch import Tensor

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.perturbations import PerturbationLpNorm
from lbp.specification import margins


def margin_bounds(
    bounded: BoundedModule,
    x: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    perturbation: PerturbationLpNorm,
    method: str,
) -> Tensor:
    """Lower bounds of the true logit minus every other over the regions around inputs.

    Args:
        bounded: network to logits.
        x: inputs [B, *shape].
        labels: int64 [B].
        num_classes: number of logits.
        perturbation: the region around every input.
        method: as `compute_bounds` takes it.

    Returns:
        [B, num_classes - 1], differentiable.
    """
    region = BoundedTensor(x, perturbation)
    specification = margins(labels, num_classes, dtype=x.dtype)
    lower = bounded.compute_bounds(x=(region,), C=specification, method=method, bound_upper=False)[0]
    assert lower is not None
    return lower
