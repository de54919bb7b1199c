"""Networks in exact arithmetic, the oracle of the tests of rounding.

A floating-point number is an integer times a power of two, and so are sums and products of such numbers: Python's
integers hold them without rounding. Quotients (average pooling) are fractions, and the one irrational number that a
layer needs, the square root of batch normalisation, is taken with 300 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce, singledispatch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lbp.nn import ParamRamp


@dataclass(frozen=True)
class Exact:
    """The numbers `numerators * 2**-places`.

    Attributes:
        numerators: array of Python's integers or fractions.
        places: binary places, not negative.
    """

    numerators: np.ndarray
    places: int

    @classmethod
    def of(cls, values: Tensor) -> Exact:
        """Return what a tensor of finite float32 or float64 numbers holds."""
        mantissas, exponents = np.frexp(values.detach().double().numpy())
        integers = np.ldexp(mantissas, 53).astype(np.int64)
        exponents = np.where(integers == 0, 0, exponents - 53)
        places = max(0, -int(exponents.min(initial=0)))
        shifts = (exponents + places).astype(object)
        return cls(np.asarray(integers.astype(object) << shifts, dtype=object), places)

    @classmethod
    def zeros(cls, *shape: int) -> Exact:
        """Return zeros of a shape."""
        return cls(np.zeros(shape, dtype=object), 0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.numerators.shape

    def reshape(self, *shape: int) -> Exact:
        """Return the numbers in another shape."""
        return Exact(self.numerators.reshape(shape), self.places)

    def each(self, function: Callable[[np.ndarray], np.ndarray]) -> Exact:
        """Return the numbers after a function that moves, selects or compares them with zero."""
        return Exact(np.asarray(function(self.numerators), dtype=object), self.places)

    @property
    def mT(self) -> Exact:
        """The transposed matrix."""
        return self.each(lambda values: values.T)

    def __add__(self, other: Exact) -> Exact:
        places = max(self.places, other.places)
        return Exact(np.asarray(self._at(places) + other._at(places), dtype=object), places)

    def __neg__(self) -> Exact:
        return self.each(np.negative)

    def __sub__(self, other: Exact) -> Exact:
        return self + -other

    def __mul__(self, other: Exact) -> Exact:
        return Exact(np.asarray(self.numerators * other.numerators, dtype=object), self.places + other.places)

    def __matmul__(self, other: Exact) -> Exact:
        return Exact(self.numerators @ other.numerators, self.places + other.places)

    def __le__(self, other: Exact) -> np.ndarray:
        places = max(self.places, other.places)
        return (self._at(places) <= other._at(places)).astype(bool)

    def positive(self) -> Exact:
        """Return `max(x, 0)`."""
        return self.each(lambda values: np.maximum(values, 0))

    def negative(self) -> Exact:
        """Return `min(x, 0)`."""
        return self.each(lambda values: np.minimum(values, 0))

    def _at(self, places: int) -> np.ndarray:
        return self.numerators * (1 << (places - self.places))


def number(value: float | Fraction) -> Exact:
    """Return a single number."""
    if isinstance(value, Fraction):
        return Exact(np.asarray(value, dtype=object), 0)
    return Exact.of(torch.tensor(value, dtype=torch.float64))


def smaller(first: Exact, second: Exact) -> Exact:
    """Return the smaller number of each pair."""
    return first + (second - first).negative()


class Residual(nn.Module):
    """`x + body(x)`."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ScaleShift(nn.Module):
    """`x * scale + shift` by buffers."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Difference(nn.Module):
    """The output of one module minus that of another."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) - self.second(x)


class Beside(nn.Module):
    """The outputs of two modules, one after the other along the first dimension of an example."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x), self.second(x)], 1)


@singledispatch
def value(module: nn.Module, x: Exact) -> Exact:
    """Return the module's exact value at points [N, *shape]."""
    raise NotImplementedError(type(module).__name__)


@value.register
def _(module: nn.Sequential, x: Exact) -> Exact:
    return reduce(lambda values, layer: value(layer, values), module, x)


@value.register
def _(module: nn.Linear, x: Exact) -> Exact:
    result = x @ Exact.of(module.weight).mT
    return result if module.bias is None else result + Exact.of(module.bias)


