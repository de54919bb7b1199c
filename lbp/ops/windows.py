"""Back-substitution on windows: each row of coefficients holds the part of a convolutional layer that it depends on.

A is [K, sources, height, width, C], channels last. `rows` int64 [R, 4] says of every row which source of A holds its
numbers, which image it bounds, and the first row and column of its window. Windows lie inside the layer; several rows
may share a source, so that the kernel of a convolution serves the neurons of all positions and images. Results hold one
source per row, in order.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lbp import _native, reference
from lbp.backend import current_backend
from lbp.ops._arguments import (
    RELAXATION_LENGTH,
    RelaxationArguments,
    check_given,
    check_numbers,
    named_lines,
    native,
    needed_gradients,
    per_neuron,
    relaxation_arguments,
    relaxation_gradients,
    save_relaxation,
    saved_relaxation,
    sum_to,
)
from lbp.ops._convolution import Pair, convolution_gradients, convolve
from lbp.ops.concretize import checked_exponent, norm_and_slope, radius_tensor
from lbp.reference.bounding_lines import BoundingLines
from lbp.reference.windows import (
    gather_windows,
    in_order,
    move_windows,
    natural_windows,
    relax_windows_by_lines,
    window_places,
)
from lbp.strategies import side_code


def relax_windows(
    A: Tensor,
    rows: Tensor,
    l: Tensor,
    u: Tensor,
    *,
    sides: str,
    bias: Tensor | None = None,
    r: Tensor | float = math.inf,
    eta: Tensor | float = 0.0,
    strategy: str = "adaptive",
    lower_slope: Tensor | None = None,
    upper_slope: Tensor | None = None,
    lower_intercept: Tensor | None = None,
    upper_intercept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Push windowed coefficients through an activation; see `lbp.ops.relax_backward`.

    Args:
        A: [K, sources, height, width, C] of the activations; K = 2 for ``sides="both"``, else 1, and may be expanded.
        rows: int64 [R, 4]: source, image, first row and column of the window.
        l: lower bounds of the pre-activations [B, C, h, w].
        u: upper bounds, like l.
        sides: ``"lower"``, ``"upper"`` or ``"both"``.
        bias: bias of the affine layer below, broadcastable to [C, h, w]: the sum of `A' bias` joins the constants.
        r: see `lbp.ops.ramp`.
        eta: see `lbp.ops.ramp`.
        strategy: see `lbp.ops.bounding_lines`, as the following.
        lower_slope: see `lbp.ops.bounding_lines`.
        upper_slope: see `lbp.ops.bounding_lines`.
        lower_intercept: see `lbp.ops.bounding_lines`.
        upper_intercept: see `lbp.ops.bounding_lines`.

    Returns:
        `A'` [K, R, height, width, C] and the constants contributed [K, R], float64. Differentiable with respect to A,
        l, u, r, bias and given lines.

    Raises:
        ValueError: see `lbp.ops.relax_backward`.
        RuntimeError: shapes, dtypes or devices that do not fit, or a window outside the layer.
    """
    check_numbers(r, eta)
    side_code(sides)
    given = (lower_slope, upper_slope, lower_intercept, upper_intercept)
    check_given(strategy, *given)
    if current_backend() == "reference":
        named = named_lines(*given)
        return reference.relax_windows(A, rows, l, u, sides=sides, bias=bias, r=r, eta=eta, strategy=strategy, **named)
    arguments = relaxation_arguments(l, u, r, eta, strategy, *given)
    offset = None if bias is None else per_neuron(bias, "bias", l.shape[1:])
    relaxed, constants = native("relax_windows")(A, rows, *arguments, offset, side_code(sides))
    return relaxed, constants


