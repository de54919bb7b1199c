"""Dual norms of rows, as the bounds over l_p balls and their gradients take them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dual_exponent(p: float) -> float:
    """Return q with 1/p + 1/q = 1."""
    if p == 1:
        return math.inf
    return 1.0 if math.isinf(p) else p / (p - 1)


def dual_norm(rows: Tensor, p: float, dim: int) -> Tensor:
    """Return the l_q norm along ``dim``, scaled by its largest entry so that no power underflows.

    Its gradient at 0 is 0.
    """
    q = dual_exponent(p)
    magnitude = rows.abs()
    if rows.shape[dim] == 0:
        return magnitude.sum(dim)
    largest = magnitude.amax(dim, keepdim=True)
    if math.isinf(q):
        return largest.squeeze(dim)
    if q == 1:
        return magnitude.sum(dim)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest)).detach()
    powers = ((magnitude / scale) ** q).sum(dim)
    root = torch.where(powers > 0, powers, torch.ones_like(powers)) ** (1 / q)
    return torch.where(powers > 0, root * scale.squeeze(dim), powers)


def norm_and_slope(rows: Tensor, p: float, dim: int) -> tuple[Tensor, Tensor]:
    """Return the dual norms of rows along a dimension, and their derivatives by the rows; 0 for a row of zeros."""
    norm = dual_norm(rows, p, dim)
    largest, magnitude = norm.unsqueeze(dim), rows.abs()
    if math.isinf(p):
        return norm, rows.sign()
    if p == 1:
        ties = magnitude == largest
        return norm, rows.sign() * ties / ties.sum(dim, keepdim=True)
    safe = torch.where(largest > 0, largest, 1.0)
    return norm, rows.sign() * (magnitude / safe) ** (1 / (p - 1))
