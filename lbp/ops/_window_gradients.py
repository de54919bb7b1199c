"""Gradients of the ops on windowed rows, by the library's products and convolutions; lines are computed again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lbp.ops._arguments import add_at, native, sum_to
from lbp.ops._calls import are_plain
from lbp.ops._convolution import convolution_gradients, convolve
from lbp.ops._relaxation import (
    NEED_BIAS,
    NEED_MATRIX,
    RELAXATION_LENGTH,
    RelaxationArguments,
    needed_gradients,
    relaxation_gradients,
    save_relaxation,
    saved_relaxation,
)
from lbp.ops.norms import norm_and_slope
from lbp.ops.window_places import move_windows, natural_windows, window_places


def save_relax(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keep what the gradient of `relax_windows` or of `relax_backward_conv2d_windows` needs."""
    A, rows, *relaxation = inputs[: 2 + RELAXATION_LENGTH]
    rest = inputs[2 + RELAXATION_LENGTH :]
    ctx.sides = rest[-1]
    if len(rest) == 2:
        save_relaxation(ctx, relaxation, A, rows, rest[0])
    else:
        weight, bias, corners, ctx.window, *convolution, _ = rest
        ctx.convolution = tuple(convolution)
        save_relaxation(ctx, relaxation, A, rows, bias, weight, corners)


