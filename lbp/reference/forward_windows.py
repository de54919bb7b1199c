"""Forward linear bounds kept as windows of the input, in plain PyTorch: products by way of the dense matrices.

A window matrix is [B, C0, kh, kw, C, H, W]: entry (c0, i, j) of the neuron at (y, x) of any channel belongs to the
input's row `scale[0] y + offset[0] + i` and column `scale[1] x + offset[1] + j` of channel c0. Entries that lie outside
the image belong to nothing: whatever they hold is selected away.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lbp.reference.affine import Pair, forward_conv2d, insert_forward
from lbp.reference.affine import forward_linear as dense_forward_linear
from lbp.reference.concretize import dual_norm, ends_in_order
from lbp.reference.ramp import as_parameter
from lbp.reference.relax import ForwardMatrices

Image = tuple[int, int, int]


def window_places(window: Pair, places: Pair, image: Image, scale: Pair, offset: Pair, device: torch.device) -> Tensor:
    """Return where each entry of each window lies in the flattened image, or the image's size where it lies outside.

    Args:
        window: rows and columns of the window.
        places: rows and columns of the layer.
        image: channels, rows and columns of the input.
        scale: see the module, as offset.
        offset: first row and column of the window of the neuron at (0, 0).
        device: of the result.

    Returns:
        [C0, kh, kw, 1, H, W] int64.
    """
    (rows, row_inside), (columns, column_inside) = (
        _axis_places(window[i], places[i], image[i + 1], scale[i], offset[i], device) for i in range(2)
    )
    inside = row_inside[:, None, None, :, None] & column_inside[None, :, None, None, :]
    place = rows[:, None, None, :, None] * image[2] + columns[None, :, None, None, :]
    channel = torch.arange(image[0], device=device).reshape(-1, 1, 1, 1, 1, 1) * (image[1] * image[2])
    return torch.where(inside, channel + place, image[0] * image[1] * image[2])


def _axis_places(
    window: int, places: int, length: int, scale: int, offset: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    position = torch.arange(window, device=device)[:, None] + scale * torch.arange(places, device=device) + offset
    return position, (position >= 0) & (position < length)


def windows_to_dense(windows: Tensor, image: Image, scale: Pair, offset: Pair) -> Tensor:
    """See `lbp.ops.windows_to_dense`."""
    window, layer = windows.shape[2:4], windows.shape[5:]

    def neurons(axis: int, entry: int) -> tuple[Tensor, Tensor]:
        """Return the places of the layer whose windows have the entry on the image, and where it lies there."""
        at = torch.arange(layer[axis], device=windows.device)
        where = scale[axis] * at + offset[axis] + entry
        inside = (where >= 0) & (where < image[1 + axis])
        return at[inside], where[inside]

    dense = windows.new_zeros(windows.shape[0], *image, *windows.shape[4:])
    for i in range(window[0]):
        y, image_y = (index[:, None] for index in neurons(0, i))
        for j in range(window[1]):
            x, image_x = neurons(1, j)
            entries = windows[:, :, i, j][..., y, x]  # [B, C0, C, neurons, neurons]
            dense[:, :, image_y, image_x, :, y, x] = entries.movedim((-2, -1), (0, 1))
    return dense.flatten(1, 3)


def dense_to_windows(dense: Tensor, window: Pair, image: Image, scale: Pair, offset: Pair) -> Tensor:
    """Read the windows off a matrix [B, n0, C, H, W]; entries outside the image are zero."""
    batch, _, *layer = dense.shape
    index = window_places(window, (layer[1], layer[2]), image, scale, offset, dense.device)
    padded = torch.cat([dense, dense.new_zeros(batch, 1, *layer)], dim=1)
    rows = padded.gather(1, index.flatten(0, 2).expand(batch, -1, *layer))
    return rows.reshape(batch, image[0], *window, *layer)


def _dense_or_none(windows: Tensor | None, image: Image, scale: Pair, offset: Pair) -> Tensor | None:
    return None if windows is None else windows_to_dense(windows, image, scale, offset)


def forward_conv2d_windows(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    image: Image | None,
    scale: Pair,
    offset: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> ForwardMatrices:
    """See `lbp.ops.forward_conv2d_windows`."""
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    window, places = center.shape[2:4], center.shape[5:]
    # Another image, that holds every window: where it ends does not matter to the windows of the result.
    grown = tuple(window[i] + scale[i] * dilation[i] * (weight.shape[i + 2] - 1) for i in range(2))
    before = tuple(scale[i] * padding[i] for i in range(2))
    large = (center.shape[1], *(2 * before[i] + scale[i] * places[i] + window[i] + grown[i] for i in range(2)))
    dense, dense_radius = (
        _dense_or_none(matrix, large, scale, before)  # type: ignore[arg-type]
        for matrix in (center, radius)
    )
    assert dense is not None
    results = forward_conv2d(dense, dense_radius, center_bias, radius_bias, weight, bias, groups=groups, **geometry)
    after = tuple(scale[i] * stride[i] for i in range(2))
    new_center, new_radius = (
        None if matrix is None else dense_to_windows(matrix, grown, large, after, (0, 0))  # type: ignore[arg-type]
        for matrix in results[:2]
    )
    assert new_center is not None
    if image is not None:
        origin = (offset[0] - before[0], offset[1] - before[1])
        layer = (new_center.shape[5], new_center.shape[6])
        at = window_places(grown, layer, image, after, origin, center.device)  # type: ignore[arg-type]
        inside = at < image[0] * image[1] * image[2]
        new_center = torch.where(inside, new_center, 0.0)
        new_radius = None if new_radius is None else torch.where(inside, new_radius, 0.0)
    return new_center, new_radius, results[2], results[3]


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
    """See `lbp.ops.forward_linear_windows`."""
    dense, dense_radius = (_dense_or_none(matrix, image, scale, offset) for matrix in (center, radius))
    assert dense is not None
    matrices = (dense.flatten(2), None if dense_radius is None else dense_radius.flatten(2))
    biases = (center_bias.flatten(1), None if radius_bias is None else radius_bias.flatten(1))
    return dense_forward_linear(*matrices, *biases, weight, bias)


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
    """See `lbp.ops.insert_forward_windows`."""
    dense, dense_radius = (_dense_or_none(matrix, image, scale, offset) for matrix in (center, radius))
    assert dense is not None
    return insert_forward(A, dense, dense_radius, center_bias, radius_bias, sides=sides)


def concretize_forward_windows_box(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x_L: Tensor,
    x_U: Tensor,
    *,
    scale: Pair,
    offset: Pair,
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.concretize_forward_windows_box`."""
    places = places_of(center, x_L, scale, offset)
    low, high = (under_windows(end, places) for end in ends_in_order(x_L, x_U))
    lower_rows, upper_rows = lower_and_upper(center, radius, places < x_L.shape[1:].numel())
    lower = (lower_rows * torch.where(lower_rows >= 0, low, high)).sum((1, 2, 3))
    upper = (upper_rows * torch.where(upper_rows >= 0, high, low)).sum((1, 2, 3))
    return _with_biases(lower, upper, center_bias, radius_bias)


