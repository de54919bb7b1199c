"""Bounds through Linear and Conv2d layers, in plain PyTorch (Lyu et al. 2021, sections 2 to 4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lbp.precision import full_precision
from lbp.reference.relax import ForwardMatrices, Relaxation, relax_backward
from lbp.strategies import side_names

Pair = tuple[int, int]


def interval_linear(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.interval_linear`."""
    with full_precision():
        center = F.linear((u + l) / 2, weight, bias)
        radius = F.linear((u - l) / 2, weight.abs())
    return center - radius, center + radius


def interval_conv2d(
    l: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.interval_conv2d`."""
    with full_precision():
        center = F.conv2d((u + l) / 2, weight, bias, stride, padding, dilation, groups)
        radius = F.conv2d((u - l) / 2, weight.abs(), None, stride, padding, dilation, groups)
    return center - radius, center + radius


def backward_linear(A: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.backward_linear`."""
    with full_precision():
        coefficients = A @ weight
    return coefficients, _bias_constants(A, bias)


def backward_conv2d(
    A: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    input_size: Pair,
    *,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.backward_conv2d`."""
    output_padding = conv2d_output_padding(A.shape[-2:], weight.shape[-2:], input_size, stride, padding, dilation)
    with full_precision():
        coefficients = F.conv_transpose2d(
            A.flatten(0, 2), weight, None, stride, padding, output_padding, groups, dilation
        )
    constants = _bias_constants(A, None if bias is None else bias[:, None, None])
    return coefficients.reshape(*A.shape[:3], *coefficients.shape[1:]), constants


def conv2d_output_padding(
    output_size: torch.Size, kernel: torch.Size, input_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Pair:
    """Return how many last rows and columns of its input a convolution never reads, as conv_transpose2d wants them."""
    height, width = (
        input_size[i] - ((output_size[i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1)
        for i in range(2)
    )
    return height, width


def _bias_constants(A: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return torch.zeros(A.shape[:3], dtype=torch.float64, device=A.device)
    return (A * bias).flatten(3).sum(-1, dtype=torch.float64)


def relax_backward_linear(
    A: Tensor, l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, *, sides: str, **relaxation: Relaxation
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.relax_backward_linear`."""
    relaxed, constants = relax_backward(A, l, u, sides=sides, bias=bias, **relaxation)
    return backward_linear(relaxed, weight, None)[0], constants


def relax_backward_conv2d(
    A: Tensor,
    l: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    input_size: Pair,
    *,
    sides: str,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    **relaxation: Relaxation,
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.relax_backward_conv2d`."""
    channel_bias = None if bias is None else bias[:, None, None]
    relaxed, constants = relax_backward(A, l, u, sides=sides, bias=channel_bias, **relaxation)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    return backward_conv2d(relaxed, weight, None, input_size, groups=groups, **geometry)[0], constants


def forward_linear(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
) -> ForwardMatrices:
    """See `lbp.ops.forward_linear`."""
    return _forward_affine(center, radius, center_bias, radius_bias, weight, bias, F.linear)


def forward_conv2d(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> ForwardMatrices:
    """See `lbp.ops.forward_conv2d`."""

    def convolve(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        flat = rows.reshape(-1, *rows.shape[-3:])
        result = F.conv2d(flat, weight, bias, stride, padding, dilation, groups)
        return result.reshape(*rows.shape[:-3], *result.shape[1:])

    return _forward_affine(center, radius, center_bias, radius_bias, weight, bias, convolve)


def _forward_affine(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    apply: Callable[..., Tensor],
) -> ForwardMatrices:
    """Apply W to the center and abs(W) to the radius of forward linear bounds."""
    magnitude = weight.abs()
    with full_precision():
        return (
            apply(center, weight),
            None if radius is None else apply(radius, magnitude),
            apply(center_bias, weight, bias),
            None if radius_bias is None else apply(radius_bias, magnitude),
        )


def insert_forward(
    A: Tensor,
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    *,
    sides: str,
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.insert_forward`."""
    rows = A.flatten(3)
    with full_precision():
        coefficients = rows @ center.flatten(2).mT
        constants = (rows * center_bias.flatten(1).unsqueeze(1)).sum(-1, dtype=torch.float64)
        sign = torch.tensor([-1.0 if side == "lower" else 1.0 for side in side_names(sides)], device=A.device)
        # |A| as pos(A) - neg(A): its gradient at A = 0 is that of pos(A).
        spread = torch.where(rows >= 0, rows, -rows) * sign.to(A.dtype).reshape(-1, 1, 1, 1)
        if radius is not None:
            coefficients = coefficients + spread @ radius.flatten(2).mT
        if radius_bias is not None:
            constants = constants + (spread * radius_bias.flatten(1).unsqueeze(1)).sum(-1, dtype=torch.float64)
    return coefficients, constants
