"""Operations that move neurons without computing: reshaping, permuting, padding, expanding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lbp.graph.base import BackwardStep, BoundNode, Relaxations
from lbp.graph.registry import REQUIRED, Call, for_functions, for_modules
from lbp.graph.window_steps import through_padding, through_reshape
from lbp.linear import (
    Coefficients,
    DenseCoefficients,
    ForwardBounds,
    IdentityCoefficients,
    InputWindows,
    Interval,
    ReceptiveField,
    WindowRows,
    to_dense,
)
from lbp.rounding import EXACT, Roundings


class MoveNode(BoundNode):
    """A node whose value holds the input's neurons in another arrangement."""

    acts_per_neuron = True
    mixes = False

    @property
    def is_nonnegative(self) -> bool:
        return self.inputs[0].is_nonnegative

    def move(self, values: Tensor, lead: int) -> Tensor:
        """Rearrange values [*lead dimensions, *input shape]."""
        raise NotImplementedError

    def move_back(self, A: Tensor) -> Tensor:
        """Rearrange coefficients [K, B, S, *shape] to [K, B, S, *input shape]."""
        raise NotImplementedError

    def interval(self, *inputs: Interval) -> Interval:
        lower, upper = inputs[0]
        return self.move(lower, 1), self.move(upper, 1)

    def roundings(self, dtype: torch.dtype) -> Roundings:
        return EXACT

    def magnitude(self, *inputs: Tensor) -> Tensor:
        return self.move(inputs[0], 1)

    def forward_linear(self, *inputs: ForwardBounds, relaxations: Relaxations) -> ForwardBounds:
        b = inputs[0]
        windows = self.windows_above(b.windows)
        if windows is None:
            b = b.dense()
        return ForwardBounds(
            self.move(b.center, 2),
            None if b.radius is None else self.move(b.radius, 2),
            self.move(b.center_bias, 1),
            None if b.radius_bias is None else self.move(b.radius_bias, 1),
            windows,
        )

    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        assert not isinstance(coefficients, WindowRows)
        dense, constants = to_dense(coefficients)
        return (DenseCoefficients(self.move_back(dense.A)),), constants


class ReshapeNode(MoveNode):
    """The same neurons in another shape; the batch stays first."""

    takes_windows = True

    def __init__(self, name: str, source: BoundNode, shape: tuple[int, ...]) -> None:
        super().__init__(name, (source,), shape)

    def receptive_field(self) -> ReceptiveField | None:
        return ReceptiveField.identity() if self.shape == self.inputs[0].shape else None

    def move(self, values: Tensor, lead: int) -> Tensor:
        return values.reshape(*values.shape[:lead], *self.shape)

    def move_back(self, A: Tensor) -> Tensor:
        return A.reshape(*A.shape[:3], *self.inputs[0].shape)

    def windows_above(self, *inputs: InputWindows | None) -> InputWindows | None:
        return inputs[0]

    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        if isinstance(coefficients, WindowRows):
            return through_reshape(coefficients, self.inputs[0].shape)
        if isinstance(coefficients, IdentityCoefficients):
            start, stop = coefficients.start, coefficients.stop
            shape = self.inputs[0].shape
            return (IdentityCoefficients(shape, start, stop, coefficients.dtype, coefficients.device),), None
        return super().backward_linear(coefficients, relaxations)


class PermuteNode(MoveNode):
    """The dimensions of every example in another order.

    Attributes:
        order: input dimension, not counting the batch, of each output dimension.
    """

    def __init__(self, name: str, source: BoundNode, order: tuple[int, ...]) -> None:
        super().__init__(name, (source,), tuple(source.shape[dim] for dim in order))
        self.order = order

    def move(self, values: Tensor, lead: int) -> Tensor:
        return values.permute(*range(lead), *(lead + dim for dim in self.order))

    def move_back(self, A: Tensor) -> Tensor:
        back = [self.order.index(dim) for dim in range(len(self.order))]
        return A.permute(0, 1, 2, *(3 + dim for dim in back))