@value.register
def _(module: nn.Conv2d, x: Exact) -> Exact:
    inputs = math.prod(x.shape[1:])
    basis = torch.eye(inputs, dtype=torch.float64).reshape(inputs, *x.shape[1:])
    # Every entry of the matrix is one entry of the kernel, so float64 holds it.
    images = functional.conv2d(
        basis, module.weight.double(), None, module.stride, module.padding, module.dilation, module.groups
    )
    result = (x.reshape(x.shape[0], -1) @ Exact.of(images.flatten(1))).reshape(x.shape[0], *images.shape[1:])
    return result if module.bias is None else result + Exact.of(module.bias[:, None, None])


@value.register
def _(module: nn.Flatten, x: Exact) -> Exact:
    return x.reshape(x.shape[0], -1)


@value.register
def _(module: nn.ReLU, x: Exact) -> Exact:
    return x.positive()


@value.register
def _(module: ParamRamp, x: Exact) -> Exact:
    eta = Exact.of(module.eta)
    return eta * x + (number(1.0) - eta) * smaller(x.positive(), Exact.of(module.effective_r()))


@value.register
def _(module: Residual, x: Exact) -> Exact:
    return x + value(module.body, x)


@value.register
def _(module: ScaleShift, x: Exact) -> Exact:
    return x * Exact.of(module.scale) + Exact.of(module.shift)


@value.register
def _(module: Difference, x: Exact) -> Exact:
    return value(module.first, x) - value(module.second, x)


@value.register
def _(module: Beside, x: Exact) -> Exact:
    first, second = value(module.first, x), value(module.second, x)
    places = max(first.places, second.places)
    return Exact(np.concatenate([first._at(places), second._at(places)], axis=1), places)


@value.register
def _(module: nn.BatchNorm1d | nn.BatchNorm2d, x: Exact) -> Exact:
    columns, channels = [], (-1, *[1] * (len(x.shape) - 2))
    # PyTorch rounds the number to the format of the statistics.
    eps = torch.tensor(module.eps, dtype=module.running_var.dtype).item()
    for variance in module.running_var.tolist():
        squared = Fraction(variance) + Fraction(eps)
        columns.append(Fraction(2**300, math.isqrt(int(squared * 2**600))))
    scale = Exact(np.array(columns, dtype=object).reshape(channels), 0)
    mean, weight, bias = (
        Exact.of(part.reshape(channels)) for part in (module.running_mean, module.weight, module.bias)
    )
    return (x - mean) * scale * weight + bias


def _windows(module: nn.AvgPool2d | nn.MaxPool2d, x: Exact) -> np.ndarray:
    """Return the numerators [N, C, taps, rows, columns] under every window of an image, without padding."""
    height, width = x.shape[2:]
    places = torch.arange(height * width, dtype=torch.float64).reshape(1, 1, height, width)
    taps = functional.unfold(places, module.kernel_size, stride=module.stride)[0].long().numpy()
    rows = (height - module.kernel_size) // module.stride + 1
    return x.numerators.reshape(*x.shape[:2], -1)[:, :, taps].reshape(*x.shape[:2], len(taps), rows, -1)


@value.register
def _(module: nn.AvgPool2d, x: Exact) -> Exact:
    windows = _windows(module, x)
    return Exact(windows.sum(2), x.places) * number(Fraction(1, windows.shape[2]))


@value.register
def _(module: nn.MaxPool2d, x: Exact) -> Exact:
    return Exact(_windows(module, x).max(2), x.places)


def linear_range(matrix: Exact, constant: Exact, lower: Exact, upper: Exact) -> tuple[Exact, Exact]:
    """Return the extreme values [B, S] of `matrix x + constant`, matrix [S, n], over boxes [B, n]."""
    above, below = matrix.positive().mT, matrix.negative().mT
    return lower @ above + upper @ below + constant, upper @ above + lower @ below + constant


def interval_range(layers: list[nn.Linear], lower: Exact, upper: Exact) -> tuple[Exact, Exact]:
    """Return what interval arithmetic gives for a chain of affine layers over boxes [B, n]."""
    for layer in layers:
        bias = Exact.zeros(1) if layer.bias is None else Exact.of(layer.bias)
        lower, upper = linear_range(Exact.of(layer.weight), bias, lower, upper)
    return lower, upper
