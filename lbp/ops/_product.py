"""A matrix product that autograd differentiates, in full precision there and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lbp.precision import full_precision


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
