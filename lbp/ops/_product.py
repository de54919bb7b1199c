"""Matrix products: by the faster of the CPU's two libraries, and one that autograd differentiates in full precision."""

from __future__ import annotations

import platform
import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lbp.ops._calls import are_plain
from lbp.precision import X86_64, full_precision

_LARGE = 2**21
"""Multiply-adds from which oneDNN's product, whose call takes 10 us more, is the faster one."""

_one_dnn = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if platform.machine() in X86_64 and torch.backends.mkldnn.is_available()
    else None
)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x weight^T + bias`, as `torch.nn.functional.linear` does.

    PyTorch leaves float32 products on a CPU to MKL, which uses half of the width of an AMD processor's AVX-512. There
    oneDNN, which convolves for PyTorch, takes 0.35 to 0.6 of its time. Both add up products of the operands themselves.

    Args:
        x: [..., n_in].
        weight: [n_out, n_in]; it may be a transposed matrix.
        bias: [n_out] or None.
    """
    if _one_dnn is not None and _is_large(x, weight) and _takes(x, weight, bias):
        result: Tensor = _one_dnn(x, weight, bias, "none", [], "")
        return result
    return functional.linear(x, weight, bias)


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Return `left @ right` of [..., n] and [n, m]; see `linear`."""
    return linear(left, right.mT) if left.numel() * right.shape[1] >= _LARGE else left @ right


def batched_linear(x: Tensor, weights: Tensor) -> Tensor:
    """Return `x weights^T` of every image's own matrix, [K, B, S, m]; see `linear`.

    PyTorch has MKL multiply batches of matrices. Of large ones oneDNN, image after image, takes 0.2 to 0.9 of the time.

    Args:
        x: [K, B, S, n].
        weights: [B or 1, m, n]; they may be transposed matrices.
    """
    if len(weights) == 1:
        return linear(x, weights[0])
    # Both sides as rows of one product: otherwise PyTorch copies the matrices for each of them.
    rows = x.transpose(0, 1).flatten(1, 2)
    if _one_dnn is not None and len(rows) and _is_large(rows[0], weights[0], 2 * _LARGE) and _takes(x, weights[0]):
        result = rows.new_empty(*rows.shape[:2], weights.shape[1])
        for image, weight in enumerate(weights):
            result[image] = linear(rows[image], weight)
    else:
        result = rows @ weights.mT
    by_side: Tensor = result.unflatten(1, (x.shape[0], x.shape[2]))
    return by_side.transpose(0, 1)


def _is_large(x: Tensor, weight: Tensor, least: int = _LARGE) -> bool:
    """Whether a product has so many multiply-adds that oneDNN is the faster one; vectors are no faster there."""
    return x.numel() * weight.shape[0] >= least and x.numel() > x.shape[-1] > 1


def _takes(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN may compute a product: of PyTorch's own tensors in float32, of which no gradient is wanted."""
    tensors = (x, weight) if bias is None else (x, weight, bias)
    return (
        are_plain(tensors)
        and all(t.dtype == torch.float32 for t in tensors)
        and (weight.is_contiguous() or weight.mT.is_contiguous())
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        and not torch._C._are_functorch_transforms_active()
        and torch._C._get_mkldnn_enabled()
    )


_SPLIT_BLOCKS = 528
"""Blocks, at most, among which a fused product on a CUDA device splits its depth (csrc/cuda/tile_plan.h) ..."""

_LEAST_DEPTH_TO_SPLIT = 256
"""... where that is as deep as this."""


def split_product_bytes(
    columns: int, depth: int, itemsize: int, *, sums: int, constants: bool = False, rows: int = sys.maxsize
) -> int:
    """Return the most bytes that a fused product on a CUDA device takes for partial sums.

    Args:
        columns: of the result.
        depth: terms of its sums.
        itemsize: bytes of a number.
        sums: how many there are of each of its entries, 1 or 2.
        constants: whether rows have a constant, in float64.
        rows: of the result, at most.
    """
    if depth < _LEAST_DEPTH_TO_SPLIT:
        return 0
    tall, wide, numbers = (128, 128, 128 * 64) if itemsize == 4 else (64, 128, 64 * 64)  # of the largest tiles
    rows = min(rows, tall)
    return _SPLIT_BLOCKS * (min(rows * min(columns, wide), numbers) * sums * itemsize + 8 * rows * constants)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        with full_precision():
            return left @ right

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        left, right = ctx.saved_tensors
        return product(gradients[0], right.mT), product(left.mT, gradients[0])


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return `left @ right` of [*batch, n, k] and [*batch, k, m], the same batch in both."""
    result: Tensor = _Product.apply(left, right)  # type: ignore[no-untyped-call]
    return result