def concretize_forward_windows_box_with_magnitude(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x_L: Tensor,
    x_U: Tensor,
    *,
    scale: Pair,
    offset: Pair,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `lbp.ops.concretize_forward_windows_box_with_magnitude`."""
    places = {"scale": scale, "offset": offset}
    bounds = concretize_forward_windows_box(center, radius, center_bias, radius_bias, x_L, x_U, **places)
    with torch.no_grad():
        at = places_of(center, x_L, **places)
        inside = at < x_L.shape[1:].numel()
        rows = center.double().abs().where(inside, 0.0)
        if radius is not None:
            rows = rows + radius.double().abs().where(inside, 0.0)
        magnitude = (rows * under_windows(torch.maximum(x_L.abs(), x_U.abs()), at)).sum((1, 2, 3))
    return *bounds, magnitude.expand_as(bounds[0]).to(center.dtype)


def concretize_forward_windows_ball(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x0: Tensor,
    eps: Tensor | float,
    p: float,
    *,
    scale: Pair,
    offset: Pair,
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.concretize_forward_windows_ball`."""
    places = places_of(center, x0, scale, offset)
    point = under_windows(x0, places)
    spread = as_parameter(eps, center).double().reshape(-1, 1, 1, 1)
    lower_rows, upper_rows = lower_and_upper(center, radius, places < x0.shape[1:].numel())
    lower = (lower_rows * point).sum((1, 2, 3)) - spread * dual_norm(lower_rows.flatten(1, 3), p, 1)
    upper = (upper_rows * point).sum((1, 2, 3)) + spread * dual_norm(upper_rows.flatten(1, 3), p, 1)
    return _with_biases(lower, upper, center_bias, radius_bias)


def places_of(center: Tensor, x: Tensor, scale: Pair, offset: Pair) -> Tensor:
    """Return where the entries of the windows lie in the image x; see `window_places`."""
    window, layer, image = center.shape[2:4], center.shape[4:], x.shape[1:]
    return window_places(
        (window[0], window[1]), (layer[1], layer[2]), (image[0], image[1], image[2]), scale, offset, center.device
    )


def under_windows(x: Tensor, places: Tensor) -> Tensor:
    """Return the elements of the image under the entries of the windows, [B, C0, kh, kw, 1, H, W] float64."""
    padded = torch.nn.functional.pad(x.double().flatten(1), (0, 1))
    return padded[:, places]


def lower_and_upper(center: Tensor, radius: Tensor | None, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return center -/+ radius in float64, with zeros where entries lie outside the image."""
    rows = center.double().where(inside, 0.0)
    spread = torch.zeros_like(rows) if radius is None else radius.double().where(inside, 0.0)
    return rows - spread, rows + spread


def _with_biases(
    lower: Tensor, upper: Tensor, center_bias: Tensor, radius_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    bias = center_bias.double()
    spread = torch.zeros_like(bias) if radius_bias is None else radius_bias.double()
    return (lower + (bias - spread)).to(center_bias.dtype), (upper + (bias + spread)).to(center_bias.dtype)
