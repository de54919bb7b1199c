"""Max pooling, enclosed by one line from below and one from above."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lbp.graph.average_pool import image_source
from lbp.graph.base import BackwardStep, BoundNode, Relaxations
from lbp.graph.conv import Pair, pair
from lbp.graph.registry import REQUIRED, Call, for_functions, for_modules
from lbp.linear import (
    Coefficients,
    DenseCoefficients,
    ForwardBounds,
    Interval,
    ReceptiveField,
    WindowRows,
    add_constants,
    layer_of,
    to_dense,
    to_windows,
    window_of,
)
from lbp.ops.window_places import gather_windows
from lbp.rounding import Roundings
from lbp.strategies import side_names


class PoolLines(NamedTuple):
    """Bounding lines of every window, each [B, C, outputs]; both lines read the same chosen input.

    Attributes:
        chosen: position on the padded image of the input with the largest lower bound.
        lower_slope, lower_intercept: 1 and 0: the chosen input itself is below the maximum.
        upper_slope, upper_intercept: 1 and 0 where no other input of the window can exceed the chosen one, else 0 and
            the largest upper bound.
    """

    chosen: Tensor
    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor


class MaxPool2dNode(BoundNode):
    """The largest value of every window, enclosed by `PoolLines`; with the strategy "constant" by two constants.

    Attributes:
        kernel, stride, padding, dilation: of the windows.
        ceil_mode: whether windows may stand over the right and lower edge.
    """

    is_activation = True
    takes_windows = True

    def __init__(
        self,
        name: str,
        source: BoundNode,
        shape: tuple[int, ...],
        *,
        kernel: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        ceil_mode: bool,
    ) -> None:
        super().__init__(name, (source,), shape)
        self.kernel, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation
        self.ceil_mode = ceil_mode
        # The padded image holds every position that a window reads, also beyond the padding in ceil mode.
        height, width = (
            max((shape[1 + i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1, source.shape[1 + i] + padding[i])
            for i in range(2)
        )
        self.margins = (
            padding[1],
            width - source.shape[2] - padding[1],
            padding[0],
            height - source.shape[1] - padding[0],
        )
        self.padded = (height, width)
        self._windows = self._window_positions()

    def receptive_field(self) -> ReceptiveField | None:
        return ReceptiveField.of_kernel(self.kernel, stride=self.stride, padding=self.padding, dilation=self.dilation)

    def bytes_in_step(self, itemsize: int) -> int:
        # Two positions, the index by which values are gathered, and five values.
        return 24 + 5 * itemsize

    def numbers_in_forward_step(self) -> int:
        # One side of the image, that side with its padding, and three times what is picked of it.
        return self.inputs[0].size + self.inputs[0].shape[0] * self.padded[0] * self.padded[1] + 3 * self.size

    def numbers_of_lines(self) -> int:
        # Both bounds of every tap, and a copy of one of them.
        return (3 * self.kernel[0] * self.kernel[1] + 10) * self.size

    @property
    def pre_activation(self) -> BoundNode:
        """The node whose value is pooled; after `compute_bounds` it has `.lower` and `.upper`."""
        return self.inputs[0]

    def interval(self, *inputs: Interval) -> Interval:
        lower, upper = (
            functional.max_pool2d(values, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)
            for values in inputs[0]
        )
        return lower, upper

    def roundings(self, dtype: torch.dtype) -> Roundings:
        # A pixel may be the chosen one of every window that reads it.
        overlap = [-(-self.kernel[i] // self.stride[i]) if self.dilation[i] == 1 else self.kernel[i] for i in range(2)]
        return Roundings(backward=overlap[0] * overlap[1])

    def magnitude(self, *inputs: Tensor) -> Tensor:
        return functional.max_pool2d(inputs[0], self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)

    def forward_linear(self, *inputs: ForwardBounds, relaxations: Relaxations) -> ForwardBounds:
        b = inputs[0].dense()
        lines = self._lines(relaxations)
        low_rows, low_bias = self._followed(
            b.center - b.radius_or_zero, b.center_bias - b.radius_bias_or_zero, lines.chosen, *lines[1:3]
        )
        high_rows, high_bias = self._followed(
            b.center + b.radius_or_zero, b.center_bias + b.radius_bias_or_zero, lines.chosen, *lines[3:5]
        )
        return ForwardBounds(
            (high_rows + low_rows) / 2,
            (high_rows - low_rows) / 2,
            (high_bias + low_bias) / 2,
            (high_bias - low_bias) / 2,
        )

    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        lines = self._lines(relaxations)
        if isinstance(coefficients, WindowRows):
            return self._backward_windows(coefficients, lines, relaxations.sides)
        dense, constants = to_dense(coefficients)
        A = dense.expanded(relaxations.sides, lines.chosen.shape[0]).flatten(4)
        chosen, *line = (value.unsqueeze(1) for value in lines)  # [B, 1, C, outputs]
        below, above = line[:2], line[2:]
        relaxed, intercepts = [], []
        for side_coefficients, side in zip(A, side_names(relaxations.sides), strict=True):
            at_positive, at_negative = (below, above) if side == "lower" else (above, below)
            positive = side_coefficients >= 0
            relaxed.append(side_coefficients * torch.where(positive, at_positive[0], at_negative[0]))
            intercepts.append(side_coefficients * torch.where(positive, at_positive[1], at_negative[1]))
        columns = torch.stack(relaxed)
        padded = columns.new_zeros(*A.shape[:4], self.padded[0] * self.padded[1])
        padded = padded.scatter_add(-1, chosen.expand(columns.shape), columns)
        cropped = functional.pad(padded.unflatten(-1, self.padded), [-margin for margin in self.margins])
        added = torch.stack(intercepts).flatten(3).sum(-1, dtype=torch.float64)
        return (DenseCoefficients(cropped),), add_constants(constants, added)

    def _backward_windows(self, rows: WindowRows, lines: PoolLines, sides: str) -> BackwardStep:
        windows, constants = to_windows(rows)
        field = windows.field_below(self.receptive_field())
        source = layer_of(self.inputs[0].shape)
        window, corners = window_of(field, source), windows.corners(field, source)
        old, places = windows.A.shape[2:4], windows.rows()

        def seen(values: Tensor) -> Tensor:  # [R, height, width, C]
            return gather_windows(values.unflatten(-1, self.shape[1:]), places, (old[0], old[1]))

        to = self._places_in_windows(seen(lines.chosen), corners, window).flatten(1, 2)
        both = windows.taken().expand(len(side_names(sides)), *[-1] * 4)
        below, above = (lines[1], lines[2]), (lines[3], lines[4])
        pixels, added = [], []
        for A, side in zip(both, side_names(sides), strict=True):
            at_positive, at_negative = (below, above) if side == "lower" else (above, below)
            relaxed, intercepts = (
                A * torch.where(A >= 0, seen(positive), seen(negative))
                for positive, negative in zip(at_positive, at_negative, strict=True)
            )
            added.append(intercepts.flatten(1).sum(-1, dtype=torch.float64))
            empty = relaxed.new_zeros(len(places), window[0] * window[1], source[0])
            pixels.append(empty.scatter_add(1, to, relaxed.flatten(1, 2)))
        A = torch.stack(pixels).unflatten(2, window)
        return (windows.stepped(A, field, self.inputs[0].shape),), add_constants(constants, torch.stack(added))

    def _places_in_windows(self, chosen: Tensor, corners: Tensor, window: Pair) -> Tensor:
        """Return where positions on the padded image, [R, height, width, C], stand in the windows of the rows.

        They are changed in place. A line that is NaN may have chosen a position over the padding.
        """
        first_row, first_column = (corners[:, i].reshape(-1, 1, 1, 1) for i in range(2))
        row = (chosen // self.padded[1]).sub_(self.margins[2] + first_row).clamp_(0, window[0] - 1).mul_(window[1])
        column = chosen.remainder_(self.padded[1]).sub_(self.margins[0] + first_column).clamp_(0, window[1] - 1)
        return column.add_(row)

    def _lines(self, relaxations: Relaxations) -> PoolLines:
        lower, upper = (
            functional.pad(values, self.margins, value=-torch.inf).flatten(2)[:, :, self._windows_on(values.device)]
            for values in relaxations.before(self)
        )  # [B, C, outputs, taps]
        best = lower.argmax(-1, keepdim=True)
        largest_lower = lower.gather(-1, best).squeeze(-1)
        largest_other = upper.scatter(-1, best, -torch.inf).amax(-1)
        windows = self._windows_on(lower.device).expand(*lower.shape)
        chosen = windows.gather(-1, best).squeeze(-1)
        # A NaN or unbounded input below leaves no line to trust: the bound must become NaN.
        broken = (lower.isnan() | upper.isnan()).any(-1) | largest_lower.isinf()
        zero = torch.zeros_like(largest_lower).masked_fill(broken, torch.nan)
        one = torch.ones_like(largest_lower)
        if relaxations.strategy == "constant":
            return PoolLines(chosen, 0 * one, largest_lower + zero, 0 * one, upper.amax(-1) + zero)
        dominates = largest_lower >= largest_other
        upper_intercept = torch.where(dominates, zero, upper.amax(-1) + zero)
        return PoolLines(chosen, one, zero, dominates.to(one.dtype), upper_intercept)

    def _followed(
        self, rows: Tensor, bias: Tensor, chosen: Tensor, slope: Tensor, intercept: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return rows [B, n0, *shape] and constants [B, *shape] of a line over rows and constants of the input."""
        picked_rows = self._picked(rows, chosen.unsqueeze(1)) * slope.unsqueeze(1)
        picked_bias = self._picked(bias, chosen) * slope + intercept
        return picked_rows.unflatten(-1, self.shape[1:]), picked_bias.unflatten(-1, self.shape[1:])

    def _picked(self, values: Tensor, chosen: Tensor) -> Tensor:
        flat = functional.pad(values, self.margins).flatten(-2)
        lead = torch.broadcast_shapes(flat.shape[:-1], chosen.shape[:-1])
        return flat.expand(*lead, flat.shape[-1]).gather(-1, chosen.expand(*lead, chosen.shape[-1]))

    def _windows_on(self, device: torch.device) -> Tensor:
        self._windows = self._windows.to(device)
        return self._windows

    def has_empty_windows(self) -> bool:
        """Whether a window reads nothing of the image."""

        def reads(axis: int, start: int) -> bool:
            first = start * self.stride[axis] - self.padding[axis]
            taps = range(first, first + self.kernel[axis] * self.dilation[axis], self.dilation[axis])
            return any(0 <= tap < self.inputs[0].shape[1 + axis] for tap in taps)

        return not all(reads(axis, start) for axis in range(2) for start in range(self.shape[1 + axis]))

    def _window_positions(self) -> Tensor:
        """Return the flat positions [outputs, taps] on the padded image that every window reads."""
        starts = [torch.arange(self.shape[1 + i], device="cpu") * self.stride[i] for i in range(2)]
        taps = [torch.arange(self.kernel[i], device="cpu") * self.dilation[i] for i in range(2)]
        rows = starts[0].reshape(-1, 1, 1, 1) + taps[0].reshape(1, 1, -1, 1)
        columns = starts[1].reshape(1, -1, 1, 1) + taps[1].reshape(1, 1, 1, -1)
        return (rows * self.padded[1] + columns).flatten(2).flatten(0, 1)


