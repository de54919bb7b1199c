"""Whether a network misclassifies a point in real arithmetic, of which outward bounds speak."""

import torch
from torch import Tensor, nn

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.graph.float64_copy import float64_copy
from lbp.perturbations import PerturbationLpNorm
from lbp.specification import margins


def certainly_misclassified(model: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    """Whether a margin is 0 or negative whatever rounding does: by outward bounds in float64 of the margins there.

    Args:
        model: network to logits, in evaluation mode.
        points: [B, *shape], of the type of the model's weights.
        labels: int64 [B].

    Returns:
        bool [B]; False where float64 cannot tell.

    Raises:
        UnsupportedLayerError, UnanalysedRoundingError: as `BoundedModule.compute_bounds`.
    """
    with torch.no_grad():
        classes = model(points[:1]).shape[1]
    net = BoundedModule(float64_copy(model, points[:1]), points[:1].double())
    exact = BoundedTensor(points.double(), PerturbationLpNorm(0.0))
    rows = margins(labels, classes, dtype=torch.float64)
    _, upper = net.compute_bounds(x=(exact,), C=rows, method="IBP", bound_lower=False, rounding="outward")[:2]
    assert upper is not None
    return (upper <= 0).any(1)
