"""Forward linear bounds that hold in floating point.

Bounds `C x + c -/+ (R x + s)` of a layer lose to rounding, in a step through a node W, at most `gamma |W| Q` with
`Q = (|C| + |R|) |x| + 2 |c| + 2 |s|` per neuron. The step multiplies s by |W| as it is, so moving s outward by
`gamma Q` beforehand pays for all of it without a product of its own; what W adds, and sums of blocks, are paid
afterwards (docs/rounding.md, section 5). All that is needed besides is `q = (|C| + |R|) |x|`, one number per neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lbp.constants import side_signs
from lbp.graph import BoundNode, InputNode, Relaxations
from lbp.graph.activation import RampNode
from lbp.graph.conv import Conv2dNode
from lbp.graph.elementwise import ScaleShiftNode
from lbp.graph.join import SumNode
from lbp.graph.linear import LinearNode
from lbp.linear import DenseCoefficients, ForwardBounds, Interval, Region, WindowCoefficients
from lbp.ops import bounding_lines
from lbp.ops.forward_windows import accumulated_terms
from lbp.rounding import SLACK, Roundings, absolute_floor, gamma, lowered, raised, unit_roundoff

RAMP_ROUNDINGS = 6
"""Of rows scaled by a ramp's lines (3), and of constants with their intercepts, which count half (4 and 2)."""

POOL_ROUNDINGS = 10
"""Of rows and constants of which max pooling follows the sides and takes the middle."""


