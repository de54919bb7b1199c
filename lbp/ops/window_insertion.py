"""Forward linear bounds on windows of the input, inserted into rows that are windows of the layer."""

from __future__ import annotations

import torch
from torch import Tensor

from lbp.constants import side_signs
from lbp.ops._arguments import check_spread
from lbp.ops._convolution import Pair
from lbp.ops._product import product
from lbp.strategies import side_code


def insert_into_windows(
    A: Tensor,
    places: Tensor,
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    *,
    scale: Pair,
    sides: str,
) -> tuple[Tensor, Tensor]:
    """Insert a layer's forward linear bounds into windowed rows of that layer; see `lbp.ops.insert_forward`.

    Rows come in groups that share their image and their window, P groups of R / P rows, as the channels of one position
    do: the bounds of a pixel are read once for all of them. The matrices hold a position's numbers together, so that
    whole windows of bounds are read as they lie.

    Args:
        A: [K, R, height, width, C] of windows inside the layer.
        places: int64 [P, 3]: image, first row and column of the window.
        center: [B or 1, H, W, C, C0, kh, kw], contiguous; see `lbp.ops.forward_windows` for the windows of the input.
        radius: like center, or None for zero.
        center_bias: [B or 1, H, W, C].
        radius_bias: like center_bias, or None for zero.
        scale: rows and columns of the input between the windows of neighbouring neurons of the layer.
        sides: see `lbp.ops.relax_backward`.

    Returns:
        Coefficients of the input [K, R, rows, columns, C0] over the windows that those of the neurons make together,
        of which the first begins where that of the window's first pixel does; entries over the input's padding count
        for nothing. Constants [K, R], float64. Differentiable with respect to all tensors but places.

    Raises:
        ValueError: unknown sides, or rows that make no such groups.
        RuntimeError: tensors whose shapes do not fit.
    """
    side_code(sides)
    _check_shapes(A, places, center, radius, center_bias, radius_bias)
    count, (height, width, _) = A.shape[1], A.shape[2:]
    if count % max(len(places), 1):
        raise ValueError(f"A: {count} rows make no {len(places)} groups of one size")
    group = count // max(len(places), 1)
    inputs, *window = center.shape[4:]
    grown = [scale[i] * (size - 1) + window[i] for i, size in enumerate((height, width))]
    rows = A.unflatten(1, (len(places), group)).movedim(1, 0).flatten(1, 2)  # [P, K G, height, width, C]
    signs = side_signs(sides, A)
    # |A| as pos(A) - neg(A): its gradient at A = 0 is that of pos(A).
    spread = torch.where(rows >= 0, rows, -rows) * signs.repeat_interleave(group).reshape(-1, 1, 1, 1)
    total = A.new_zeros(*rows.shape[:2], inputs, *grown)
    constants = torch.zeros(rows.shape[:2], dtype=torch.float64, device=A.device)
    for i in range(height):
        for j in range(width):
            down, across = (slice(scale[k] * at, scale[k] * at + window[k]) for k, at in enumerate((i, j)))
            parts = []
            for of_sides, matrix, bias in ((rows, center, center_bias), (spread, radius, radius_bias)):
                at_pixel = of_sides[:, :, i, j]
                if matrix is not None:
                    parts.append(product(at_pixel, _under_rows(matrix, places, (i, j)).flatten(2)))
                if bias is not None:
                    added = at_pixel * _under_rows(bias, places, (i, j))[:, None]
                    constants = constants + added.sum(-1, dtype=torch.float64)
            # Added up before: a sum in place is a copy of the whole in the gradient.
            part = parts[0] if len(parts) == 1 else parts[0] + parts[1]
            total[:, :, :, down, across] += part.unflatten(-1, (inputs, *window))
    coefficients = total.unflatten(1, (-1, group)).movedim(1, 0).flatten(1, 2).movedim(2, -1)
    return coefficients, constants.unflatten(1, (-1, group)).movedim(1, 0).flatten(1, 2)


def _check_shapes(
    A: Tensor, places: Tensor, center: Tensor, radius: Tensor | None, center_bias: Tensor, radius_bias: Tensor | None
) -> None:
    if center.dim() != 7:
        raise RuntimeError(f"center: expected [batch, *layer, channels, rows, columns], got {center.dim()} dimensions")
    channels = center.shape[3]
    if A.dim() != 5 or A.shape[4] != channels:
        raise RuntimeError(f"A: expected [sides, rows, height, width, {channels}] as in center, got {list(A.shape)}")
    if places.dtype != torch.int64 or places.dim() != 2 or places.shape[1] != 3:
        raise RuntimeError(f"places: expected int64 [places, 3], got {places.dtype} {list(places.shape)}")
    if center_bias.shape[1:] != center.shape[1:4]:
        layer = list(center.shape[1:4])
        raise RuntimeError(
            f"center_bias: expected a batch of the shape {layer} as in center, got {list(center_bias.shape)}"
        )
    check_spread(radius, center, radius_bias, center_bias)


def _under_rows(values: Tensor, places: Tensor, pixel: Pair) -> Tensor:
    """Return the part of [B or 1, H, W, ...] at one pixel of each window: [P, ...]."""
    image = places[:, 0] if values.shape[0] > 1 else torch.zeros_like(places[:, 0])
    return values[image, places[:, 1] + pixel[0], places[:, 2] + pixel[1]]
