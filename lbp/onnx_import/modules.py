"""Small modules for operators that torch.nn has no module for; torch.fx traces through them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Reshape(nn.Module):
    """Every example in another shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, *any] as [B, *shape]."""
        return x.reshape(x.shape[0], *self.shape)


class Permute(nn.Module):
    """The dimensions in another order; `order[0]` is 0, the batch."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """Return x with its dimensions permuted."""
        return x.permute(self.order)


class Part(nn.Module):
    """Entries `start : stop : step` along one dimension."""

    def __init__(self, dim: int, start: int, stop: int, step: int = 1) -> None:
        super().__init__()
        self.dim, self.start, self.stop, self.step = dim, start, stop, step

    def forward(self, x: Tensor) -> Tensor:
        """Return the entries."""
        index = (slice(None),) * self.dim
        return x[(*index, slice(self.start, self.stop, self.step))]


class Concat(nn.Module):
    """Values one after the other along one dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *parts: Tensor) -> Tensor:
        """Return the parts joined."""
        return torch.cat(parts, dim=self.dim)


class Combine(nn.Module):
    """`first + weight * second` of two values of the network."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the combination."""
        return first + second if self.weight == 1 else torch.add(first, second, alpha=self.weight)


class ScaleShift(nn.Module):
    """`scale * x + shift` with constants that broadcast to x; None: left out."""

    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, scale: Tensor | None = None, shift: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled and shifted value."""
        if self.scale is not None:
            x = x * self.scale
        return x if self.shift is None else x + self.shift


class Divide(nn.Module):
    """`x / divisor` by a constant that broadcasts to x. A stored reciprocal would be another network, by rounding."""

    divisor: Tensor

    def __init__(self, divisor: Tensor) -> None:
        super().__init__()
        self.register_buffer("divisor", divisor)

    def forward(self, x: Tensor) -> Tensor:
        """Return the quotient."""
        return x / self.divisor


class AddMultiple(nn.Module):
    """`x + weight * constant`, the product not rounded before."""

    constant: Tensor

    def __init__(self, constant: Tensor, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("constant", constant)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        return torch.add(x, self.constant, alpha=self.weight)


class AtLeast(nn.Module):
    """`max(x, limit)`, as a ReLU between two shifts."""

    limit: Tensor

    def __init__(self, limit: Tensor) -> None:
        super().__init__()
        self.register_buffer("limit", limit)

    def forward(self, x: Tensor) -> Tensor:
        """Return the larger of value and limit."""
        return functional.relu(x - self.limit) + self.limit


class AtMost(nn.Module):
    """`min(x, limit)`, as a ReLU between two shifts."""

    limit: Tensor

    def __init__(self, limit: Tensor) -> None:
        super().__init__()
        self.register_buffer("limit", limit)

    def forward(self, x: Tensor) -> Tensor:
        """Return the smaller of value and limit."""
        return self.limit - functional.relu(self.limit - x)


class Entries(nn.Module):
    """Entries along one dimension, in any order.

    Attributes:
        places: which ones, as a list or lists of lists, whose dimensions take the place of that one.
    """

    def __init__(self, dim: int, places: list[Any]) -> None:
        super().__init__()
        self.dim, self.places = dim, places

    def forward(self, x: Tensor) -> Tensor:
        """Return the entries."""
        index: tuple[Any, ...] = (*[slice(None)] * self.dim, self.places)
        return x[index]


class Pad(nn.Module):
    """Padding by amounts before and after the last dimension, the one before it, and so on; negative ones crop.

    Attributes:
        mode: as `torch.nn.functional.pad` names it; constants are zeros.
    """

    def __init__(self, amounts: tuple[int, ...], mode: str = "constant") -> None:
        super().__init__()
        self.amounts, self.mode = amounts, mode

    def forward(self, x: Tensor) -> Tensor:
        """Return the padded value."""
        return functional.pad(x, self.amounts, self.mode)


class Repeat(nn.Module):
    """A value several times in a row, so often along every dimension; the batch once."""

    def __init__(self, times: tuple[int, ...]) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        """Return the repeated value."""
        return x.repeat(self.times)


class Expand(nn.Module):
    """Dimensions of size 1 repeated until every example has a shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, *any] as [B, *shape]."""
        return x.expand(-1, *self.shape)


class Reduce(nn.Module):
    """Sums or means over some dimensions."""

    def __init__(self, dims: tuple[int, ...], *, mean: bool, keep: bool) -> None:
        super().__init__()
        self.dims, self.mean, self.keep = dims, mean, keep

    def forward(self, x: Tensor) -> Tensor:
        """Return the sums or means."""
        return x.mean(self.dims, keepdim=self.keep) if self.mean else x.sum(self.dims, keepdim=self.keep)
