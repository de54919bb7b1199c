"""The node of a bound graph: what every layer must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lbp.errors import UnanalysedRoundingError
from lbp.linear import (
    Coefficients,
    ForwardBounds,
    InputWindows,
    Interval,
    ReceptiveField,
    WindowRows,
)
from lbp.ops.outward_intervals import Widening, join_interval, split_interval
from lbp.rounding import EXACT, Roundings, magnitude_of

BackwardStep = tuple[tuple[Coefficients | WindowRows, ...], Tensor | None]
"""Coefficients of every input of a node, and the constants float64 that the node adds (None: none).

Constants are [K, B, S], or [K, R] where the coefficients are windows of R rows.
"""


Ends = tuple[Tensor | None, Tensor]
"""Bounds of numbers, None for lower ones where the numbers are not negative."""


@dataclass(frozen=True)
class Relaxations:
    """How activations are to be enclosed by lines.

    Attributes:
        strategy: name of the bounding-line strategy, as `lbp.ops.bounding_lines` takes it.
        sides: sides that the coefficients hold: "lower", "upper" or "both".
        bounds: pre-activation bounds known so far.
        margins: returns by how much the lines of a ramp move outward in back-substitution, as keywords of the
            relaxation ops; None: not at all.
    """

    strategy: str
    sides: str = "both"
    bounds: Mapping[BoundNode, Interval] = field(default_factory=dict)
    margins: Callable[[BoundNode], dict[str, Tensor]] | None = None

    def before(self, activation: BoundNode) -> Interval:
        """Return the bounds [B, *shape] of an activation's input."""
        return self.bounds[activation.inputs[0]]


