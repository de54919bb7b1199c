"""Back-substitution on windows: each row of coefficients holds the part of a convolutional layer that it depends on.

A is [K, sources, height, width, C], channels last. `rows` int64 [R, 4] says of every row which source of A holds its
numbers, which image it bounds, and the first row and column of its window. Windows lie inside the layer; several rows
may share a source, so that the kernel of a convolution serves the neurons of all positions and images. Results hold one
source per row, in order.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from lbp import _native, reference
from lbp.backend import current_backend
from lbp.ops._arguments import (
    NO_BALL,
    native,
    per_neuron,
    radius_parameters,
    refuse_second_order,
    register_gradient,
)
from lbp.ops._convolution import Pair, keywords_of
from lbp.ops._relaxation import (
    NEED_BIAS,
    NEED_MATRIX,
    RELAXATION_LENGTH,
    LineOptions,
    Lines,
    fake_relaxation_gradients,
)
from lbp.ops._window_gradients import (
    concretize_backward,
    conv2d_backward,
    relax_windows_backward,
    relaxed_conv2d_backward,
    save_concretize,
    save_conv2d,
    save_relax,
)
from lbp.ops.concretize import checked_exponent
from lbp.strategies import side_code


def relax_windows(
    A: Tensor,
    rows: Tensor,
    l: Tensor,
    u: Tensor,
    *,
    sides: str,
    bias: Tensor | None = None,
    **lines: Unpack[LineOptions],
) -> tuple[Tensor, Tensor]:
    """Push windowed coefficients through an activation; see `lbp.ops.relax_backward`.

    Args:
        A: [K, sources, height, width, C] of the activations; K = 2 for ``sides="both"``, else 1, and may be expanded.
        rows: int64 [R, 4]: source, image, first row and column of the window.
        l: lower bounds of the pre-activations [B, C, h, w].
        u: upper bounds, like l.
        sides: ``"lower"``, ``"upper"`` or ``"both"``.
        bias: bias of the affine layer below, broadcastable to [C, h, w]: the sum of `A' bias` joins the constants.
        **lines: r, eta, strategy and given lines; see `lbp.ops.bounding_lines`.

    Returns:
        `A'` [K, R, height, width, C] and the constants contributed [K, R], float64. Differentiable with respect to A,
        l, u, r, bias and given lines.

    Raises:
        ValueError: see `lbp.ops.relax_backward`.
        RuntimeError: shapes, dtypes or devices that do not fit, or a window outside the layer.
    """
    chosen, code = Lines(**lines).checked(), side_code(sides)
    if current_backend() == "reference":
        return reference.relax_windows(A, rows, l, u, sides=sides, bias=bias, **lines)
    offset = None if bias is None else per_neuron(bias, "bias", l.shape[1:])
    relaxed, constants = native("relax_windows")(A, rows, *chosen.arguments(l, u), offset, code)
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
    **lines: Unpack[LineOptions],
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
        **lines: r, eta, strategy and given lines; see `lbp.ops.bounding_lines`.

    Returns:
        Coefficients [K, R, *window, C_in] of the convolution's input and the constants contributed [K, R], float64.
        Differentiable as `relax_windows` and with respect to weight.

    Raises:
        ValueError: see `lbp.ops.relax_backward`.
        RuntimeError: shapes, dtypes or devices that do not fit, or a window outside the layer.
    """
    chosen, code = Lines(**lines).checked(), side_code(sides)
    convolution = (stride, padding, dilation, groups)
    if current_backend() == "reference":
        geometry = keywords_of(convolution)
        return reference.relax_backward_conv2d_windows(
            A, rows, l, u, weight, bias, corners, window, sides=sides, **geometry, **lines
        )
    coefficients, constants = native("relax_backward_conv2d_windows")(
        A, rows, *chosen.arguments(l, u), weight, bias, corners, window, *convolution, code
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
        Coefficients [K, R, *window, C_in] and the constants [K, R], float64. Differentiable with respect to A, weight
        and bias.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit, or a window outside the layer.
    """
    convolution = (stride, padding, dilation, groups)
    if current_backend() == "reference":
        geometry = keywords_of(convolution)
        return reference.backward_conv2d_windows(A, rows, layer, weight, bias, corners, window, **geometry)
    coefficients, constants = native("backward_conv2d_windows")(
        A, rows, layer, weight, bias, corners, window, *convolution
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
    result: Tensor = native("concretize_windows")(A, rows, low, high, *NO_BALL, code)
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
    ball = (x0.movedim(1, -1), None, *radius_parameters(eps, A), p)
    result: Tensor = native("concretize_windows")(A, rows, *ball, code)
    return result


def _register() -> None:
    def relax_windows(A: Tensor, rows: Tensor, *rest: Any) -> Any:
        sizes = (A.shape[0], rows.shape[0])
        return A.new_empty((*sizes, *A.shape[2:])), A.new_empty(sizes, dtype=torch.float64)

    def relax_windows_gradient(relaxed: Tensor, constants: Tensor, A: Tensor, rows: Tensor, *rest: Any) -> Any:
        l, needs = rest[0], rest[-1]
        to_A = A.new_empty(A.shape if needs & NEED_MATRIX else (0,))
        to_bias = A.new_empty(l.shape if needs & NEED_BIAS else (0,))
        return to_A, *fake_relaxation_gradients(A, l.shape[0], tuple(l.shape[1:]), needs), to_bias

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

    def concretize_windows_gradient(gradient: Tensor, A: Tensor, *rest: Any) -> Any:
        return A.new_empty(A.shape)

    for fake in (
        relax_windows,
        relax_windows_gradient,
        relax_backward_conv2d_windows,
        backward_conv2d_windows,
        concretize_windows,
        concretize_windows_gradient,
    ):
        torch.library.register_fake(f"lbp::{fake.__name__}", fake)
    for name in ("relax_windows_gradient", "concretize_windows_gradient"):
        refuse_second_order(name)
    register_gradient("relax_windows", relax_windows_backward, save_relax)
    register_gradient("relax_backward_conv2d_windows", relaxed_conv2d_backward, save_relax)
    register_gradient("backward_conv2d_windows", conv2d_backward, save_conv2d)
    register_gradient("concretize_windows", concretize_backward, save_concretize)


if _native.missing is None:
    _register()
