"""The grid of the ops' measurements: every op, at the shapes of the paper's networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lbp import ops
from lbp.bench.layers import AffineLayer, affine_layers

SPECIFICATIONS = 9
"""Rows of the specification: the margins of ten classes."""

ACTIVATIONS = ("ReLU", "ParamRamp")


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
    """

    op: str
    shape: str
    activation: str
    call: Callable[[], Any]
    tensors: tuple[Tensor, ...]
    moved_bytes: int
    operations: int = 0
    parameters: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Op and shape."""
        return f"{self.op} {self.shape}"


def op_cases(device: torch.device, *, quick: bool = False) -> Iterator[OpCase]:
    """Yields the grid; tensors of a case are made when it is reached.

    Args:
        device: where the tensors live.
        quick: only the shapes of DM-Small, one example.
    """
    networks, batches = (("DM-Small",), (1,)) if quick else (("DM-Small", "DM-Medium", "DM-Large"), (1, 32))
    seen: set[tuple[int, int]] = set()
    on_gpu = device.type == "cuda" and not quick
    if on_gpu:  # first what fills a GPU, in case time runs out
        shape = _Shape(next(iter(affine_layers("DM-Large"))), 32, device)
        seen.add((shape.batch, shape.neurons))
        yield from _activation_cases(shape)
        yield from _rows_of_crown(device)
    for network in networks:
        for layer in affine_layers(network):
            for batch in batches:
                shape = _Shape(layer, batch, device)
                key = (batch, shape.neurons)
                if not layer.is_output and key not in seen:
                    seen.add(key)
                    yield from _activation_cases(shape)
                yield from _product_cases(shape)
    if not quick and not on_gpu:
        yield from _rows_of_crown(device)


class _Shape:
    """Makes random inputs for a layer and counts bytes."""

    def __init__(self, layer: AffineLayer, batch: int, device: torch.device, rows: int = SPECIFICATIONS) -> None:
        self.layer = layer
        self.batch = batch
        self.rows = rows
        self.generator = torch.Generator(device).manual_seed(0)
        self.device = device
        self.neurons = math.prod(layer.output_shape)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device, generator=self.generator)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, device=self.device, generator=self.generator)

    def bounds(self, *shape: int) -> tuple[Tensor, Tensor]:
        l = self.normal(self.batch, *shape)
        return l, l + self.uniform(self.batch, *shape)

    def sizes(self) -> dict[str, int]:
        return {"B": self.batch, "S": self.rows, "n": self.neurons}


def _numbers(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _words(sizes: dict[str, int]) -> str:
    return " ".join(f"{name}={size:,}" for name, size in sizes.items())


def _wanted(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.requires_grad_() for tensor in tensors)


def _activations(shape: _Shape, *layer: int) -> Iterator[tuple[str, dict[str, Any], tuple[Tensor, ...]]]:
    """Yields name, parameters and trainable tensors of both activations."""
    yield "ReLU", {}, ()
    r = shape.uniform(*layer) + 0.5
    yield "ParamRamp", {"r": r, "eta": 0.01}, _wanted(r)


def _activation_cases(shape: _Shape) -> Iterator[OpCase]:
    n = shape.neurons
    narrow = {"B": shape.batch, "n": n}
    for activation, parameters, trained in _activations(shape, n):
        l, u = _wanted(*shape.bounds(n))
        x, x_U = l.detach(), u.detach()

        def case(
            op: str,
            tensors: Sequence[Tensor],
            moved: int,
            call: Callable[[], Any],
            sizes: dict[str, int] = narrow,
            of: str = activation,
            trained: tuple[Tensor, ...] = trained,
        ) -> OpCase:
            return OpCase(op, _words(sizes), of, call, (*tensors, *trained), moved, parameters=sizes)

        pair = _numbers(l, u)
        yield case("ramp", (l,), pair, partial(ops.ramp, l, **parameters))
        yield case("ramp_interval", (l, u), 2 * pair, partial(ops.ramp_interval, l, u, **parameters))
        yield case("bounding_lines", (l, u), 3 * pair, partial(ops.bounding_lines, l, u, **parameters))
        yield _relax_backward(shape, activation, parameters, (l, u), trained)
        if shape.batch == 1:
            inputs = math.prod(shape.layer.input_shape)
            if shape.device.type == "cuda":
                inputs = min(inputs, 2**26 // n)
            elif inputs * n >= 2**23:
                inputs = 64
            yield from _forward_cases(shape, inputs, activation, parameters, (l, u), trained)
        if activation == "ReLU":
            yield from _concretize_cases(shape, x, x_U)


def _relax_backward(
    shape: _Shape,
    activation: str,
    parameters: dict[str, Any],
    bounds: tuple[Tensor, ...],
    trained: tuple[Tensor, ...],
) -> OpCase:
    l, u = bounds
    (A,) = _wanted(shape.normal(1, shape.batch, shape.rows, shape.neurons))
    return OpCase(
        "relax_backward",
        _words(shape.sizes()),
        activation,
        partial(ops.relax_backward, A, l, u, sides="lower", **parameters),
        (A, l, u, *trained),
        2 * _numbers(A) + _numbers(l, u),
        parameters=shape.sizes(),
    )


def _concretize_cases(shape: _Shape, x: Tensor, x_U: Tensor) -> Iterator[OpCase]:
    (A,) = _wanted(shape.normal(1, shape.batch, shape.rows, shape.neurons))
    moved = _numbers(A, x)
    words = _words(shape.sizes())
    box = partial(ops.concretize_box, A, x, x_U, sides="lower")
    yield OpCase("concretize_box", words, "", box, (A,), moved + _numbers(x), parameters=shape.sizes())
    for p in (1.0, 2.0, math.inf):
        ball = partial(ops.concretize_ball, A, x, 0.1, p, sides="lower")
        yield OpCase(f"concretize_ball p={p:g}", words, "", ball, (A,), moved, parameters=shape.sizes())


def _forward_cases(
    shape: _Shape,
    inputs: int,
    activation: str,
    parameters: dict[str, Any],
    bounds: tuple[Tensor, ...],
    trained: tuple[Tensor, ...],
) -> Iterator[OpCase]:
    l, u = bounds
    n = shape.neurons
    sizes = {"B": shape.batch, "n0": inputs, "n": n}
    center, radius = _wanted(shape.normal(shape.batch, inputs, n), shape.uniform(shape.batch, inputs, n))
    center_bias, radius_bias = _wanted(shape.normal(shape.batch, n), shape.uniform(shape.batch, n))
    matrices = (center, radius, center_bias, radius_bias)
    yield OpCase(
        "relax_forward",
        _words(sizes),
        activation,
        partial(ops.relax_forward, *matrices, l, u, **parameters),
        (center, radius, l, u, *trained),
        2 * _numbers(center, radius) + _numbers(l, u),
        parameters=sizes,
    )
    if activation == "ReLU":
        x = shape.uniform(shape.batch, inputs)
        yield OpCase(
            "concretize_forward_box",
            _words(sizes),
            "",
            partial(ops.concretize_forward_box, *matrices, x, x + 0.1),
            (center, radius),
            _numbers(center, radius),
            parameters=sizes,
        )


def _geometry(module: nn.Conv2d) -> dict[str, Any]:
    return {
        "stride": tuple(module.stride),
        "padding": tuple(int(pad) for pad in module.padding),
        "dilation": tuple(module.dilation),
        "groups": module.groups,
    }


def _product_cases(shape: _Shape) -> Iterator[OpCase]:
    """The ops whose cost is a product: of the layer alone, and fused with the activation behind it."""
    layer = shape.layer
    weight = layer.module.weight.detach().to(shape.device).requires_grad_()
    bias = None if layer.module.bias is None else layer.module.bias.detach().to(shape.device)
    l, u = _wanted(*shape.bounds(*layer.input_shape))
    multiply_adds = weight.numel() * math.prod(layer.output_shape[1:])
    words = f"{layer.name} B={shape.batch}"
    sizes = {"B": shape.batch, "n": shape.neurons}
    interval: Callable[[], Any]
    if isinstance(layer.module, nn.Conv2d):
        geometry = _geometry(layer.module)
        interval = partial(ops.interval_conv2d, l, u, weight, bias, **geometry)
    else:
        interval = partial(ops.interval_linear, l, u, weight, bias)
    kind = "conv2d" if isinstance(layer.module, nn.Conv2d) else "linear"
    outputs = 2 * shape.batch * shape.neurons * weight.element_size()
    yield OpCase(
        f"interval_{kind}",
        words,
        "",
        interval,
        (l, u, weight),
        _numbers(l, u, weight) + outputs,
        4 * multiply_adds * shape.batch,
        sizes,
    )
    if layer.is_output:
        return
    for activation, parameters, trained in _activations(shape, *layer.output_shape):
        yield _fused(shape, activation, parameters, trained, (weight, bias), multiply_adds)


def _fused(
    shape: _Shape,
    activation: str,
    parameters: dict[str, Any],
    trained: tuple[Tensor, ...],
    weights: tuple[Tensor, Tensor | None],
    multiply_adds: int,
) -> OpCase:
    layer = shape.layer
    weight, bias = weights
    (A,) = _wanted(shape.normal(1, shape.batch, shape.rows, *layer.output_shape))
    l, u = _wanted(*shape.bounds(*layer.output_shape))
    call: Callable[[], Any]
    if isinstance(layer.module, nn.Conv2d):
        geometry = _geometry(layer.module)
        size = (layer.input_shape[1], layer.input_shape[2])
        call = partial(ops.relax_backward_conv2d, A, l, u, weight, bias, size, sides="lower", **geometry, **parameters)
    else:
        call = partial(ops.relax_backward_linear, A, l, u, weight, bias, sides="lower", **parameters)
    inputs = shape.batch * shape.rows * math.prod(layer.input_shape) * A.element_size()
    kind = "conv2d" if isinstance(layer.module, nn.Conv2d) else "linear"
    return OpCase(
        f"relax_backward_{kind}",
        f"{layer.name} B={shape.batch} S={shape.rows}",
        activation,
        call,
        (A, l, u, weight, *trained),
        _numbers(A, l, u, weight) + inputs,
        2 * multiply_adds * shape.batch * shape.rows,
        shape.sizes(),
    )


def _rows_of_crown(device: torch.device) -> Iterator[OpCase]:
    """Back-substitution from many neurons of one example, as in full CROWN."""
    layer = next(layer for layer in affine_layers("DM-Large") if layer.name.endswith("conv3"))
    shape = _Shape(layer, 1, device, rows=4096 if device.type == "cuda" else 1024)
    for activation, parameters, trained in _activations(shape, shape.neurons):
        l, u = _wanted(*shape.bounds(shape.neurons))
        yield _relax_backward(shape, activation, parameters, (l, u), trained)
        if device.type == "cuda":
            yield from _forward_cases(shape, 2**26 // shape.neurons, activation, parameters, (l, u), trained)
            if activation == "ReLU":
                yield from _concretize_cases(shape, l.detach(), u.detach())