def make_max_pool(
    call: Call, name: str, source: BoundNode, shape: tuple[int, ...], options: dict[str, Any]
) -> BoundNode:
    """Return the node of max pooling.

    Args:
        call: for messages.
        name: of the node.
        source: the image.
        shape: of the result.
        options: as `nn.MaxPool2d` takes them.
    """
    if options["return_indices"]:
        raise call.refuse("returns indices")
    kernel = pair(options["kernel_size"])
    node = MaxPool2dNode(
        name,
        source,
        shape,
        kernel=kernel,
        stride=kernel if options["stride"] in (None, [], ()) else pair(options["stride"]),
        padding=pair(options["padding"]),
        dilation=pair(options["dilation"]),
        ceil_mode=options["ceil_mode"],
    )
    if node.has_empty_windows():
        raise call.refuse(
            f"has windows wholly on its padding, of which the maximum is -inf (kernel_size={node.kernel}, "
            f"stride={node.stride}, padding={node.padding}, dilation={node.dilation}, on {list(source.shape)})"
        )
    return node


@for_modules(nn.MaxPool2d)
def _max_pool_module(call: Call) -> BoundNode:
    keys = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    options = {key: getattr(call.module, key) for key in keys}
    return make_max_pool(call, call.name, image_source(call, call.operand()), call.shape, options)


@for_functions(functional.max_pool2d, torch.max_pool2d)
def _max_pool_function(call: Call) -> BoundNode:
    operand, options = function_options(call)
    return make_max_pool(call, call.name, image_source(call, operand), call.shape, options)


def function_options(call: Call) -> tuple[Any, dict[str, Any]]:
    """Return the operand and the options of a call of a max pooling function of one or two dimensions."""
    args = call.bind(
        input=REQUIRED,
        kernel_size=REQUIRED,
        stride=None,
        padding=0,
        dilation=1,
        ceil_mode=False,
        return_indices=False,
    )
    operand = args.pop("input")
    return operand, {key: call.static(value) for key, value in args.items()}