class OutwardForward:
    """The rounding errors of forward linear bounds over a region."""

    def __init__(self, region: Region) -> None:
        self._region = region
        with torch.no_grad():
            reach = torch.maximum(region.lower.abs(), region.upper.abs())
            self._box = Region(-reach, reach)
            # What one underflow may lose of any row: its share of |x|, and of the constants, at most.
            floor = torch.finfo(reach.dtype).tiny
            self._underflow = (reach.flatten(1).sum(1) + 1) * (SLACK * floor)
        self._magnitudes: dict[BoundNode, Tensor] = {}
        self._identities: set[BoundNode] = set()
        # Sums [B or 1] float64 over a layer of the magnitudes of the constants that are inserted.
        self._inserted_constants: dict[BoundNode, Tensor] = {}

    def start(self, node: InputNode) -> None:
        """Begin with the input, whose bounds are the identity's rows."""
        self._identities.add(node)
        self._magnitudes[node] = self._box.upper

    def step(self, node: BoundNode, sources: Sequence[ForwardBounds], relaxations: Relaxations) -> ForwardBounds:
        """Return the forward bounds of a node from those of its inputs, in place of `forward_linear`."""
        dtype = sources[0].center.dtype
        roundings = node.roundings(dtype)
        if _only_moves(node, roundings):
            self._carry(node)
            # Neurons that hold the same value make sums of the products with their columns.
            if node.acts_per_neuron and self._identities.issuperset(node.inputs):
                self._identities.add(node)
            return node.forward_linear(*sources, relaxations=relaxations)
        terms = self._terms(node, sources, roundings)
        relative = self._relative(node, terms, roundings)
        if isinstance(node, RampNode):
            result = self._through_ramp(node, sources[0], relaxations, relative)
            return self._settled(node, sources, result, terms, roundings)
        widened = [self._widened(source, bounds, relative) for source, bounds in zip(node.inputs, sources, strict=True)]
        result = node.short_forward_linear(*widened, relaxations=relaxations)
        if isinstance(node, ScaleShiftNode):
            self._carry(node)
        elif _is_plain_sum(node):
            # The entries of a sum round relative to themselves.
            result = self._widened(node, result, SLACK * 2 * unit_roundoff(dtype))
        return self._settled(node, sources, result, terms, roundings)

    def bounds(self, node: BoundNode, bounds: ForwardBounds) -> Interval:
        """Return lower and upper bounds [B, *shape] of a node over the region, and note its magnitudes on the way."""
        with torch.no_grad():
            by = (bounds.center_bias.abs() + bounds.radius_bias_or_zero.abs()) * (8 * unit_roundoff(torch.float64))
        widened = replace(bounds, radius_bias=raised(bounds.radius_bias_or_zero, by))
        if node in self._magnitudes:
            lower, upper = self._region.concretize_forward(widened)
        else:
            (lower, upper), magnitude = self._region.concretize_forward_with_magnitude(widened)
            self._note(node, magnitude)
        return lowered(lower), raised(upper)

    def insertable(self, node: BoundNode, bounds: ForwardBounds) -> ForwardBounds:
        """Return bounds of a node that pay for a product of their matrices with coefficients of the node."""
        dtype = bounds.center.dtype
        # Images that share matrices pay on their own: the errors of an image with large numbers are not the others'.
        batch = self._region.batch
        bounds = replace(
            bounds,
            center_bias=bounds.center_bias.expand(batch, *node.shape),
            radius_bias=bounds.radius_bias_or_zero.expand(batch, *node.shape),
        )
        terms = node.size if bounds.windows is None else accumulated_terms(bounds.windows.layer)
        error = gamma(terms + 6, dtype) + gamma(2 * node.size + 8, torch.float64)
        widened = self._widened(node, bounds, SLACK * error / (1 - error) if error < 1 else torch.inf)
        with torch.no_grad():
            constants = widened.center_bias.abs() + widened.radius_bias_or_zero.abs()
            self._inserted_constants[node] = constants.flatten(1).sum(1, dtype=torch.float64)
        return widened

    def separable(self, node: BoundNode, bounds: ForwardBounds) -> ForwardBounds:
        """Return bounds of a node whose two sides, center -/+ radius, may be rounded one by one."""
        return self._widened(node, bounds, SLACK * 2 * unit_roundoff(bounds.center.dtype))

    def loss_of_insertion(
        self, node: BoundNode, total: DenseCoefficients | WindowCoefficients, sides: str, *, is_sum: bool
    ) -> Tensor:
        """Return what coefficients of the input owe, [K, B, S] or [K, R] float64, for underflow and for being a sum.

        Args:
            node: whose bounds were inserted last.
            total: the coefficients.
            sides: "lower", "upper" or "both".
            is_sum: whether they have just been added up.
        """
        with torch.no_grad():
            extent = self._box.upper.flatten(1).sum(1, dtype=torch.float64) + 1
            if node in self._magnitudes:
                extent = extent + self._magnitudes[node].flatten(1).sum(1, dtype=torch.float64)
            if node in self._inserted_constants:
                extent = extent + self._inserted_constants[node]
            lost = extent * absolute_floor(self._box.upper.dtype)
            lost = lost[total.images] if isinstance(total, WindowCoefficients) else lost.unsqueeze(1)
            signs = side_signs(sides, lost)
            lost = signs.reshape(-1, *[1] * lost.dim()) * lost
            if is_sum:
                error = self._box.upper * (2 * SLACK * unit_roundoff(self._box.upper.dtype))
                box = Region(-error, error)
                if isinstance(total, WindowCoefficients):
                    return lost + box.concretize_windows(total, sides)
                return lost + box.concretize(total.A, sides)
            return lost

    def taken_over(self, node: BoundNode, bounds: ForwardBounds) -> ForwardBounds:
        """Return bounds of a node that pay for what `ForwardBounds.from_sides` has rounded."""
        return self._widened(node, bounds, SLACK * 4 * unit_roundoff(bounds.center.dtype))

    def _terms(self, node: BoundNode, sources: Sequence[ForwardBounds], roundings: Roundings) -> int:
        """Return how often an entry of the product of a node with the bounds of its inputs rounds."""
        if _is_plain_sum(node):
            return 0
        if node.is_activation:
            return RAMP_ROUNDINGS if isinstance(node, RampNode) else POOL_ROUNDINGS
        # Products with rows of the identity, and their sums with zeros, are exact.
        multiplies = isinstance(node, LinearNode | Conv2dNode) and not roundings.weights
        return 0 if multiplies and node.inputs[0] in self._identities else node.forward_terms(*sources) + 2

    def _relative(self, node: BoundNode, terms: int, roundings: Roundings) -> float:
        """Return the relative error of the products and sums of a node, as a factor of the magnitudes before it."""
        dtype = self._region.lower.dtype
        weights = roundings.weights if roundings.forward and not _is_plain_sum(node) else 0
        error = gamma(terms, dtype) + gamma(weights, dtype)
        if not error < 0.25:
            return torch.inf
        return SLACK * error / (1 - 2 * error)

    def _widened(self, node: BoundNode, bounds: ForwardBounds, relative: float) -> ForwardBounds:
        """Return bounds of a node with the radius of its constants moved outward by its magnitudes times a factor."""
        if not relative:
            return bounds
        radius_bias = bounds.radius_bias_or_zero
        with torch.no_grad():
            constants = bounds.center_bias.abs() + radius_bias.abs()
            by = (self.magnitude(node, bounds) + 2 * constants) * relative
            by = by + _per_image(self._underflow * 4, radius_bias)
        return replace(bounds, radius_bias=raised(radius_bias, _shared_like(by, radius_bias)))

    def _through_ramp(
        self, node: RampNode, bounds: ForwardBounds, relaxations: Relaxations, relative: float
    ) -> ForwardBounds:
        """Return the bounds behind a ramp, their radius moved outward by what its lines make of the magnitudes.

        Afterwards, not before: the lines pass a radius on to the center as well, so that of what is added to it a side
        gets no more than its own slope, while its entries round relative to the larger slope.
        """
        result = node.short_forward_linear(bounds, relaxations=relaxations)
        with torch.no_grad():
            slope = self._larger_slope(node, relaxations)
            constants = bounds.center_bias.abs() + bounds.radius_bias_or_zero.abs()
            size = self.magnitude(node.inputs[0], bounds)
            # |(t + s)/2| + |(t - s)/2| is the larger of two slopes.
            self._magnitudes[node] = size * slope * (1 + 32 * unit_roundoff(slope.dtype))
            by = (size + 2 * constants) * slope * relative
        return replace(result, radius_bias=raised(result.radius_bias_or_zero, by))

    def _settled(
        self,
        node: BoundNode,
        sources: Sequence[ForwardBounds],
        result: ForwardBounds,
        terms: int,
        roundings: Roundings,
    ) -> ForwardBounds:
        """Return the bounds after a step, paying for the constants that the node adds and for underflow."""
        dtype = result.center.dtype
        count = node.inputs[0].size if terms else 1
        radius_bias = result.radius_bias_or_zero
        with torch.no_grad():
            constants = result.center_bias.abs() + radius_bias.abs()
            by = constants * (SLACK * 4 * unit_roundoff(dtype)) + SLACK * roundings.shift_error
            if roundings.shift is not None:
                by = by + roundings.shift * (SLACK * gamma(terms + 2, dtype))
            lost = self._underflow * (8 * (count + terms))
            # What weights below the normal range lose of what they multiply.
            for source, before in zip(node.inputs, sources, strict=True):
                factors = before.center_bias.abs() + before.radius_bias_or_zero.abs()
                if source in self._magnitudes:
                    factors = factors + self._magnitudes[source]
                lost = lost + factors.flatten(1).sum(1) * (roundings.factor * (8 * torch.finfo(dtype).tiny))
            by = by + _per_image(lost, radius_bias)
        return replace(result, radius_bias=raised(radius_bias, _shared_like(by, radius_bias)))

    def magnitude(self, node: BoundNode, bounds: ForwardBounds) -> Tensor:
        """Return q = (|C| + |R|) |x| [B, *shape], rounded up, of a node's forward bounds."""
        if node not in self._magnitudes:
            with torch.no_grad():
                self._note(node, self._box.concretize_forward_with_magnitude(bounds)[1])
        return self._magnitudes[node]

    def _note(self, node: BoundNode, magnitude: Tensor) -> None:
        """Keep the magnitudes of a node, which were added up in float64 and rounded to nearest."""
        with torch.no_grad():
            inputs = self._box.lower[:1].numel()
            self._magnitudes[node] = raised(magnitude, magnitude * gamma(inputs + 8, torch.float64))

    def _carry(self, node: BoundNode) -> None:
        """Note the magnitudes of a node that moves or scales numbers one by one."""
        known = [self._magnitudes[source] for source in node.inputs if source in self._magnitudes]
        if len(known) == len(node.inputs):
            self._magnitudes[node] = node.magnitude(*known) * (1 + 8 * unit_roundoff(known[0].dtype))

    def _larger_slope(self, node: RampNode, relaxations: Relaxations) -> Tensor:
        """Return the larger of the slopes of every neuron's lines [B, *shape]."""
        lower, upper = (bound.detach() for bound in relaxations.before(node))
        lines = bounding_lines(lower, upper, *node.ramp_parameters(), strategy=relaxations.strategy)
        return torch.maximum(lines.lower_slope.abs(), lines.upper_slope.abs())


def _only_moves(node: BoundNode, roundings: Roundings) -> bool:
    """Whether forward bounds of a node are numbers of those of its inputs."""
    computes = roundings.forward or roundings.value or roundings.shift is not None
    return not (computes or node.is_activation)


def _is_plain_sum(node: BoundNode) -> bool:
    return isinstance(node, SumNode) and node.weight in (1, -1)


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    """Return values [B] so that they broadcast against [B, *shape]."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _shared_like(by: Tensor, like: Tensor) -> Tensor:
    """Return errors [B or 1, *shape], the largest of all images where `like` [1, *shape] is of all of them."""
    if len(by) == len(like):
        return by
    return by.amax(0, keepdim=True) if len(by) else torch.zeros_like(like)
