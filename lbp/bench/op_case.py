"""One op at one shape, and random inputs for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lbp.bench.layers import AffineLayer
from lbp.strategies import side_names

SPECIFICATIONS = 9
"""Rows of the specification: the margins of ten classes."""

COMPILED = ("DM-Large conv1", "DM-Large conv3", "DM-Medium conv1", "DM-Medium fc1", "DM-Small conv1")
"""Layers at whose shapes the reference is run under `torch.compile` as well: every shape costs a compilation."""

NOT_COMPILED = ("forward_conv2d_windows", "insert_forward_windows")
"""Ops of which `torch.compile` takes minutes for a shape: it writes sums over shifted slices out for every entry."""


@dataclass(frozen=True)
class OpCase:
    """One op at one shape.

    Attributes:
        op: name in `lbp.ops`.
        shape: in words.
        activation: "ReLU" or "ParamRamp"; "" where the op knows none.
        call: runs it on the tensors, on the backend that is current.
        tensors: its floating-point inputs; gradients are taken with respect to those that require them.
        moved_bytes: that the call cannot avoid: each input read and each output written once.
        operations: of its products; 0 where it has none.
        parameters: the sizes in `shape`.
        compiled: whether the reference is run under `torch.compile` as well.
    """

    op: str
    shape: str
    activation: str
    call: Callable[[], Any]
    tensors: tuple[Tensor, ...]
    moved_bytes: int
    operations: int = 0
    parameters: dict[str, int] = field(default_factory=dict)
    compiled: bool = False

    @property
    def name(self) -> str:
        """Op and shape."""
        return f"{self.op} {self.shape}"

    @property
    def backward_bytes(self) -> int:
        """That the gradient cannot avoid: inputs and gradients of results read once, gradients of inputs written."""
        return self.moved_bytes + bytes_of(*(tensor for tensor in self.tensors if tensor.requires_grad))

    @property
    def backward_operations(self) -> int:
        """Of the products of the gradient: one for the input and one for the weight."""
        return 2 * self.operations


class Shape:
    """Makes random inputs for a layer and counts bytes."""

    def __init__(
        self,
        layer: AffineLayer,
        batch: int,
        device: torch.device,
        rows: int = SPECIFICATIONS,
        *,
        sides: str = "lower",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.layer = layer
        self.batch = batch
        self.rows = rows
        self.device = device
        self.sides = sides
        self.dtype = dtype
        self.neurons = math.prod(layer.output_shape)

    @property
    def side_count(self) -> int:
        """Sides of coefficients."""
        return len(side_names(self.sides))

    @property
    def words(self) -> str:
        """What differs from most shapes, behind the sizes in names of cases."""
        both = " both sides" if self.side_count == 2 else ""
        return both + (" float64" if self.dtype == torch.float64 else "")

    @cached_property
    def generator(self) -> torch.Generator:
        """Of the random numbers, on the device."""
        return torch.Generator(self.device).manual_seed(0)

    def normal(self, *shape: int) -> Tensor:
        """Returns normally distributed numbers; none is 0, where what a gradient is is a matter of convention."""
        numbers = torch.randn(*shape, dtype=self.dtype, device=self.device, generator=self.generator)
        return numbers.masked_fill_(numbers == 0, 1.0)

    def uniform(self, *shape: int) -> Tensor:
        """Returns numbers in [0, 1)."""
        return torch.rand(*shape, dtype=self.dtype, device=self.device, generator=self.generator)

    def coefficients(self, *layer: int) -> Tensor:
        """Returns coefficients [K, B, S, *layer]."""
        return self.normal(self.side_count, self.batch, self.rows, *layer)

    def weights(self) -> tuple[Tensor, Tensor | None]:
        """Returns weight, whose gradient is taken, and bias of the layer."""
        weight, bias = self.layer.module.weight.detach(), self.layer.module.bias
        on = (self.device, self.dtype)
        return weight.to(*on).requires_grad_(), None if bias is None else bias.detach().to(*on)

    def center_and_radius(self, *shape: int) -> tuple[Tensor, Tensor]:
        """Returns centers and radii; no end is 0, where what a gradient is is a matter of convention."""
        center, radius = self.normal(*shape), self.uniform(*shape)
        return center, radius.masked_fill_(radius == center.abs(), 1.0)

    def bounds(self, *shape: int) -> tuple[Tensor, Tensor]:
        """Returns lower and upper bounds [B, *shape].

        Odd multiples of 2^-15: neither 0 nor bending points, where what a gradient is is a matter of convention.
        """
        l = (self.normal(self.batch, *shape) * 2**14).floor_().add_(0.5) / 2**14
        width = (self.uniform(self.batch, *shape) * 2**14).floor_().add_(1.0) / 2**14
        return l, width.add_(l)

    def bending_points(self, *shape: int) -> Tensor:
        """Returns bending points, multiples of 2^-10 in [0.5, 1.5)."""
        return (self.uniform(*shape) * 2**10).floor_() / 2**10 + 0.5

    def sizes(self) -> dict[str, int]:
        """Returns what describes coefficients of the layer."""
        return {"B": self.batch, "S": self.rows, "n": self.neurons}


def taps_at(places: int, kernel: int, size: int, *, stride: int, padding: int, dilation: int) -> list[int]:
    """Returns how many taps of a kernel lie on the input, at each place of the output along an axis.

    Args:
        places: of the output.
        kernel: taps.
        size: of the input.
        stride: of the places.
        padding: how far before the input the first tap lies at the first place.
        dilation: distance of the taps.
    """
    firsts = (stride * place - padding for place in range(places))
    return [sum(0 <= first + dilation * tap < size for tap in range(kernel)) for first in firsts]


def taps_of(module: nn.Conv2d, places: tuple[int, int], size: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Returns `taps_at` of the rows and of the columns of a convolution's output."""
    geometry = geometry_of(module)
    rows, columns = (
        taps_at(
            places[i],
            module.kernel_size[i],
            size[i],
            **{name: geometry[name][i] for name in ("stride", "padding", "dilation")},
        )
        for i in range(2)
    )
    return rows, columns


def multiply_adds(layer: AffineLayer) -> int:
    """Returns the multiply-adds of one application of a layer, without those of taps that lie in padding."""
    module = layer.module
    channels = module.weight.shape[0] * module.weight.shape[1]
    if not isinstance(module, nn.Conv2d):
        return channels
    (_, *places), (_, *size) = layer.output_shape, layer.input_shape
    rows, columns = taps_of(module, (places[0], places[1]), (size[0], size[1]))
    return channels * sum(rows) * sum(columns)


def bytes_of(*tensors: Tensor) -> int:
    """Returns the bytes of the numbers in tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def words_of(sizes: dict[str, int]) -> str:
    """Returns sizes as text."""
    return " ".join(f"{name}={size:,}" for name, size in sizes.items())


def wanted(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Returns the tensors, which from now on require gradients."""
    return tuple(tensor.requires_grad_() for tensor in tensors)


def activations(shape: Shape, *layer: int) -> Iterator[tuple[str, dict[str, Any], tuple[Tensor, ...]]]:
    """Yields name, parameters and trainable tensors of both activations."""
    yield "ReLU", {}, ()
    r = shape.bending_points(*layer)
    yield "ParamRamp", {"r": r, "eta": 0.01}, wanted(r)


def geometry_of(module: nn.Conv2d) -> dict[str, Any]:
    """Returns stride, padding, dilation and groups as the ops take them."""
    return {
        "stride": tuple(module.stride),
        "padding": tuple(int(pad) for pad in module.padding),
        "dilation": tuple(module.dilation),
        "groups": module.groups,
    }