def relax_windows_backward(ctx: Any, relaxed: Tensor, constants: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of all arguments of `relax_windows`."""
    arguments, (A, rows, bias) = saved_relaxation(ctx)
    assert A is not None
    assert rows is not None
    need_bias = ctx.needs_input_grad[2 + RELAXATION_LENGTH]
    gradients = _relaxation_backward(ctx, arguments, A, rows, bias, relaxed, constants, need_bias=need_bias)
    to_A, to_relaxation, to_bias = gradients
    return to_A, None, *to_relaxation, to_bias, None


def _relaxation_backward(
    ctx: Any,
    arguments: RelaxationArguments,
    A: Tensor,
    rows: Tensor,
    bias: Tensor | None,
    to_relaxed: Tensor,
    to_constants: Tensor,
    *,
    need_bias: bool,
) -> tuple[Tensor, list[Tensor | None], Tensor | None]:
    """Return the gradients of A, of the relaxation's arguments and of the bias; the lines are computed again."""
    needs = needed_gradients(ctx.needs_input_grad, 2) | NEED_MATRIX | (NEED_BIAS if need_bias else 0)
    to_A, *to_relaxation, to_bias = native("relax_windows_gradient")(
        to_relaxed, to_constants, A, rows, *arguments, bias, ctx.sides, needs
    )
    fitted = sum_to(to_bias, (1, *bias.shape))[0] if need_bias and bias is not None else None
    return to_A, relaxation_gradients(arguments, to_relaxation), fitted


def relaxed_conv2d_backward(ctx: Any, coefficients: Tensor, constants: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of the inputs of `relax_backward_conv2d_windows`."""
    arguments, (A, rows, bias, weight, corners) = saved_relaxation(ctx)
    assert A is not None
    assert rows is not None
    assert weight is not None
    assert corners is not None
    relaxed, _ = native("relax_windows")(A, rows, *arguments, None, ctx.sides)
    need_weight, need_bias = ctx.needs_input_grad[2 + RELAXATION_LENGTH : 4 + RELAXATION_LENGTH]
    to_relaxed, to_weight = _adjoint(ctx, relaxed, rows, weight, corners, coefficients, need_weight=need_weight)
    offset = None if bias is None else bias[:, None, None]
    gradients = _relaxation_backward(ctx, arguments, A, rows, offset, to_relaxed, constants, need_bias=need_bias)
    to_A, to_relaxation, to_bias = gradients
    fitted = None if to_bias is None or bias is None else to_bias.reshape(bias.shape)
    return to_A, None, *to_relaxation, to_weight, fitted, *[None] * 7


def _adjoint(
    ctx: Any, taken: Tensor, rows: Tensor, weight: Tensor, corners: Tensor, gradient: Tensor, *, need_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of windows [K, R, height, width, C] and, if needed, of the weight, from the result's."""
    stride, padding, dilation, groups = ctx.convolution
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    natural, size = natural_windows(rows, (taken.shape[2], taken.shape[3]), weight, **geometry)
    images = move_windows(gradient, corners, natural, size).flatten(0, 1).movedim(-1, 1)
    unpadded = (stride, (0, 0), dilation, groups)
    to_taken = convolve(images, weight, unpadded).movedim(1, -1).reshape(taken.shape)
    if not need_weight:
        return to_taken, None
    outputs = taken.flatten(0, 1).movedim(-1, 1)
    return to_taken, convolution_gradients(outputs, images, weight, unpadded, (False, True))[1]


def save_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keep what the gradient of `backward_conv2d_windows` needs."""
    A, rows, _, weight, bias, corners, ctx.window, *convolution = inputs
    ctx.convolution = tuple(convolution)
    ctx.save_for_backward(A, rows, weight, bias, corners)


def conv2d_backward(ctx: Any, coefficients: Tensor, constants: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of the inputs of `backward_conv2d_windows`."""
    A, rows, weight, bias, corners = ctx.saved_tensors
    # Rows come as the op above returned them, each with coefficients of its own, or share those of a source.
    in_order = _is_in_order(rows, A)
    taken = A if in_order else A[:, rows[:, 0]]
    need_weight = ctx.needs_input_grad[3]
    to_taken, to_weight = _adjoint(ctx, taken, rows, weight, corners, coefficients, need_weight=need_weight)
    to_bias = None
    if bias is not None:
        weights = constants.to(A.dtype).unsqueeze(-1)
        to_taken.add_((weights * bias)[:, :, None, None])
        if ctx.needs_input_grad[4]:
            to_bias = (taken.sum((2, 3)) * weights).sum((0, 1))
    if in_order:
        return to_taken, None, None, to_weight, to_bias, *[None] * 6
    to_A = A.new_zeros(A.shape)
    # A side at a time: what belongs to a row lies together.
    for side, of_a_side in enumerate(to_taken):
        add_at(to_A[side], rows[:, 0], of_a_side)
    return to_A, None, None, to_weight, to_bias, *[None] * 6


def _is_in_order(rows: Tensor, A: Tensor) -> bool:
    """Whether row i has the coefficients A[:, i]; False where asking would wait for a GPU, or nothing is known yet."""
    if not are_plain((rows,)) or torch._C._are_functorch_transforms_active():
        return False
    return len(rows) == A.shape[1] and torch.equal(rows[:, 0], torch.arange(len(rows), device=rows.device))


def save_concretize(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keep what the gradient of `concretize_windows` needs."""
    A, rows, x, x_U, ctx.eps, eps_tensor, ctx.p, ctx.sides = inputs
    ctx.save_for_backward(A, rows, x, x_U, eps_tensor)


def concretize_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of the inputs of `concretize_windows`."""
    A, rows, x, x_U, eps_tensor = ctx.saved_tensors
    to_A = None
    if ctx.needs_input_grad[0]:
        to_A = native("concretize_windows_gradient")(gradient, A, rows, x, x_U, ctx.eps, eps_tensor, ctx.p, ctx.sides)
    to_region: tuple[Tensor | None, ...] = (None, None, None, None)
    if any(ctx.needs_input_grad[2:6]):
        to_region = _region_gradients(gradient, A, rows, x, x_U, eps_tensor, ctx.p, ctx.sides)
    return to_A, None, *to_region, None, None


def _region_gradients(
    gradient: Tensor,
    A: Tensor,
    rows: Tensor,
    x: Tensor,
    x_U: Tensor | None,
    eps_tensor: Tensor | None,
    p: float,
    sides: int,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of `concretize_windows` by the region; a step for the input is rarely wanted."""
    batch, height, width, channels = x.shape
    places = window_places(rows, (height, width), (A.shape[2], A.shape[3]))

    def at_inputs(values: Tensor) -> Tensor:
        total = values.new_zeros(batch * height * width, channels)
        return add_at(total, places.flatten(), values.reshape(-1, channels)).reshape(x.shape).to(x.dtype)

    to_x: Any = 0.0
    to_x_U: Any = 0.0
    to_radius: Any = 0.0
    for side, lower in enumerate(_lower_sides(A, sides)):
        a = A[side, rows[:, 0]].double()
        weighted = gradient[side].reshape(-1, 1, 1, 1) * a
        if x_U is not None:
            at_low = (a >= 0) == lower
            zero = torch.zeros_like(a)
            to_x = to_x + torch.where(at_low, weighted, zero)
            to_x_U = to_x_U + torch.where(at_low, zero, weighted)
        else:
            to_x = to_x + weighted
            if eps_tensor is not None:
                norm, _ = norm_and_slope(a.flatten(1), p, 1)
                to_radius = to_radius + gradient[side] * norm * (-1.0 if lower else 1.0)
    if x_U is not None:
        return at_inputs(to_x), at_inputs(to_x_U), None, None
    if eps_tensor is None:
        return at_inputs(to_x), None, None, None
    to_eps = add_at(torch.zeros(batch, dtype=torch.float64, device=A.device), rows[:, 1], to_radius)
    return at_inputs(to_x), None, None, sum_to(to_eps, eps_tensor.shape)


def _lower_sides(A: Tensor, sides: int) -> list[bool]:
    """Return of every side of A whether it is a lower one."""
    return [sides == 1 or (sides == 3 and side == 0) for side in range(A.shape[0])]
