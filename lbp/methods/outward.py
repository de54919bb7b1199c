"""Bounds that hold in floating point: what the steps of back-substitution may lose by rounding.

Everything here is of a few numbers per neuron. Back-substitution computes A' for `A W` with
`|A' - A W| <= gamma |A| |W|`, so that over inputs of magnitude at most m it loses at most `|A| e`, where
`e = gamma |W| m`. Below an activation A is `A s` for the slope s of a line, and the constants are `A t` for its
intercept t; so the loss is paid by moving the intercepts outward by `|s| e`, once for all rows. Only coefficients that
do not come from an activation pay row by row.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lbp.constants import side_signs
from lbp.graph import BoundNode
from lbp.graph.activation import RampNode
from lbp.linear import (
    Coefficients,
    DenseCoefficients,
    IdentityCoefficients,
    Interval,
    NeuronRows,
    PendingRelaxation,
    PendingWindowRelaxation,
    Region,
    WindowCoefficients,
    WindowRows,
    to_dense,
    to_windows,
)
from lbp.methods.outward_intervals import largest_of, outward_interval
from lbp.rounding import SLACK, absolute_floor, gamma, magnitude_of, unit_roundoff

if TYPE_CHECKING:
    from lbp.methods.problem import Problem


@dataclass(frozen=True)
class StepError:
    """What a step of back-substitution through a node may lose.

    Attributes:
        per_coefficient: broadcastable to [B, *shape]: coefficients A of the node's value lose at most
            `|A| (per_coefficient + per_width (u - l))` for bounds l and u of the node.
        per_width: a factor, or None for 0. Where there is one, these losses also cover what the coefficients A of a
            ramp of slope 1 above the node, and intercepts no larger than the node's bounds, round.
        least: [B, 1, ...], a part of `per_coefficient` that exceeds all losses by underflow.
        absolute: [B] float64, the loss by underflow, whatever A is.
        copies_rows: whether single neurons lose nothing, as their coefficients are rows of the stored weight.
    """

    per_coefficient: Tensor
    per_width: float | None
    least: Tensor
    absolute: Tensor
    copies_rows: bool

    def part(self, images: Images) -> StepError:
        """Return the same for some of the images."""
        cut = images.of
        return replace(
            self, per_coefficient=cut(self.per_coefficient), least=cut(self.least), absolute=cut(self.absolute)
        )


@dataclass(frozen=True)
class Images:
    """Images `first` to `last` of a batch."""

    first: int
    last: int
    batch: int

    def of(self, values: Tensor) -> Tensor:
        """Return the values [B or 1, ...] of these images."""
        return values[self.first : self.last] if len(values) == self.batch else values


class Outward:
    """The rounding errors of a problem's steps; everything is found once, when it is first needed.

    Attributes:
        by_intervals: whether all bounds are those of intervals, and cost so little that products for the magnitudes of
            layers would be seen: the intervals' widths bound them.
    """

    def __init__(self, problem: Problem) -> None:
        self.by_intervals = False
        # The problem holds this object: a cycle would keep the bounds of all layers until the next collection.
        self._of = weakref.ref(problem)
        self._intervals: dict[BoundNode, Interval] = {}
        self._magnitudes: dict[BoundNode, Tensor] = {}
        self._steps: dict[BoundNode, StepError | None] = {}
        self._margins: dict[BoundNode, tuple[Tensor, Tensor]] = {}
        self._underflows: dict[tuple[tuple[BoundNode, ...], ...], Tensor | None] = {}
        self._regions: dict[BoundNode, Region] = {}
        self._largest: dict[BoundNode, Tensor] = {}
        self._weight_sums: dict[BoundNode, tuple[Tensor, ...]] = {}
        self._whole: tuple[Outward, Images] | None = None

    def follow(self, whole: Outward) -> None:
        """Bound part of the images of a problem as the whole does, and share what depends on the weights alone."""
        self.by_intervals = whole.by_intervals
        self._weight_sums = whole._weight_sums

    def share(self, whole: Outward, images: Images) -> None:
        """Take over what is found about all images of a problem that has bounded all layers, for some of them."""
        self._whole = whole, images

    @property
    def _problem(self) -> Problem:
        problem = self._of()
        assert problem is not None
        return problem

    @property
    def dtype(self) -> torch.dtype:
        """Of the bounds."""
        return self._problem.dtype

    def interval(self, node: BoundNode) -> Interval:
        """Return bounds of a node: those known, or intervals from the closest known ones below it."""
        if node in self._problem.bounds:
            return self._problem.bounds[node]
        if node not in self._intervals:
            if node.inputs:
                found = self.interval_from(node, [self.interval(source) for source in node.inputs])
            else:
                found = (self._problem.region.lower, self._problem.region.upper)
            self._intervals[node] = found
        return self._intervals[node]

    def interval_from(self, node: BoundNode, inputs: Sequence[Interval]) -> Interval:
        """Return bounds of a node by interval arithmetic from those of its inputs."""

        def largest() -> Tensor:
            # What is known of the inputs' own bounds is not looked for again.
            known, pairs = self._problem.bounds, zip(node.inputs, inputs, strict=True)
            sizes = (self.largest(source) if known.get(source) is own else largest_of(own) for source, own in pairs)
            return reduce(torch.add, sizes)

        return outward_interval(node, inputs, self.dtype, largest)

    def magnitude(self, node: BoundNode) -> Tensor:
        """Return a bound [B, *shape] of the magnitude of a node's value over the region."""
        if node not in self._magnitudes:
            with torch.no_grad():
                self._magnitudes[node] = magnitude_of(self.interval(node))
        return self._magnitudes[node]

    def largest(self, node: BoundNode) -> Tensor:
        """Return a bound [B] float64 of the magnitudes of a node's values over the region, and of its intervals'.

        It serves for losses by underflow, where factors do not matter.
        """
        if isinstance(node, RampNode) and node.inputs[0] in self._problem.bounds:
            return self.largest(node.inputs[0])  # ramps make no number larger
        if node not in self._largest:
            if self._whole is not None:
                whole, images = self._whole
                self._largest[node] = images.of(whole.largest(node))
            else:
                self._largest[node] = largest_of(self.interval(node))
        return self._largest[node]

    def region(self, node: BoundNode) -> Region:
        """Return the bounds of a node as a region over which linear functions are evaluated."""
        if node not in self._regions:
            self._regions[node] = Region(*self.interval(node)).outward()
        return self._regions[node]

    def step(self, node: BoundNode) -> StepError | None:
        """Return what the step through a node that is no ramp may lose; None: nothing."""
        if node not in self._steps:
            with torch.no_grad():
                self._steps[node] = self._step_of_whole(node) or self._step(node)
        return self._steps[node]

    def _step_of_whole(self, node: BoundNode) -> StepError | None:
        """Return a step that the whole knows, or finds from a few numbers of every image; None: it does not."""
        if self._whole is None:
            return None
        whole, images = self._whole
        step = whole.step(node) if self.by_intervals else whole._steps.get(node)
        return None if step is None else step.part(images)

    def _step(self, node: BoundNode) -> StepError | None:
        roundings = node.roundings(self.dtype)
        if not roundings.backward and roundings.shift is None:
            return None
        floor = absolute_floor(self.dtype)
        value, has_width = self._magnitude_of_sum(node)
        relative = gamma(roundings.backward + roundings.weights + 2, self.dtype) if roundings.backward else 0.0
        if node.is_activation:
            relative += self._constants_relative(node)
        # The magnitude is itself a rounded sum of rounded weights.
        terms = roundings.forward if roundings.any_order is None else roundings.any_order
        above = SLACK * (1 + gamma(terms + roundings.weights + 4, self.dtype))
        relative *= SLACK * above
        # A magnitude that neurons share counts once for each; no input adds more than it to no neuron at all.
        size = value * above
        if roundings.shift is not None:
            size = size + roundings.shift * SLACK
        total = _total(size) * (node.size / max(size[:1].numel(), 1))
        if has_width:
            total = total + self.largest(node) * (2 * above * node.size)
        for source in node.inputs:
            total = total + self.largest(source) * (source.size * roundings.factor)
        # Weights, and rows, below the normal range may count as zero.
        least: Tensor = (floor * (1 + total)).to(self.dtype).reshape(-1, *[1] * len(node.shape))
        rest = least + SLACK * SLACK * roundings.shift_error
        of_shift = SLACK * SLACK * self._constants_relative(node)
        if has_width:
            # The node's value, and its bounds as intervals give them, are no larger than |W| m + |b|.
            of_ramp = self._ramp_relative(node)
            relative, of_shift = relative + of_ramp * above, of_shift + of_ramp * SLACK
        if roundings.shift is not None:
            rest = rest + roundings.shift * of_shift
        error = torch.add(rest, value, alpha=relative)
        copies_rows = not roundings.weights and not isinstance(roundings.shift_error, Tensor) and not node.is_activation
        return StepError(error, relative if has_width else None, least, floor * (1 + 2 * total), copies_rows)

    def _lost_per_coefficient(self, node: BoundNode, step: StepError) -> Tensor:
        """Return what coefficients of a node lose in a step, times their magnitude, broadcastable to [B, *shape]."""
        if step.per_width is None:
            return step.per_coefficient
        lower, upper = (bound.detach() for bound in self.interval(node))
        width = upper - lower
        return torch.add(step.per_coefficient, width, alpha=step.per_width, out=width)

    def _magnitude_of_sum(self, node: BoundNode) -> tuple[Tensor, bool]:
        """Return a bound of `|W| m`, for W of a node and the magnitudes m of its inputs.

        Returns:
            one that is broadcastable to [B, *shape], and whether the width of the node's bounds belongs to it as well.
        """
        if not self.by_intervals:
            return node.magnitude(*map(self.magnitude, node.inputs)), False
        inputs = [self.interval(source) for source in node.inputs]
        if not self._follows(node):
            return node.magnitude_at_most(*inputs, sums=self._sums_of_weights(node)), False
        # A number of an interval is no larger than the interval is wide and far from 0, and |W| times the widths of the
        # inputs is the width of the output. What is the far end of an interval from the one side is the near end from
        # the other; of numbers that are not negative the lower end is the nearest one.
        ends = zip(node.inputs, inputs, strict=True)
        nearest = ((None if source.is_nonnegative else high, low) for source, (low, high) in ends)
        return node.magnitude_at_most(*nearest, sums=self._sums_of_weights(node)), True

    def _sums_of_weights(self, node: BoundNode) -> tuple[Tensor, ...]:
        if node not in self._weight_sums:
            self._weight_sums[node] = node.weight_sums()
        return self._weight_sums[node]

    def _follows(self, node: BoundNode) -> bool:
        """Whether the bounds of an affine node are those of intervals from the bounds of its inputs, all known."""
        problem = self._problem
        given = node in problem.given or node in problem.known or node in problem.reference
        by_norms = problem.region.ball is not None and problem.network.is_first_affine(node)
        return node in problem.bounds and not (given or by_norms or node.is_activation)

    def _ramp_relative(self, node: BoundNode) -> float:
        """Return what a ramp above a node rounds, relative to the node's bounds: the relaxation, intercepts."""
        return 2 * SLACK * (self._constants_relative(node) + 5 * unit_roundoff(self.dtype))

    def _constants_relative(self, node: BoundNode) -> float:
        """Return the relative error of constants: rounded products, and float64 sums over a layer and its bias."""
        return 4 * unit_roundoff(self.dtype) + gamma(2 * node.size + 4, torch.float64)

    def margins(self, activation: BoundNode) -> dict[str, Tensor]:
        """Return by how much the lines of a ramp move outward, as keywords of the relaxation ops.

        They pay for the relaxation itself and for the step through the node below.
        """
        assert isinstance(activation, RampNode)
        if activation not in self._margins:
            with torch.no_grad():
                self._margins[activation] = self._lost_by_lines(activation)
        per_slope, rest = self._margins[activation]
        return {"margin_per_slope": per_slope, "margin": rest}

    def _lost_by_lines(self, activation: RampNode) -> tuple[Tensor, Tensor]:
        """Return by how much the intercepts of a ramp's lines move: so much times the slope, and so much."""
        below = activation.inputs[0]
        step = self.step(below)
        r, _ = activation.ramp_parameters()
        # Of ramps that bend at 0 alone, intercepts are no larger than the slope times the bounds.
        by_slope = isinstance(r, float) and math.isinf(r) and self._problem.strategy != "constant"
        if step is not None and step.per_width is not None and by_slope:
            return self._lost_per_coefficient(below, step), step.least
        size = magnitude_of(self._problem.bounds[below])
        per_slope = size * (2 * SLACK * unit_roundoff(self.dtype))
        if step is not None:
            per_slope.add_(self._lost_per_coefficient(below, step))
        # No intercept is larger than the bounds (and than their image, which is no larger).
        rest = size.mul_(self._ramp_relative(activation))
        rest += SLACK * activation.roundings(self.dtype).shift_error
        return per_slope, rest

    def underflow(self, passed: Sequence[BoundNode], ends: Sequence[BoundNode]) -> Tensor | None:
        """Return what any row may lose by underflow [B] float64; None: nothing.

        Args:
            passed: the nodes that it passes on its way.
            ends: where it is evaluated over the bounds of a node.
        """
        way = tuple(passed), tuple(ends)
        if way not in self._underflows:
            with torch.no_grad():
                self._underflows[way] = self._underflow(*way)
        return self._underflows[way]

    def _underflow(self, passed: tuple[BoundNode, ...], ends: tuple[BoundNode, ...]) -> Tensor | None:
        if self._whole is not None and self.by_intervals:
            whole, images = self._whole
            found = whole.underflow(passed, ends)
            return None if found is None else images.of(found)
        # At a ramp, and in an evaluation, every number that enters counts.
        entered = [node.inputs[0] for node in passed if isinstance(node, RampNode)]
        losses = [absolute_floor(self.dtype) * (1 + self.largest(node) * node.size) for node in (*entered, *ends)]
        steps = (self.step(node) for node in passed if not isinstance(node, RampNode))
        losses += [step.absolute for step in steps if step is not None]
        return reduce(torch.add, losses) if losses else None

    def loss(self, node: BoundNode, coefficients: Coefficients | WindowRows, sides: str) -> Tensor | None:
        """Return what the step through a node adds to the constants [K, B, S] or [K, R]; None: nothing.

        Args:
            node: the node.
            coefficients: of its value, as they reach it.
            sides: "lower", "upper" or "both".
        """
        if isinstance(node, RampNode) or isinstance(coefficients, PendingRelaxation | PendingWindowRelaxation):
            return None  # lines pay
        step = self.step(node)
        if step is None or (isinstance(coefficients, IdentityCoefficients | NeuronRows) and step.copies_rows):
            return None
        error = self._lost_per_coefficient(node, step).expand(-1, *node.shape)
        return self._spread(_up_to(error), coefficients, sides)

    def loss_of_sum(self, node: BoundNode, total: DenseCoefficients | WindowCoefficients, sides: str) -> Tensor:
        """Return what the constants owe for the rounding of a sum of coefficients of a node."""
        with torch.no_grad():
            size = self.magnitude(node)
            error = size * (2 * SLACK * unit_roundoff(self.dtype))
            absolute = absolute_floor(self.dtype) * (1 + _total(size))
        return self._spread(_up_to(error), total, sides) + _signed(_per_row(absolute, total), sides)

    def _spread(self, errors: Region, coefficients: Coefficients | WindowRows, sides: str) -> Tensor:
        """Return `-/+ |A| error`, [K, B, S] or [K, R] float64, for errors of either sign."""
        with torch.no_grad():
            error = errors.upper.flatten(1)
            if isinstance(coefficients, IdentityCoefficients):
                return _signed(error[:, coefficients.start : coefficients.stop].double(), sides)
            if isinstance(coefficients, NeuronRows):
                return _signed(error[coefficients.images, coefficients.neurons].double(), sides)
            if isinstance(coefficients, WindowRows):
                return errors.concretize_windows(to_windows(coefficients)[0], sides)
            return errors.concretize(to_dense(coefficients)[0].A, sides)


def _up_to(error: Tensor) -> Region:
    """Return errors of either sign of at most this size."""
    with torch.no_grad():
        error = error.contiguous()
        return Region(-error, error)


def lost_by_rows(lost: Tensor, rows: Coefficients | WindowRows, sides: str) -> Tensor:
    """Return a loss [B] that all rows of an image have in common as what it adds to constants, [K, B, 1] or [K, R]."""
    return _signed(_per_row(lost, rows), sides)


def _signed(values: Tensor, sides: str) -> Tensor:
    """Return values, with a first dimension for the sides, as what they change: below 0 for lower bounds."""
    return side_signs(sides, values).reshape(-1, *[1] * values.dim()) * values


def _per_row(values: Tensor, coefficients: Coefficients | WindowRows) -> Tensor:
    """Return values [B] of images as values [B, 1] or [R] of rows."""
    if isinstance(coefficients, PendingWindowRelaxation):
        coefficients = coefficients.coefficients
    return values[coefficients.images] if isinstance(coefficients, WindowRows) else values.unsqueeze(1)


def _total(values: Tensor) -> Tensor:
    """Return the sums [B] float64 of values [B, *shape]."""
    return values.flatten(1).sum(1, dtype=torch.float64)