def relax_backward_conv2d_windows(
    A: Tensor,
    rows: Tensor,
    l: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    corners: Tensor,
    window: Pair,
    *,
    sides: str,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    r: Tensor | float = math.inf,
    eta: Tensor | float = 0.0,
    strategy: str = "adaptive",
    lower_slope: Tensor | None = None,
    upper_slope: Tensor | None = None,
    lower_intercept: Tensor | None = None,
    upper_intercept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Push windowed coefficients through an activation and the Conv2d layer below it.

    On the CPU one kernel does both: the relaxed coefficients of a few rows stay in the cache, and pixels that are zero
    in all of them are skipped.

    Args:
        A: see `relax_windows`, as the following.
        rows: int64 [R, 4].
        l: [B, C, h, w].
        u: like l.
        weight: [C, C_in / groups, kernel height, kernel width].
        bias: [C] or None.
        corners: int64 [R, 2], first row and column of every row's window of the convolution's input.
        window: rows and columns of those windows; what a row has outside its window is dropped.
        sides: see `relax_windows`.
        stride: see `lbp.ops.interval_conv2d`, as the following.
        padding: see `lbp.ops.interval_conv2d`.
        dilation: see `lbp.ops.interval_conv2d`.
        groups: see `lbp.ops.interval_conv2d`.
        r: see `lbp.ops.ramp`.
        eta: see `lbp.ops.ramp`.
        strategy: see `lbp.ops.bounding_lines`, as the following.
        lower_slope: see `lbp.ops.bounding_lines`.
        upper_slope: see `lbp.ops.bounding_lines`.
        lower_intercept: see `lbp.ops.bounding_lines`.
        upper_intercept: see `lbp.ops.bounding_lines`.

    Returns:
        Coefficients [K, R, *window, C_in] of the convolution's input and the constants contributed [K, R], float64.

    Raises:
        ValueError: see `lbp.ops.relax_backward`.
        RuntimeError: shapes, dtypes or devices that do not fit, or a window outside the layer.
    """
    check_numbers(r, eta)
    given = (lower_slope, upper_slope, lower_intercept, upper_intercept)
    check_given(strategy, *given)
    if current_backend() == "reference":
        named = named_lines(*given)
        named |= {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        named |= {"r": r, "eta": eta, "strategy": strategy}
        return reference.relax_backward_conv2d_windows(
            A, rows, l, u, weight, bias, corners, window, sides=sides, **named
        )
    arguments = relaxation_arguments(l, u, r, eta, strategy, *given)
    coefficients, constants = native("relax_backward_conv2d_windows")(
        A, rows, *arguments, weight, bias, corners, window, stride, padding, dilation, groups, side_code(sides)
    )
    return coefficients, constants


def backward_conv2d_windows(
    A: Tensor,
    rows: Tensor,
    layer: Pair,
    weight: Tensor,
    bias: Tensor | None,
    corners: Tensor,
    window: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Push windowed coefficients through a Conv2d layer; see `relax_backward_conv2d_windows`.

    Args:
        A: [K, sources, height, width, C].
        rows: int64 [R, 4]; the images do not matter.
        layer: rows and columns of the convolution's output, in which the windows lie.
        weight: see `relax_backward_conv2d_windows`, as the following.
        bias: [C] or None.
        corners: int64 [R, 2].
        window: rows and columns.
        stride: see `lbp.ops.interval_conv2d`, as the following.
        padding: see `lbp.ops.interval_conv2d`.
        dilation: see `lbp.ops.interval_conv2d`.
        groups: see `lbp.ops.interval_conv2d`.

    Returns:
        Coefficients [K, R, *window, C_in] and the constants [K, R], float64.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit, or a window outside the layer.
    """
    if current_backend() == "reference":
        geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        return reference.backward_conv2d_windows(
            A, rows, layer, weight, bias, corners, window, groups=groups, **geometry
        )
    coefficients, constants = native("backward_conv2d_windows")(
        A, rows, layer, weight, bias, corners, window, stride, padding, dilation, groups
    )
    return coefficients, constants


def concretize_windows_box(A: Tensor, rows: Tensor, x_L: Tensor, x_U: Tensor, *, sides: str) -> Tensor:
    """Extreme values of windowed rows over a box; see `lbp.ops.concretize_box`.

    Args:
        A: [K, sources, height, width, C].
        rows: int64 [R, 4]; see `relax_windows`.
        x_L: lower corner [B, C, h, w].
        x_U: upper corner, like x_L.
        sides: ``"lower"``, ``"upper"`` or ``"both"``.

    Returns:
        Bounds [K, R] without the constants of the linear bounds, float64. Differentiable with respect to A, x_L and
        x_U.

    Raises:
        ValueError: unknown sides.
        RuntimeError: shapes, dtypes or devices that do not fit, or a window outside the layer.
    """
    code = side_code(sides)
    if current_backend() == "reference":
        return reference.concretize_windows_box(A, rows, x_L, x_U, sides=sides)
    low, high = x_L.movedim(1, -1), x_U.movedim(1, -1)
    result: Tensor = native("concretize_windows")(A, rows, low, high, None, math.inf, code)
    return result


def concretize_windows_ball(
    A: Tensor, rows: Tensor, x0: Tensor, eps: Tensor | float, p: float, *, sides: str
) -> Tensor:
    """Extreme values of windowed rows over an l_p ball; see `lbp.ops.concretize_ball`.

    Args:
        A: [K, sources, height, width, C].
        rows: int64 [R, 4]; see `relax_windows`.
        x0: center [B, C, h, w].
        eps: radius, a number, or a tensor with one value or one per image.
        p: exponent of the norm, at least 1; may be infinite.
        sides: ``"lower"``, ``"upper"`` or ``"both"``.

    Returns:
        Bounds [K, R], float64. Differentiable with respect to A, x0 and eps.

    Raises:
        ValueError: p below 1, or unknown sides.
        RuntimeError: shapes, dtypes or devices that do not fit, or a window outside the layer.
    """
    code = side_code(sides)
    p = checked_exponent(p)
    if current_backend() == "reference":
        return reference.concretize_windows_ball(A, rows, x0, eps, p, sides=sides)
    result: Tensor = native("concretize_windows")(A, rows, x0.movedim(1, -1), None, radius_tensor(eps, A), p, code)
    return result


def _save_relax(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    A, rows, *relaxation = inputs[: 2 + RELAXATION_LENGTH]
    rest = inputs[2 + RELAXATION_LENGTH :]
    ctx.sides = rest[-1]
    if len(rest) == 2:
        save_relaxation(ctx, RelaxationArguments(*relaxation), A, rows, rest[0])
    else:
        weight, bias, corners, ctx.window, *convolution, _ = rest
        ctx.convolution = tuple(convolution)
        save_relaxation(ctx, RelaxationArguments(*relaxation), A, rows, bias, weight, corners)


def _relax_windows_backward(ctx: Any, relaxed: Tensor, constants: Tensor) -> tuple[Tensor | None, ...]:
    arguments, (A, rows, bias) = saved_relaxation(ctx)
    assert A is not None
    assert rows is not None
    gradients = _relaxation_backward(ctx, arguments, A, rows, bias, relaxed, constants)
    return gradients[0], None, *gradients[1], gradients[2], None


def _relaxation_backward(
    ctx: Any,
    arguments: RelaxationArguments,
    A: Tensor,
    rows: Tensor,
    bias: Tensor | None,
    to_relaxed: Tensor,
    to_constants: Tensor,
) -> tuple[Tensor | None, list[Tensor | None], Tensor | None]:
    """Return the gradients of A, of the relaxation's arguments and of the bias; the lines are computed again."""
    lines = native("bounding_lines")(*arguments)
    batch, channels, height, width = lines[0].shape
    window = (A.shape[2], A.shape[3])
    places = window_places(rows, (height, width), window)

    def at_neurons(values: Tensor) -> Tensor:
        total = values.new_zeros(batch * height * width, channels)
        total = total.index_add(0, places.flatten(), values.reshape(-1, channels))
        return total.reshape(batch, height, width, channels).movedim(-1, 1)

    seen = [gather_windows(line, rows, window) for line in lines]
    offset = None
    if bias is not None:
        offset = gather_windows(bias.expand(lines[0].shape[1:]).expand_as(lines[0]), rows, window)
    to_A = A.new_zeros(A.shape)
    # Gradients of lower_slope, lower_intercept, upper_slope, upper_intercept, and of the bias, seen by the windows.
    to_lines: list[Any] = [0.0] * 4
    to_bias: Any = 0.0
    for side in range(A.shape[0]):
        lower = ctx.sides == 1 or (ctx.sides == 3 and side == 0)
        below, above = (0, 2) if lower else (2, 0)
        a = A[side, rows[:, 0]]
        positive = a >= 0
        slope = torch.where(positive, seen[below], seen[above])
        intercept = torch.where(positive, seen[below + 1], seen[above + 1])
        weights = to_constants[side].to(A.dtype).reshape(-1, 1, 1, 1)
        to_value = to_relaxed[side] if offset is None else to_relaxed[side] + weights * offset
        to_A[side].index_add_(0, rows[:, 0], to_value * slope + weights * intercept)
        for shift, gradient in ((0, to_value * a), (1, weights * a)):
            zero = torch.zeros_like(gradient)
            to_lines[below + shift] = to_lines[below + shift] + torch.where(positive, gradient, zero)
            to_lines[above + shift] = to_lines[above + shift] + torch.where(positive, zero, gradient)
        to_bias = to_bias + weights * a * slope
    needs = needed_gradients(ctx.needs_input_grad, 2)
    planes = [at_neurons(gradient).contiguous() for gradient in to_lines]
    # The lines' batch may be larger than that of l and u; their gradients are summed back.
    to_relaxation = native("bounding_lines_gradient")(*planes, *arguments, needs)
    fitted = None if bias is None else sum_to(at_neurons(to_bias).sum(0), bias.shape)
    return to_A, relaxation_gradients(arguments, to_relaxation), fitted


def _relaxed_conv2d_backward(ctx: Any, coefficients: Tensor, constants: Tensor) -> tuple[Tensor | None, ...]:
    arguments, (A, rows, bias, weight, corners) = saved_relaxation(ctx)
    assert A is not None
    assert rows is not None
    assert weight is not None
    assert corners is not None
    relaxed, _ = native("relax_windows")(A, rows, *arguments, None, ctx.sides)
    to_relaxed, to_weight = _adjoint(ctx, relaxed, rows, weight, corners, coefficients)
    offset = None if bias is None else bias[:, None, None]
    to_A, to_relaxation, to_bias = _relaxation_backward(ctx, arguments, A, rows, offset, to_relaxed, constants)
    fitted = None if to_bias is None or bias is None else to_bias.reshape(bias.shape)
    return to_A, None, *to_relaxation, to_weight, fitted, *[None] * 7


def _adjoint(
    ctx: Any, taken: Tensor, rows: Tensor, weight: Tensor, corners: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of windows [K, R, height, width, C] and of the weight, from that of the result."""
    stride, padding, dilation, groups = ctx.convolution
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    natural, size = natural_windows(rows, (taken.shape[2], taken.shape[3]), weight, **geometry)
    images = move_windows(gradient, corners, natural, size).flatten(0, 1).movedim(-1, 1)
    unpadded = (stride, (0, 0), dilation, groups)
    to_taken = convolve(images, weight, unpadded).movedim(1, -1).reshape(taken.shape)
    outputs = taken.flatten(0, 1).movedim(-1, 1).contiguous()
    return to_taken, convolution_gradients(outputs, images, weight, unpadded, (False, True))[1]


def _save_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    A, rows, _, weight, bias, corners, ctx.window, *convolution = inputs
    ctx.convolution = tuple(convolution)
    ctx.save_for_backward(A, rows, weight, bias, corners)


def _conv2d_backward(ctx: Any, coefficients: Tensor, constants: Tensor) -> tuple[Tensor | None, ...]:
    A, rows, weight, bias, corners = ctx.saved_tensors
    taken = A[:, rows[:, 0]]
    to_taken, to_weight = _adjoint(ctx, taken, rows, weight, corners, coefficients)
    to_bias = None
    if bias is not None:
        weights = constants.to(A.dtype).reshape(*constants.shape, 1, 1, 1)
        to_taken = to_taken + weights * bias
        to_bias = (taken * weights).sum((0, 1, 2, 3))
    to_A = torch.zeros_like(A, memory_format=torch.contiguous_format).index_add(1, rows[:, 0], to_taken)
    return to_A, None, None, to_weight, to_bias, *[None] * 6


def _save_concretize(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    A, rows, x, x_U, eps, ctx.p, ctx.sides = inputs
    ctx.save_for_backward(A, rows, x, x_U, eps)


def _concretize_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    A, rows, x, x_U, eps = ctx.saved_tensors
    window = (A.shape[2], A.shape[3])
    batch, height, width, channels = x.shape
    places = window_places(rows, (height, width), window)

    def at_inputs(values: Tensor) -> Tensor:
        total = values.new_zeros(batch * height * width, channels)
        return total.index_add(0, places.flatten(), values.reshape(-1, channels)).reshape(x.shape).to(x.dtype)

    to_A = A.new_zeros(A.shape)
    to_x: Any = 0.0
    to_x_U: Any = 0.0
    to_radius: Any = 0.0
    point = gather_windows(x.movedim(-1, 1), rows, window).double()
    for side in range(A.shape[0]):
        lower = ctx.sides == 1 or (ctx.sides == 3 and side == 0)
        a = A[side, rows[:, 0]].double()
        weights = gradient[side].reshape(-1, 1, 1, 1)
        if x_U is not None:
            other = gather_windows(x_U.movedim(-1, 1), rows, window).double()
            at_low = (a >= 0) == lower
            extreme = torch.where(at_low, torch.minimum(point, other), torch.maximum(point, other))
            zero = torch.zeros_like(a)
            to_x = to_x + torch.where(at_low, weights * a, zero)
            to_x_U = to_x_U + torch.where(at_low, zero, weights * a)
            to_row = weights * extreme
        else:
            radius = eps.expand(batch)[rows[:, 1]] * (-1.0 if lower else 1.0)
            norm, slope = norm_and_slope(a.flatten(1), ctx.p, 1)
            to_row = weights * (point + radius.reshape(-1, 1, 1, 1) * slope.reshape(a.shape))
            to_x = to_x + weights * a
            to_radius = to_radius + gradient[side] * norm * (-1.0 if lower else 1.0)
        to_A[side].index_add_(0, rows[:, 0], to_row.to(A.dtype))
    if x_U is not None:
        return to_A, None, at_inputs(to_x), at_inputs(to_x_U), None, None, None
    to_eps = torch.zeros(batch, dtype=torch.float64, device=A.device).index_add(0, rows[:, 1], to_radius)
    return to_A, None, at_inputs(to_x), None, sum_to(to_eps, eps.shape), None, None


def _relax_windows_composite(A: Tensor, rows: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """What devices without a kernel of their own do: the library's tensor expressions around the device's lines."""
    relaxation, (bias, sides) = rest[:RELAXATION_LENGTH], rest[RELAXATION_LENGTH:]
    names = {1: "lower", 2: "upper", 3: "both"}
    lines = BoundingLines(*native("bounding_lines")(*relaxation))
    return relax_windows_by_lines(A, rows, lines, sides=names[sides], bias=bias)


def _conv2d_composite(
    A: Tensor, rows: Tensor, layer: Any, weight: Tensor, bias: Any, corners: Tensor, *rest: Any
) -> Any:
    window, stride, padding, dilation, groups = rest
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    coefficients, constants = reference.backward_conv2d_windows(
        A, rows, layer, weight, bias, corners, window, groups=groups, **geometry
    )
    return coefficients.contiguous(), constants


def _relaxed_conv2d_composite(A: Tensor, rows: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    relaxation = rest[:RELAXATION_LENGTH]
    weight, bias, corners, window, *convolution, sides = rest[RELAXATION_LENGTH:]
    offset = None if bias is None else bias[:, None, None]
    relaxed, constants = _relax_windows_composite(A, rows, *relaxation, offset, sides)
    layer = relaxation[0].shape[2:]
    result = _conv2d_composite(relaxed, in_order(rows), layer, weight, None, corners, window, *convolution)
    return result[0], constants


def _concretize_composite(A: Tensor, rows: Tensor, x: Tensor, x_U: Any, eps: Any, p: float, sides: int) -> Tensor:
    name = {1: "lower", 2: "upper", 3: "both"}[sides]
    low = x.movedim(-1, 1)
    if x_U is not None:
        return reference.concretize_windows_box(A, rows, low, x_U.movedim(-1, 1), sides=name)
    return reference.concretize_windows_ball(A, rows, low, eps, p, sides=name)


def _register() -> None:
    def relax_windows(A: Tensor, rows: Tensor, *rest: Any) -> Any:
        sizes = (A.shape[0], rows.shape[0])
        return A.new_empty((*sizes, *A.shape[2:])), A.new_empty(sizes, dtype=torch.float64)

    def convolved(A: Tensor, rows: Tensor, weight: Tensor, window: Any, groups: int) -> Any:
        sizes = (A.shape[0], rows.shape[0])
        coefficients = A.new_empty((*sizes, *window, weight.shape[1] * groups))
        return coefficients, A.new_empty(sizes, dtype=torch.float64)

    def relax_backward_conv2d_windows(A: Tensor, rows: Tensor, *rest: Any) -> Any:
        weight, _, _, window, *_, groups, _ = rest[RELAXATION_LENGTH:]
        return convolved(A, rows, weight, window, groups)

    def backward_conv2d_windows(A: Tensor, rows: Tensor, layer: Any, weight: Tensor, *rest: Any) -> Any:
        _, _, window, *_, groups = rest
        return convolved(A, rows, weight, window, groups)

    def concretize_windows(A: Tensor, rows: Tensor, *rest: Any) -> Any:
        return A.new_empty((A.shape[0], rows.shape[0]), dtype=torch.float64)

    for fake in (relax_windows, relax_backward_conv2d_windows, backward_conv2d_windows, concretize_windows):
        torch.library.register_fake(f"lbp::{fake.__name__}", fake)
    autograd = torch.library.register_autograd
    autograd("lbp::relax_windows", _relax_windows_backward, setup_context=_save_relax)
    autograd("lbp::relax_backward_conv2d_windows", _relaxed_conv2d_backward, setup_context=_save_relax)
    autograd("lbp::backward_conv2d_windows", _conv2d_backward, setup_context=_save_conv2d)
    autograd("lbp::concretize_windows", _concretize_backward, setup_context=_save_concretize)
    torch.library.impl("lbp::relax_windows", "CUDA", _relax_windows_composite)
    torch.library.impl("lbp::relax_backward_conv2d_windows", "CUDA", _relaxed_conv2d_composite)
    torch.library.impl("lbp::backward_conv2d_windows", "CUDA", _conv2d_composite)
    torch.library.impl("lbp::concretize_windows", "CUDA", _concretize_composite)


if _native.missing is None:
    _register()