class BoundNode(ABC):
    """One operation of the network, with its three kinds of bounds.

    Attributes:
        name: the module's path in the model, or the name that the trace gave to a function call.
        inputs: nodes whose values it takes.
        shape: shape of its value without the batch dimension.
        lower, upper: bounds [B, *shape] that the latest `compute_bounds` left, of the input, the output and all
            pre-activations that it bounded; None elsewhere, as a rule.
    """

    is_activation = False
    """Whether lines enclose it, so that bounds of its input must be known first."""

    acts_per_neuron = False
    """Whether each output neuron depends linearly on one input neuron, and no two on the same."""

    takes_windows = False
    """Whether `backward_linear` takes rows as windows; otherwise they come as matrices of the whole layer."""

    mixes = True
    """Whether an output neuron can depend on several input neurons."""

    def __init__(self, name: str, inputs: tuple[BoundNode, ...], shape: tuple[int, ...]) -> None:
        self.name = name
        self.inputs = inputs
        self.shape = shape
        self.lower: Tensor | None = None
        self.upper: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of neurons."""
        count = 1
        for dim in self.shape:
            count *= dim
        return count

    @property
    def is_nonnegative(self) -> bool:
        """Whether it is certain that none of its numbers is below 0."""
        return False

    def receptive_field(self) -> ReceptiveField | None:
        """Return which window of its inputs, all of one size, a neuron reads; None: anything."""
        return None

    def windows_above(self, *inputs: InputWindows | None) -> InputWindows | None:
        """Return the windows of forward bounds of this node, given those of its inputs.

        None stands for dense matrices, which every node can take and give.
        """
        return None

    @abstractmethod
    def interval(self, *inputs: Interval) -> Interval:
        """Return bounds [B, *shape] from bounds of the inputs (interval bound propagation)."""

    @property
    def interval_steps(self) -> tuple[BoundNode, ...]:
        """The nodes that intervals pass one after the other, where each step rounds outward by itself."""
        return (self,)

    @property
    def evaluation_steps(self) -> tuple[BoundNode, ...]:
        """The nodes that a run of the network computes one after the other, each with its own value."""
        return (self,)

    @abstractmethod
    def forward_linear(self, *inputs: ForwardBounds, relaxations: Relaxations) -> ForwardBounds:
        """Return linear bounds in terms of the network's input from those of the inputs."""

    @abstractmethod
    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        """Return coefficients of the inputs from coefficients of the output (back-substitution)."""

    def bytes_in_step(self, itemsize: int) -> int:
        """Return the bytes that a step of back-substitution takes beside the rows, per neuron of a row."""
        return 0

    def numbers_in_forward_step(self) -> int:
        """Return how many rows of n0 numbers a step of forward bounds holds beside those that it reads and makes."""
        return 0

    def numbers_of_lines(self) -> int:
        """Return how many numbers are held, per image, while the lines that enclose the node are found."""
        return 0

    def roundings(self, dtype: torch.dtype) -> Roundings:
        """Return how often the node's present arithmetic rounds, for bounds that hold in floating point.

        Args:
            dtype: of the bounds.

        Raises:
            UnanalysedRoundingError: nobody has analysed this kind of node.
        """
        raise UnanalysedRoundingError(
            f"rounding: the rounding errors of {self.name!r} ({type(self).__name__}) are not analysed; use "
            "rounding='nearest', whose bounds may be wrong by rounding"
        )

    def evaluation_roundings(self, dtype: torch.dtype) -> Roundings:
        """Return how often a run of the network rounds here, in whatever way it computes the node's value.

        Args:
            dtype: of the run.

        Raises:
            UnanalysedRoundingError: nobody has analysed this kind of node.
        """
        return self.roundings(dtype)

    def outward_interval(
        self, *inputs: Interval, by: Widening, margin: Tensor, of_example: Tensor | None = None
    ) -> Interval:
        """Return what `interval` does over wider inputs, further apart, with long sums added up in blocks.

        Args:
            inputs: bounds of the inputs.
            by: how far each is widened.
            margin: broadcastable to [*shape], by which both bounds move outward. An infinite bound on the wrong side,
                as overflows leave it, becomes NaN.
            of_example: [B], by which the bounds of an example move outward besides; None: by nothing.
        """
        wider = [join_interval(*split_interval(lower, upper, by)) for lower, upper in inputs]
        lower, upper = self.interval(*wider)
        if of_example is not None:
            margin = margin + of_example.reshape(-1, *[1] * len(self.shape))
        lower, upper = lower - margin, upper + margin
        return lower.masked_fill(lower == torch.inf, torch.nan), upper.masked_fill(upper == -torch.inf, torch.nan)

    def forward_terms(self, *inputs: ForwardBounds) -> int:
        """Return how often an entry of `short_forward_linear` rounds, given the forward bounds of the inputs."""
        roundings = self.roundings(inputs[0].center.dtype)
        return roundings.forward + roundings.value

    def short_forward_linear(self, *inputs: ForwardBounds, relaxations: Relaxations) -> ForwardBounds:
        """Return what `forward_linear` does, with long sums added up in blocks, so that they round less."""
        return self.forward_linear(*inputs, relaxations=relaxations)

    def magnitude(self, *inputs: Tensor) -> Tensor:
        """Return `|W| m` [B, *shape], computed to nearest, for magnitudes m >= 0 of the inputs.

        The node's value over all inputs of magnitude at most m lies within that of its value b at 0.
        """
        lower, upper = self.interval(*((-m, m) for m in inputs))
        return (upper - lower) / 2

    def weight_sums(self) -> tuple[Tensor, ...]:
        """Return the few numbers of the weights that `magnitude_at_most` is found from."""
        return ()

    def magnitude_at_most(self, *inputs: Ends, sums: tuple[Tensor, ...]) -> Tensor:
        """Return a bound of `magnitude`, broadcastable to it, for what reading weights and inputs once costs.

        Args:
            inputs: bounds of the inputs, as `magnitude_of` takes them.
            sums: what `weight_sums` returns.
        """
        return self.magnitude(*map(magnitude_of, inputs))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, shape={list(self.shape)})"


class InputNode(BoundNode):
    """The network's input; the methods start or end there and never ask it for a step."""

    mixes = False

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        super().__init__(name, (), shape)

    def interval(self, *inputs: Interval) -> Interval:
        raise AssertionError("bounds of the input come from the region")

    def roundings(self, dtype: torch.dtype) -> Roundings:
        return EXACT

    def forward_linear(self, *inputs: ForwardBounds, relaxations: Relaxations) -> ForwardBounds:
        raise AssertionError("forward bounds of the input are the identity")

    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        raise AssertionError("back-substitution ends at the input")