class ZeroPadNode(MoveNode):
    """Zeros around the last two dimensions, and channels of zeros.

    Attributes:
        padding: left, right, top, bottom, and channels in front and behind.
    """

    def __init__(
        self, name: str, source: BoundNode, image: tuple[int, int, int, int], channels: tuple[int, int] = (0, 0)
    ) -> None:
        left, right, top, bottom = image
        *others, height, width = source.shape
        if any(channels):
            others[-1] += sum(channels)
        super().__init__(name, (source,), (*others, height + top + bottom, width + left + right))
        self.padding = (*image, *channels) if any(channels) else image
        self._channels = channels
        self.takes_windows = len(self.shape) == 3

    def receptive_field(self) -> ReceptiveField | None:
        left, _, top, *_ = self.padding
        return ReceptiveField.of_kernel((1, 1), padding=(top, left)) if self.takes_windows else None

    def move(self, values: Tensor, lead: int) -> Tensor:
        return functional.pad(values, self.padding)

    def move_back(self, A: Tensor) -> Tensor:
        return functional.pad(A, [-amount for amount in self.padding])

    def windows_above(self, *inputs: InputWindows | None) -> InputWindows | None:
        left, _, top, *_ = self.padding
        (windows,) = inputs
        if windows is None or windows.layer != self.inputs[0].shape:
            return None
        channels, rows, columns = self.shape
        return windows.padded(top, left, (channels, rows, columns))

    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        if isinstance(coefficients, WindowRows):
            left, _, top, *_ = self.padding
            first, field = self._channels[0], self.receptive_field()
            return through_padding(coefficients, field, (top, left), self.inputs[0].shape, first)
        return super().backward_linear(coefficients, relaxations)


class ExpandNode(MoveNode):
    """Dimensions of size 1 repeated, as broadcasting does; several neurons then hold the same value."""

    acts_per_neuron = False

    def __init__(self, name: str, source: BoundNode, shape: tuple[int, ...]) -> None:
        super().__init__(name, (source,), shape)

    def move(self, values: Tensor, lead: int) -> Tensor:
        return values.expand(*values.shape[:lead], *self.shape)

    def roundings(self, dtype: torch.dtype) -> Roundings:
        return Roundings(backward=self.size // self.inputs[0].size if self.size else 0)

    def move_back(self, A: Tensor) -> Tensor:
        repeated = [3 + i for i, dim in enumerate(self.inputs[0].shape) if dim == 1 and self.shape[i] != 1]
        return A.sum(repeated, keepdim=True) if repeated else A


def expand_to(call: Call, source: BoundNode, shape: tuple[int, ...], name: str = "") -> BoundNode:
    """Return the node broadcast to a shape, or the node itself when it has that shape already."""
    if source.shape == shape:
        return source
    if len(source.shape) != len(shape):
        raise call.refuse(
            f"broadcasts between tensors with different numbers of dimensions ({list(source.shape)} and {list(shape)} "
            "without the batch); insert the missing dimensions explicitly"
        )
    return ExpandNode(name or f"{call.name}/{source.name}", source, shape)


@for_modules(nn.Flatten, nn.Unflatten)
@for_functions(torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.unflatten)
@for_functions("flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten", "squeeze_", "unsqueeze_")
def _reshape(call: Call) -> BoundNode:
    return ReshapeNode(call.name, call.node(call.operand()), call.shape)


@for_modules(nn.Identity)
@for_functions("contiguous", "clone", torch.clone)
def _identity(call: Call) -> BoundNode:
    return call.node(call.operand())


@for_functions(torch.permute, "permute")
def _permute(call: Call) -> BoundNode:
    many = call.arguments()[1:]
    dims = call.static(many if len(many) > 1 else call.bind(input=REQUIRED, dims=REQUIRED)["dims"])
    return _permuted(call, [dims] if isinstance(dims, int) else list(dims))


@for_functions(torch.transpose, torch.swapaxes, torch.swapdims, "transpose", "swapaxes", "swapdims")
def _transpose(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, dim0=REQUIRED, dim1=REQUIRED)
    order = list(range(call.rank_of(args["input"])))
    first, second = call.static(args["dim0"]), call.static(args["dim1"])
    order[first], order[second] = order[second], order[first]
    return _permuted(call, order)


def _permuted(call: Call, order: list[int]) -> BoundNode:
    source, count = call.node(call.operand()), call.rank_of(call.operand())
    batch, *others = (dim % count for dim in order)
    if batch != 0:
        raise call.refuse("moves the batch dimension, which must stay first")
    # A number per example has no other dimension that could move.
    return PermuteNode(call.name, source, tuple(dim - 1 for dim in others)) if others else source


@for_functions("expand", "expand_as", torch.broadcast_to, "broadcast_to")
def _expand(call: Call) -> BoundNode:
    return expand_to(call, call.node(call.operand()), call.shape, call.name)
