"""Forward linear bounds kept as windows of the input: the rows of convolutional layers over their receptive fields.

A window matrix is [B, C0, kh, kw, C, H, W], for an input of C0 channels and a layer [C, H, W]: entry (c0, i, j) of the
neuron at (y, x) of any channel belongs to the input's row `scale[0] y + offset[0] + i` and column
`scale[1] x + offset[1] + j` of channel c0. Entries outside the image belong to nothing and are selected away, never
multiplied. The layer's dimensions stand last, as in the dense matrices [B, n0, *shape]: what acts on neurons one by one
(`lbp.ops.relax_forward`, scaling, concatenation) takes the flattened window in place of n0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lbp import _native, reference
from lbp.backend import current_backend
from lbp.constants import side_signs
from lbp.ops._arguments import check_forward, common_batch, native, refuse_second_order, register_gradient, sum_to
from lbp.ops._convolution import Image, Pair, keywords_of
from lbp.ops._window_accumulation import (
    FEW_ROWS,
    accumulate_windows,
    accumulate_windows_gradient,
    accumulation_bytes,
    accumulation_calls,
)
from lbp.ops._window_checks import check_band, check_convolution, check_places
from lbp.ops._window_convolution import (
    ConvolvedWindows,
    axis_taps,
    convolve_windows,
    convolve_windows_gradient,
    convolved_places,
    convolved_shape,
)
from lbp.ops._windows import has_kernel, on_image, rows_and_columns
from lbp.ops.forward import ForwardMatrices, forward_conv2d, forward_linear
from lbp.precision import full_precision
from lbp.strategies import side_code

__all__ = [
    "ConvolvedWindows",
    "accumulated_terms",
    "accumulation_bytes",
    "accumulation_calls",
    "axis_taps",
    "combine_windows",
    "forward_conv2d_windows",
    "forward_linear_windows",
    "has_kernel",
    "insert_forward_windows",
    "windows_to_dense",
]


def windows_to_dense(windows: Tensor, image: Image, scale: Pair, offset: Pair) -> Tensor:
    """Turn a window matrix into the dense matrix of forward linear bounds.

    Args:
        windows: [B, C0, kh, kw, C, H, W].
        image: C0, rows and columns of the input.
        scale: see the module, as offset.
        offset: first row and column of the window of the neuron at (0, 0).

    Returns:
        [B, n0, C, H, W], zero outside the windows. Differentiable.

    Raises:
        RuntimeError: shapes or numbers that do not fit.
    """
    check_places(windows, image, scale, offset)
    if current_backend() == "reference":
        return reference.windows_to_dense(windows, image, scale, offset)
    inputs = image[0] * image[1] * image[2]
    channel = torch.arange(image[0], device=windows.device).reshape(-1, 1, 1, 1, 1, 1)
    row, column = rows_and_columns(windows, scale, offset)
    # Entries outside the image land in one row more, which is dropped.
    inside = on_image(windows, image, scale, offset)
    place = torch.where(inside, (channel * image[1] + row) * image[2] + column, inputs).flatten(0, 2)
    batch, layer = windows.shape[0], windows.shape[4:]
    dense = windows.new_zeros(batch, inputs + 1, *layer)
    return dense.scatter_(1, place.expand(batch, -1, *layer), windows.flatten(1, 3))[:, :inputs]


def combine_windows(
    windows: Tensor, axis: int, matrix: Tensor, scale: int, stride: int, offset: int, size: int
) -> Tensor:
    """Multiply the neurons of a window matrix, along one axis of the layer, with a banded matrix, as pooling does.

    Args:
        windows: [B, C0, kh, kw, C, h, w].
        axis: 0 for rows, 1 for columns.
        matrix: [outputs, inputs]; row i is zero but for `size` entries from column `i * stride + offset` on, or for
            those of them that the matrix has.
        scale: rows or columns of the input between the windows of neighbouring neurons.
        stride: see matrix.
        offset: see matrix.
        size: see matrix.

    Returns:
        The matrix of the outputs, on windows that are larger by `scale * (size - 1)`. Differentiable.

    Raises:
        ValueError: no such axis.
        RuntimeError: shapes or numbers that do not fit.
    """
    if axis not in (0, 1):
        raise ValueError(f"axis: expected 0 for rows or 1 for columns, got {axis}")
    check_band(windows, axis, matrix, stride, size)
    window_dim, neuron_dim = 2 + axis, 5 + axis
    window, length, count = windows.shape[window_dim], windows.shape[neuron_dim], matrix.shape[0]
    shape = list(windows.shape)
    shape[window_dim], shape[neuron_dim] = window + scale * (size - 1), count
    result = windows.new_zeros(shape)
    source, target = windows.movedim(neuron_dim, 0), result.movedim(neuron_dim, 0)
    for tap in axis_taps(length, count, size, scale, stride, -offset, 1):
        columns = torch.arange(length, device=matrix.device)[tap.inputs]
        weights = matrix[tap.outputs].gather(1, columns[:, None]).reshape(-1, *[1] * 6)
        # The output's own dimension stands first here, so that the window's dimensions have moved by one.
        target[tap.outputs].narrow(1 + window_dim, tap.window, window).add_(source[tap.inputs] * weights)
    return result


def forward_conv2d_windows(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    image: Image | None = None,
    scale: Pair,
    offset: Pair = (0, 0),
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> ForwardMatrices:
    """Push forward linear bounds on windows through a Conv2d layer; see `lbp.ops.forward_conv2d`.

    The windows grow by `scale dilation (k - 1)`, and begin `scale padding` earlier. The work is that of the windows:
    C_in k k multiply-adds per entry of the input's window and neuron. Entries of the result outside the image, where
    one is given, are 0; kernels of the CPU do not work them out.

    Args:
        center: [B or 1, C0, kh, kw, C_in, h, w].
        radius: like center, or None for zero.
        center_bias: [B or 1, C_in, h, w].
        radius_bias: like center_bias, or None for zero.
        weight: [C_out, C_in / groups, kernel rows, kernel columns].
        bias: [C_out] or None.
        image: C0, rows and columns of the input; None: one that holds every window, whatever the offset.
        scale: rows and columns of the input between the windows of neighbouring neurons of the layer convolved.
        offset: first row and column of the window of that layer's neuron at (0, 0).
        stride: see `lbp.ops.interval_conv2d`, as the following.
        padding: see `lbp.ops.interval_conv2d`.
        dilation: see `lbp.ops.interval_conv2d`.
        groups: see `lbp.ops.interval_conv2d`.

    Returns:
        center, radius, center_bias and radius_bias of the layer's output; radii stay None where they were.
        Differentiable with respect to all tensors.

    Raises:
        RuntimeError: shapes, numbers, dtypes or devices that do not fit.
    """
    matrices = (center, radius, center_bias, radius_bias)
    check_forward(matrices, 4)
    convolution = (stride, padding, dilation, groups)
    geometry = keywords_of(convolution)
    check_places(center, image, scale, offset)
    check_convolution(center, weight, convolution)
    if current_backend() == "reference":
        return reference.forward_conv2d_windows(
            *matrices, weight, bias, image=image, scale=scale, offset=offset, **geometry
        )
    op = native("convolve_windows")
    places = (image or (), scale, offset)
    return (
        op(center, weight, *places, *convolution),
        None if radius is None else op(radius, weight.abs(), *places, *convolution),
        *forward_conv2d(_no_rows(center_bias), None, center_bias, radius_bias, weight, bias, **geometry)[2:],
    )


def forward_linear_windows(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    image: Image,
    scale: Pair,
    offset: Pair,
) -> ForwardMatrices:
    """Push forward linear bounds on windows through a Linear layer that reads all neurons; see `forward_linear`.

    Only the windows are multiplied: n_out multiply-adds for each of their entries.

    Args:
        center: [B or 1, C0, kh, kw, C, H, W].
        radius: like center, or None for zero.
        center_bias: [B or 1, C, H, W].
        radius_bias: like center_bias, or None for zero.
        weight: [n_out, C H W].
        bias: [n_out] or None.
        image: C0, rows and columns of the input.
        scale: see the module, as offset.
        offset: first row and column of the window of the neuron at (0, 0).

    Returns:
        center [B, n0, n_out], radius, center_bias [B, n_out] and radius_bias of the layer's output, dense; radii stay
        None where they were. Differentiable with respect to all tensors.

    Raises:
        RuntimeError: shapes, numbers, dtypes or devices that do not fit.
    """
    matrices = (center, radius, center_bias, radius_bias)
    check_forward(matrices, 4)
    check_places(center, image, scale, offset)
    layer = center.shape[4:]
    if weight.dim() != 2 or weight.shape[1] != layer.numel():
        raise RuntimeError(f"weight: expected [n_out, {layer.numel()}], got {list(weight.shape)}")
    if current_backend() == "reference":
        return reference.forward_linear_windows(*matrices, weight, bias, image=image, scale=scale, offset=offset)
    op = native("accumulate_windows")
    flat = (center_bias.flatten(1), None if radius_bias is None else radius_bias.flatten(1))
    # First, so that the weight is in the caches for the matrices.
    biases = forward_linear(_no_rows(flat[0]), None, *flat, weight, bias)[2:]
    return (
        op(weight.reshape(1, -1, *layer), center, image, scale, offset),
        None if radius is None else op(weight.abs().reshape(1, -1, *layer), radius, image, scale, offset),
        *biases,
    )


def _no_rows(center_bias: Tensor) -> Tensor:
    """Return a dense matrix [B, 0, ...] for the ops on forward bounds, of which the biases alone are wanted."""
    return center_bias.new_empty(center_bias.shape[0], 0, *center_bias.shape[1:])


def accumulated_terms(layer: Image) -> int:
    """Return how often an entry of a product with windows over a layer rounds, at most.

    The channels of one position are one sum, and the sums of positions are added up one after the other. The reference
    multiplies dense matrices.
    """
    channels, rows, columns = layer
    return channels * rows * columns if current_backend() == "reference" else channels + rows * columns


def insert_forward_windows(
    A: Tensor,
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    *,
    image: Image,
    scale: Pair,
    offset: Pair,
    sides: str,
) -> tuple[Tensor, Tensor]:
    """Insert a layer's forward linear bounds on windows into coefficients of that layer; see `insert_forward`.

    Args:
        A: [K, B, S, C, H, W].
        center: [B or 1, C0, kh, kw, C, H, W].
        radius: like center, or None for zero.
        center_bias: [B or 1, C, H, W].
        radius_bias: like center_bias, or None for zero.
        image: C0, rows and columns of the input.
        scale: see the module, as offset.
        offset: first row and column of the window of the neuron at (0, 0).
        sides: see `lbp.ops.relax_backward`.

    Returns:
        Coefficients of the flattened input [K, B, S, n0], and the constants contributed [K, B, S], float64.
        Differentiable with respect to all tensors.

    Raises:
        ValueError: unknown sides.
        RuntimeError: shapes, numbers, dtypes or devices that do not fit.
    """
    side_code(sides)
    check_forward((center, radius, center_bias, radius_bias), 4)
    check_places(center, image, scale, offset)
    if current_backend() == "reference":
        return reference.insert_forward_windows(
            A, center, radius, center_bias, radius_bias, image=image, scale=scale, offset=offset, sides=sides
        )
    signs = side_signs(sides, A).reshape(-1, 1, 1, 1)
    rows = A.flatten(3)
    constants = (rows * center_bias.flatten(1).unsqueeze(1)).sum(-1, dtype=torch.float64)
    coefficients = _accumulated(A, center, image, scale, offset)
    if radius is not None or radius_bias is not None:
        # |A| as pos(A) - neg(A): its gradient at A = 0 is that of pos(A).
        spread = torch.where(rows >= 0, rows, -rows) * signs
        if radius is not None:
            coefficients = coefficients + _accumulated(spread.reshape(A.shape), radius, image, scale, offset)
        if radius_bias is not None:
            constants = constants + (spread * radius_bias.flatten(1).unsqueeze(1)).sum(-1, dtype=torch.float64)
    return coefficients, constants


def _accumulated(A: Tensor, windows: Tensor, image: Image, scale: Pair, offset: Pair) -> Tensor:
    """Return the product [K, B, S, n0] of A [K, B, S, C, H, W] with a window matrix."""
    sides, batch, count = A.shape[:3]
    op = native("accumulate_windows")
    rows = A.transpose(0, 1).flatten(1, 2)  # [B, K S, C, H, W]
    product = op(rows, windows, image, scale, offset)
    by_side: Tensor = product.mT.unflatten(1, (sides, count)).transpose(0, 1)
    return by_side.reshape(sides, batch, count, product.shape[1])


@full_precision()
def _convolve_windows(
    windows: Tensor, weight: Tensor, image: list[int], scale: list[int], offset: list[int], *convolution: Any
) -> Tensor:
    if has_kernel(windows.device):
        sizes = ConvolvedWindows.of(windows.shape[2:4], windows.shape[4:], weight, scale, convolution)
        images = windows.shape[0] * windows.shape[1]
        together = sizes.together(images, windows.itemsize, windows.device)
        places = (image, scale, offset)
        convolved: Tensor = native("convolve_windows_laid_out")(windows, weight, *places, *convolution, together)
        return convolved
    return convolve_windows(windows, weight, (image, scale, offset), convolution)


@full_precision()
def _accumulate_windows(rows: Tensor, windows: Tensor, *places: Any) -> Tensor:
    if not has_kernel(rows.device):
        return accumulate_windows(rows, windows, *places)
    few = rows.shape[1] <= FEW_ROWS
    product: Tensor = native(f"accumulate_windows_{'few' if few else 'many'}_rows")(rows, windows, *places)
    return product


@full_precision()
def _convolve_windows_gradient(
    gradient: Tensor, windows: Tensor, weight: Tensor, image: list[int], scale: list[int], offset: list[int], *rest: Any
) -> tuple[Tensor, Tensor]:
    stride, padding, dilation, groups, need_windows, need_weight = rest
    convolution = (stride, padding, dilation, groups)
    if image:
        places = convolved_places(scale, offset, convolution)
        gradient = torch.where(on_image(gradient, image, *places), gradient, 0.0)
    return convolve_windows_gradient(gradient, windows, weight, scale, convolution, (need_windows, need_weight))


@full_precision()
def _accumulate_windows_gradient(gradient: Tensor, rows: Tensor, windows: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    if rows.device.type == "cpu":
        # In the batch of the gradient, also of what all images share.
        results = native("accumulate_windows_few_rows_gradient")(gradient, rows, windows, *rest)
        to_rows, to_windows = (
            sum_to(result, like.shape) if needed else result
            for result, like, needed in zip(results, (rows, windows), rest[-2:], strict=True)
        )
        return to_rows, to_windows
    image, scale, offset, need_rows, need_windows = rest
    return accumulate_windows_gradient(gradient, rows, windows, image, scale, offset, (need_rows, need_windows))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.places = inputs[2:]


def _convolve_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:2]
    results = native("convolve_windows_gradient")(gradient, *ctx.saved_tensors, *ctx.places, *needs)
    to_windows, to_weight = (result if needed else None for result, needed in zip(results, needs, strict=True))
    return to_windows, to_weight, *[None] * len(ctx.places)


def _accumulate_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:2]
    results = native("accumulate_windows_gradient")(gradient, *ctx.saved_tensors, *ctx.places, *needs)
    to_rows, to_windows = (result if needed else None for result, needed in zip(results, needs, strict=True))
    return to_rows, to_windows, *[None] * len(ctx.places)


def _register() -> None:
    # The library's products on every device, but for kernels of the CPU that some of them call.
    products = (
        _convolve_windows,
        _convolve_windows_gradient,
        _accumulate_windows,
        _accumulate_windows_gradient,
    )
    for product in products:
        for device in ("CPU", "CUDA"):
            torch.library.impl(f"lbp::{product.__name__[1:]}", device, product)
    register_gradient("convolve_windows", _convolve_backward, _save)
    register_gradient("accumulate_windows", _accumulate_backward, _save)
    for name in ("convolve_windows", "accumulate_windows"):
        refuse_second_order(f"{name}_gradient")

    def convolve_windows(
        windows: Tensor, weight: Tensor, image: list[int], scale: list[int], offset: list[int], *convolution: Any
    ) -> Tensor:
        return windows.new_empty(convolved_shape(windows, weight, scale, convolution))

    def convolve_windows_gradient(gradient: Tensor, windows: Tensor, weight: Tensor, *rest: Any) -> Any:
        need_windows, need_weight = rest[-2:]
        return (
            windows.new_empty(windows.shape if need_windows else (0,)),
            weight.new_empty(weight.shape if need_weight else (0,)),
        )

    def accumulate_windows(rows: Tensor, windows: Tensor, image: list[int], *rest: Any) -> Tensor:
        return windows.new_empty((common_batch(rows, windows), image[0] * image[1] * image[2], rows.shape[1]))

    def accumulate_windows_gradient(gradient: Tensor, rows: Tensor, windows: Tensor, *rest: Any) -> Any:
        need_rows, need_windows = rest[-2:]
        return (
            rows.new_empty(rows.shape if need_rows else (0,)),
            windows.new_empty(windows.shape if need_windows else (0,)),
        )

    for fake in (
        convolve_windows,
        convolve_windows_gradient,
        accumulate_windows,
        accumulate_windows_gradient,
    ):
        torch.library.register_fake(f"lbp::{fake.__name__}", fake)


if _native.missing is None:
    _register()
