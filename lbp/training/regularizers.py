"""The warm-up regularisers of Shi et al. 2021 ("Fast certified robust training"), with ParamRamp in mind."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lbp.graph import BoundNode
from lbp.graph.activation import RampNode
from lbp.linear import Interval

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes, differentiably."""


def warm_up_regularization(
    activations: Sequence[BoundNode], region: Interval, tolerance: float, reduce: Reduce = lambda sums: sums
) -> Tensor:
    """Keeps bounds tight and neurons balanced while eps grows; the mean over the layers.

    Tightness: the mean radius of a layer's bounds may exceed that of the input by 1 / tolerance before it costs.
    Balance: of ReLU, active neurons (l > 0) against inactive ones (u < 0). ParamRamp has two flat regions, and a
    network whose neurons crowd into one of them is as lost as a ReLU network of dead neurons; there the right-dead
    (l > r) are balanced against the left-dead, around the middle of the slope, r / 2. Both ratios, of the centers' sums
    and of their squared deviations from the layer's mean, cost where the smaller side is below `tolerance` of the
    larger; a layer with an empty side costs nothing, as there is no gradient that could fill it.

    Args:
        activations: nodes whose `pre_activation` has bounds; others than ramps are passed over.
        region: bounds of the network's input.
        tolerance: in (0, 1].
        reduce: sums over processes.

    Returns:
        0-dim, differentiable.
    """
    ramps = [node for node in activations if isinstance(node, RampNode)]
    first = reduce(_radius(region))
    terms = [first.new_zeros(())]
    for node in ramps:
        lower, upper = node.pre_activation.lower, node.pre_activation.upper
        assert lower is not None
        assert upper is not None
        radius = reduce(_radius((lower, upper)))
        # Means: sums divided by counts.
        tightness = (first[0] / first[1]) / (radius[0] / radius[1]).clamp(min=1e-12)
        terms.append(F.relu(tolerance - tightness) / tolerance)
        terms += _imbalance(lower, upper, node.ramp_parameters()[0], tolerance, reduce)
    return torch.stack(terms).sum() / max(len(ramps), 1)


def _radius(interval: Interval) -> Tensor:
    """Return sum and count of the radii."""
    lower, upper = interval
    total = ((upper - lower) / 2).sum()
    return torch.stack([total, torch.full_like(total, lower.numel())])


def _imbalance(lower: Tensor, upper: Tensor, r: Tensor | float, tolerance: float, reduce: Reduce) -> list[Tensor]:
    """Return the costs of unbalanced sums and of unbalanced deviations."""
    bends = isinstance(r, Tensor) or math.isfinite(r)
    right, left = lower > (r if bends else 0.0), upper < 0
    center = (lower + upper) / 2
    if bends:
        center = center - r / 2
    total = center.sum()
    moments = reduce(torch.stack([total, torch.full_like(total, center.numel())]))
    deviation = (center - moments[0] / moments[1]).square()
    sums = [(values * side).sum() for values in (center, deviation) for side in (right, left)]
    right_sum, left_sum, right_deviation, left_deviation = reduce(torch.stack(sums)).unbind()
    return [
        _cost(right_sum, -left_sum, tolerance),
        _cost(right_deviation, left_deviation, tolerance),
    ]


def _cost(first: Tensor, second: Tensor, tolerance: float) -> Tensor:
    """Return how far the smaller of two positive numbers is below the tolerated share of the larger; 0 if one is 0."""
    both = (first > 0) & (second > 0)
    first, second = (torch.where(both, side, torch.ones_like(side)) for side in (first, second))
    share = torch.minimum(first, second) / torch.maximum(first, second)
    return F.relu(tolerance - share) / tolerance
