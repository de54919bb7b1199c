"""Intervals that hold in floating point: by how much a node's inputs are widened, and its bounds moved.

The derivation is section 6 of docs/rounding.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lbp.graph import BoundNode
from lbp.linear import Interval
from lbp.ops.outward_intervals import Widening
from lbp.rounding import SLACK, Roundings, absolute_floor, gamma, magnitude_of, unit_roundoff


def outward_interval(
    node: BoundNode, inputs: Sequence[Interval], dtype: torch.dtype, largest: Callable[[], Tensor]
) -> Interval:
    """Return bounds of a node by interval arithmetic that hold in exact arithmetic.

    Of a sum `W a` the inputs' intervals are widened so far that `|W| radius` covers all errors; what the shift rounds
    is added to the result.

    Args:
        node: the node.
        inputs: intervals of its inputs.
        dtype: of the bounds.
        largest: returns a bound [B] float64 of what magnitudes of the inputs, one of each, add up to.
    """
    first, *others = node.interval_steps
    bounds = _outward_step(first, inputs, dtype, largest)
    for step in others:
        bounds = _outward_step(step, [bounds], dtype, partial(largest_of, bounds))
    return bounds


def _outward_step(
    node: BoundNode, inputs: Sequence[Interval], dtype: torch.dtype, largest: Callable[[], Tensor]
) -> Interval:
    roundings = node.roundings(dtype)
    if roundings.forward:
        return _outward_sum(node, inputs, roundings, dtype, largest())
    lower, upper = node.interval(*inputs)
    if not roundings.value and not isinstance(roundings.shift_error, Tensor) and not roundings.shift_error:
        return lower, upper
    with torch.no_grad():
        by = magnitude_of((lower, upper)).mul_((roundings.value + 5) * unit_roundoff(dtype))
        if roundings.shift is not None:
            by = by + roundings.shift * (SLACK * gamma(4, dtype))
        by = by + SLACK * roundings.shift_error
    return lower - by, upper + by


def _outward_sum(
    node: BoundNode, inputs: Sequence[Interval], roundings: Roundings, dtype: torch.dtype, largest: Tensor
) -> Interval:
    unit, floor = unit_roundoff(dtype), absolute_floor(dtype)
    # Besides the terms of the sum: center and radius, those of the shift and the margin, and the last subtraction.
    error = gamma(roundings.forward + roundings.weights + roundings.value + 6, dtype)
    relative = SLACK * error / (1 - error) + 4 * unit if error < 0.5 else torch.inf
    with torch.no_grad():
        products = largest * roundings.factor if isinstance(roundings.factor, Tensor) else largest
        common, of_example = _margins_of_images(products, dtype)
        margin = common + roundings.shift_error * (SLACK + relative)
        if roundings.shift is not None:
            margin = margin + roundings.shift * relative
    by = Widening(relative, relative * floor**0.5)
    return node.outward_interval(*inputs, by=by, margin=margin, of_example=of_example)


def _margins_of_images(largest: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return what underflow may take from intervals of images whose largest magnitudes [B] are given.

    Returns:
        a number for all images, except those with numbers so large that it would swamp the bounds of the others; and
        [B] what these need besides, None where there is none. On a device nobody waits for that answer.
    """
    floor = absolute_floor(dtype)
    most = floor**-0.5
    if largest.numel() == 0:
        return torch.full((), floor, dtype=dtype, device=largest.device), None
    if not _waits_to_be_read(largest) and (of_all := float(largest.amax())) <= most:
        return torch.full((), floor * (1 + of_all), dtype=dtype, device=largest.device), None
    ordinary = largest <= most
    common = largest.where(ordinary, 0).amax()
    return (floor * (1 + common)).to(dtype), torch.where(ordinary, 0, largest * (SLACK * floor)).to(dtype)


def _waits_to_be_read(values: Tensor) -> bool:
    """Whether the host would have to wait for a device before it knows a value."""
    return not values.is_cpu


def largest_of(interval: Interval) -> Tensor:
    """Return the largest magnitudes [B] float64 of the numbers of an interval [B, *shape]."""
    lower, upper = (bound.detach().flatten(1) for bound in interval)
    if lower.shape[1] == 0:
        return lower.new_zeros(len(lower), dtype=torch.float64)
    return torch.maximum(upper.amax(1), -lower.amin(1)).double()
