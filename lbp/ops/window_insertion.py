"""Forward linear bounds on windows of the input, inserted into rows that are windows of the layer."""

from __future__ import annotations

import torch
from torch import Tensor

from lbp.constants import side_signs
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
        radius: like center, or None for zero, as radius_bias.
        center_bias: [B or 1, H, W, C].
        radius_bias: like center_bias.
        scale: rows and columns of the input between the windows of neighbouring neurons of the layer.
        sides: see `lbp.ops.relax_backward`.

    Returns:
        Coefficients of the input [K, R, rows, columns, C0] over the windows that those of the neurons make together,
        of which the first begins where that of the window's first pixel does; entries over the input's padding count
        for nothing. Constants [K, R], float64. Differentiable with respect to all tensors but places.

    Raises:
        ValueError: unknown sides, or rows that make no such groups.
    """
    side_code(sides)
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
            part, added = _of_a_pixel(rows[:, :, i, j], places, (i, j), center, center_bias)
            if radius is not None and radius_bias is not None:
                more, further = _of_a_pixel(spread[:, :, i, j], places, (i, j), radius, radius_bias)
                part, added = part + more, added + further
            down, across = (slice(scale[k] * at, scale[k] * at + window[k]) for k, at in enumerate((i, j)))
            total[:, :, :, down, across] += part.unflatten(-1, (inputs, *window))
            constants = constants + added
    coefficients = total.unflatten(1, (-1, group)).movedim(1, 0).flatten(1, 2).movedim(2, -1)
    return coefficients, constants.unflatten(1, (-1, group)).movedim(1, 0).flatten(1, 2)


def _of_a_pixel(rows: Tensor, places: Tensor, pixel: Pair, matrix: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the products [P, K G, C0 kh kw] and [P, K G] float64 of rows [P, K G, C] at one pixel of their windows."""
    image, row, column = places[:, 0], places[:, 1] + pixel[0], places[:, 2] + pixel[1]
    matrices, biases = (
        values[image if values.shape[0] > 1 else torch.zeros_like(image), row, column] for values in (matrix, bias)
    )
    return product(rows, matrices.flatten(2)), (rows * biases[:, None]).sum(-1, dtype=torch.float64)
