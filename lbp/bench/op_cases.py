"""The grid of the ops' measurements: every op, at the shapes of the paper's networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lbp import ops
from lbp.backend import current_backend
from lbp.bench.layers import AffineLayer, affine_layers
from lbp.bench.op_case import (
    COMPILED,
    NOT_COMPILED,
    OpCase,
    Shape,
    activations,
    bytes_of,
    geometry_of,
    multiply_adds,
    wanted,
    words_of,
)
from lbp.bench.window_cases import window_cases
from lbp.ops._arguments import native
from lbp.ops.outward_intervals import Widening, outward_interval_conv2d, outward_interval_linear
from lbp.precision import full_precision

OP_NAMES = (
    *(name for name in ops.__all__ if not name[0].isupper()),
    *("interval_conv2d_fused", "outward_interval_conv2d", "outward_interval_linear"),
)
"""Of the grid, without the exponents of norms."""


def op_cases(device: torch.device, *, quick: bool = False) -> Iterator[OpCase]:
    """Yields the grid; tensors of a case are made when it is reached.

    Args:
        device: where the tensors live.
        quick: only the shapes of DM-Small, one example.
    """
    networks, batches = (("DM-Small",), (1,)) if quick else (("DM-Large", "DM-Medium", "DM-Small"), (32, 1))
    seen: set[tuple[int, int]] = set()
    on_gpu = device.type == "cuda" and not quick
    if on_gpu:  # first what fills a GPU, in case time runs out
        shape = Shape(next(iter(affine_layers("DM-Large"))), 32, device)
        seen.add((shape.batch, shape.neurons))
        yield from filling_cases(shape)
        yield from _narrow_convolutions(device)
    for network in networks:
        for layer in affine_layers(network):
            for batch in batches:
                for case in _cases(Shape(layer, batch, device), seen):
                    several = batch > 1 or "n0" in case.parameters
                    compiled = not quick and layer.name in COMPILED and case.op not in NOT_COMPILED
                    yield replace(case, compiled=compiled and several)
    if not quick and not on_gpu:
        yield from _rows_of_crown(device)
    if not quick:
        yield from _other_variants(device)


def _other_variants(device: torch.device) -> Iterator[OpCase]:
    """Both sides, as hidden layers have them in CROWN, and float64, of one image and of several.

    Of both sides the ops with rows, of float64 all but those on windows; the layers are a convolution and a linear one.
    """
    layers = [layer for layer in affine_layers("DM-Medium") if layer.name.endswith((" conv2", " fc1"))]
    for layer, batch in product(layers, (32, 1)):
        both, double = (Shape(layer, batch, device, sides="both"), Shape(layer, batch, device, dtype=torch.float64))
        for shape in (both, double):
            for case in chain(_activation_cases(shape), _product_cases(shape)):
                if shape is double or "S" in case.parameters:
                    yield case


def filling_cases(shape: Shape) -> Iterator[OpCase]:
    """Yields the ops that memory bounds at sizes that fill a GPU.

    Args:
        shape: a large layer and several images; the ops without rows take more images besides, as theirs would lie in
            a GPU's cache.
    """
    yield from _activation_cases(shape)
    for activation, parameters, trained in activations(shape, shape.neurons):
        bounds = wanted(*shape.bounds(shape.neurons))
        yield _relax_forward(shape, activation, parameters, bounds, _forward_bounds(shape), trained)
    yield from _rows_of_crown(shape.device)
    many = Shape(shape.layer, 16 * shape.batch, shape.device)
    for activation, parameters, trained in activations(many, many.neurons):
        yield from _ramp_cases(many, activation, parameters, wanted(*many.bounds(many.neurons)), trained)


def _cases(shape: Shape, seen: set[tuple[int, int]]) -> Iterator[OpCase]:
    """The cases of a layer; those of its activation unless a layer of the same size had them."""
    key = (shape.batch, shape.neurons)
    if not shape.layer.is_output and key not in seen:
        seen.add(key)
        yield from _activation_cases(shape)
    yield from _product_cases(shape)
    if shape.batch == 1 and not shape.layer.is_output:
        yield from _forward_products(shape)
        if isinstance(shape.layer.module, nn.Conv2d):
            yield from window_cases(shape)


def _activation_cases(shape: Shape) -> Iterator[OpCase]:
    for activation, parameters, trained in activations(shape, shape.neurons):
        l, u = wanted(*shape.bounds(shape.neurons))
        yield from _ramp_cases(shape, activation, parameters, (l, u), trained)
        yield _relax_backward(shape, activation, parameters, (l, u), trained)
        if shape.batch == 1:
            yield from _forward_cases(shape, activation, parameters, (l, u), trained)
        if activation == "ReLU":
            yield from _concretize_cases(shape, l.detach(), u.detach())


def _ramp_cases(
    shape: Shape,
    activation: str,
    parameters: dict[str, Any],
    bounds: tuple[Tensor, ...],
    trained: tuple[Tensor, ...],
) -> Iterator[OpCase]:
    """The ops that know no rows."""
    l, u = bounds
    pair = bytes_of(l, u)
    sizes = {"B": shape.batch, "n": shape.neurons}
    for op, tensors, moved, call in (
        ("ramp", (l,), pair, partial(ops.ramp, l, **parameters)),
        ("ramp_interval", (l, u), 2 * pair, partial(ops.ramp_interval, l, u, **parameters)),
        ("ramp_interval_with_status", (l, u), 2 * pair, partial(ops.ramp_interval_with_status, l, u, **parameters)),
        ("bounding_lines", (l, u), 3 * pair, partial(ops.bounding_lines, l, u, **parameters)),
    ):
        yield OpCase(op, words_of(sizes) + shape.words, activation, call, (*tensors, *trained), moved, parameters=sizes)


def _relax_backward(
    shape: Shape,
    activation: str,
    parameters: dict[str, Any],
    bounds: tuple[Tensor, ...],
    trained: tuple[Tensor, ...],
) -> OpCase:
    l, u = bounds
    (A,) = wanted(shape.coefficients(shape.neurons))
    return OpCase(
        "relax_backward",
        words_of(shape.sizes()) + shape.words,
        activation,
        partial(ops.relax_backward, A, l, u, sides=shape.sides, **parameters),
        (A, l, u, *trained),
        2 * bytes_of(A) + bytes_of(l, u),
        parameters=shape.sizes(),
    )


def _concretize_cases(shape: Shape, x: Tensor, x_U: Tensor) -> Iterator[OpCase]:
    (A,) = wanted(shape.coefficients(shape.neurons))
    moved = bytes_of(A, x)
    words = words_of(shape.sizes()) + shape.words
    box = partial(ops.concretize_box, A, x, x_U, sides=shape.sides)
    yield OpCase("concretize_box", words, "", box, (A,), moved + bytes_of(x), parameters=shape.sizes())
    for p in (1.0, 2.0, math.inf):
        ball = partial(ops.concretize_ball, A, x, 0.1, p, sides=shape.sides)
        yield OpCase(f"concretize_ball p={p:g}", words, "", ball, (A,), moved, parameters=shape.sizes())


def _inputs(shape: Shape) -> int:
    """Inputs of the network in forward bounds: few where the matrices would take much memory."""
    inputs = math.prod(shape.layer.input_shape)
    if shape.device.type == "cuda":
        return min(inputs, 2**26 // (shape.batch * shape.neurons))
    return inputs if inputs * shape.neurons < 2**23 else 64


ForwardMatrices = tuple[Tensor, Tensor, Tensor, Tensor]
"""Center, radius and their constants."""


def _forward_bounds(shape: Shape) -> ForwardMatrices:
    batch, inputs, n = shape.batch, _inputs(shape), shape.neurons
    center, radius = wanted(*shape.center_and_radius(batch, inputs, n))
    center_bias, radius_bias = wanted(shape.normal(batch, n), shape.uniform(batch, n))
    return center, radius, center_bias, radius_bias


def _relax_forward(
    shape: Shape,
    activation: str,
    parameters: dict[str, Any],
    bounds: tuple[Tensor, ...],
    matrices: ForwardMatrices,
    trained: tuple[Tensor, ...],
) -> OpCase:
    center, radius, *_ = matrices
    sizes = {"B": shape.batch, "n0": center.shape[1], "n": shape.neurons}
    return OpCase(
        "relax_forward",
        words_of(sizes) + shape.words,
        activation,
        partial(ops.relax_forward, *matrices, *bounds, **parameters),
        (center, radius, *bounds, *trained),
        2 * bytes_of(center, radius) + bytes_of(*bounds),
        parameters=sizes,
    )


def _forward_cases(
    shape: Shape,
    activation: str,
    parameters: dict[str, Any],
    bounds: tuple[Tensor, ...],
    trained: tuple[Tensor, ...],
) -> Iterator[OpCase]:
    n = shape.neurons
    inputs = _inputs(shape)
    sizes = {"B": shape.batch, "n0": inputs, "n": n}
    matrices = _forward_bounds(shape)
    center, radius, *_ = matrices
    yield _relax_forward(shape, activation, parameters, bounds, matrices, trained)
    if activation == "ReLU":
        x = shape.uniform(shape.batch, inputs)
        for op, tensors in (
            ("concretize_forward_box", (center, radius)),
            # Its gradient is that of the bounds.
            ("concretize_forward_box_with_magnitude", (center.detach(), radius.detach())),
        ):
            yield OpCase(
                op,
                words_of(sizes) + shape.words,
                "",
                partial(getattr(ops, op), *matrices, x, x + 0.1),
                tensors,
                bytes_of(center, radius),
                parameters=sizes,
            )
        yield OpCase(
            "concretize_forward_ball p=2",
            words_of(sizes) + shape.words,
            "",
            partial(ops.concretize_forward_ball, *matrices, x, 0.1, 2.0),
            (center, radius),
            bytes_of(center, radius),
            parameters=sizes,
        )
        (A,) = wanted(shape.coefficients(n))
        rows = shape.side_count * shape.batch * shape.rows
        yield OpCase(
            "insert_forward",
            words_of({**shape.sizes(), "n0": inputs}) + shape.words,
            "",
            partial(ops.insert_forward, A, *matrices, sides=shape.sides),
            (A, center, radius),
            bytes_of(A, center, radius) + rows * inputs * A.element_size(),
            4 * rows * n * inputs,
            {**shape.sizes(), "n0": inputs},
        )


def _product_cases(shape: Shape) -> Iterator[OpCase]:
    """The ops whose cost is a product: of the layer alone, and fused with the activation behind it."""
    layer = shape.layer
    weight, bias = shape.weights()
    l, u = wanted(*shape.bounds(*layer.input_shape))
    words = f"{layer.name} B={shape.batch}{shape.words}"
    sizes = {"B": shape.batch, "n": shape.neurons}
    interval: Callable[[], Any]
    if isinstance(layer.module, nn.Conv2d):
        geometry = geometry_of(layer.module)
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
        bytes_of(l, u, weight) + outputs,
        4 * multiply_adds(layer) * shape.batch,
        sizes,
    )
    if shape.device.type == "cuda":
        yield _outward_interval(shape, (l.detach(), u.detach()), weight.detach(), bias)
    if layer.is_output:
        return
    for activation, parameters, trained in activations(shape, *layer.output_shape):
        yield _fused(shape, activation, parameters, trained, (weight, bias))
    yield _unfused(shape, (weight, bias))


def _narrow_convolutions(device: torch.device) -> Iterator[OpCase]:
    """Intervals by the fused product where few output channels of a group leave most of its tile idle.

    They lie around the limit of `fused_convolution_pays`; the reference has two products of the library.
    """
    for channels, groups in ((4, 1), (8, 1), (64, 64), (64, 8)):
        module = nn.Conv2d(64, channels, 3, padding=1, groups=groups)
        name = f"64 to {channels} channels in {groups} groups"
        shape = Shape(AffineLayer(name, module, (64, 32, 32), (channels, 32, 32)), 32, device)
        l, u = (bound.detach() for bound in shape.bounds(64, 32, 32))
        weight = module.weight.detach().to(device)
        yield OpCase(
            "interval_conv2d_fused",
            f"{name} B={shape.batch}",
            "",
            partial(_by_fused_product, l, u, weight, geometry_of(module)),
            (l, u, weight),
            bytes_of(l, u, weight) + 2 * shape.batch * shape.neurons * weight.element_size(),
            4 * multiply_adds(shape.layer) * shape.batch,
            {"B": shape.batch, "n": shape.neurons},
        )


def _by_fused_product(l: Tensor, u: Tensor, weight: Tensor, geometry: dict[str, Any]) -> tuple[Tensor, Tensor]:
    if current_backend() == "reference":
        return ops.interval_conv2d(l, u, weight, None, **geometry)
    convolution = [geometry[name] for name in ("stride", "padding", "dilation", "groups")]
    lower, upper = native("interval_conv2d_fused")(l, u, weight, None, *convolution)
    return lower, upper


def _outward_interval(shape: Shape, bounds: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor | None) -> OpCase:
    """What verdicts take of intervals, without gradients; the reference has two products of the library."""
    module = shape.layer.module
    by, margin = Widening(1e-4, 1e-19), weight.new_full((weight.shape[0],), 1e-4)
    layer = (*bounds, weight, bias, by, margin)
    kind = "conv2d" if isinstance(module, nn.Conv2d) else "linear"
    call: Callable[[], Any] = partial(outward_interval_linear, *layer, full_precision()(functional.linear))
    if isinstance(module, nn.Conv2d):
        call = partial(outward_interval_conv2d, *layer, **geometry_of(module))
    outputs = 2 * shape.batch * shape.neurons * weight.element_size()
    return OpCase(
        f"outward_interval_{kind}",
        f"{shape.layer.name} B={shape.batch}{shape.words}",
        "",
        call,
        (*bounds, weight),
        bytes_of(*bounds, weight) + outputs,
        4 * multiply_adds(shape.layer) * shape.batch,
        {"B": shape.batch, "n": shape.neurons},
    )


def _unfused(shape: Shape, weights: tuple[Tensor, Tensor | None]) -> OpCase:
    """Back-substitution through the layer without an activation behind it."""
    layer, (weight, bias) = shape.layer, weights
    (A,) = wanted(shape.coefficients(*layer.output_shape))
    call: Callable[[], Any] = partial(ops.backward_linear, A, weight, bias)
    kind = "linear"
    if isinstance(layer.module, nn.Conv2d):
        size = (layer.input_shape[1], layer.input_shape[2])
        call = partial(ops.backward_conv2d, A, weight, bias, size, **geometry_of(layer.module))
        kind = "conv2d"
    rows = shape.side_count * shape.batch * shape.rows
    return OpCase(
        f"backward_{kind}",
        f"{layer.name} B={shape.batch} S={shape.rows}{shape.words}",
        "",
        call,
        (A, weight),
        bytes_of(A, weight) + rows * math.prod(layer.input_shape) * A.element_size(),
        2 * multiply_adds(layer) * rows,
        shape.sizes(),
    )


def _forward_products(shape: Shape) -> Iterator[OpCase]:
    """Dense forward bounds through the layer."""
    layer = shape.layer
    inputs = min(_inputs(shape), 256)
    center, radius = wanted(
        shape.normal(shape.batch, inputs, *layer.input_shape), shape.uniform(shape.batch, inputs, *layer.input_shape)
    )
    biases = (shape.normal(shape.batch, *layer.input_shape), shape.uniform(shape.batch, *layer.input_shape))
    weight, bias = shape.weights()
    call: Callable[[], Any] = partial(ops.forward_linear, center, radius, *biases, weight, bias)
    kind = "linear"
    if isinstance(layer.module, nn.Conv2d):
        call = partial(ops.forward_conv2d, center, radius, *biases, weight, bias, **geometry_of(layer.module))
        kind = "conv2d"
    results = 2 * shape.batch * inputs * shape.neurons * center.element_size()
    yield OpCase(
        f"forward_{kind}",
        f"{layer.name} B={shape.batch} n0={inputs}{shape.words}",
        "",
        call,
        (center, radius, weight),
        bytes_of(center, radius, weight) + results,
        4 * multiply_adds(layer) * shape.batch * inputs,
        {"B": shape.batch, "n0": inputs, "n": shape.neurons},
    )


def _fused(
    shape: Shape,
    activation: str,
    parameters: dict[str, Any],
    trained: tuple[Tensor, ...],
    weights: tuple[Tensor, Tensor | None],
) -> OpCase:
    layer = shape.layer
    weight, bias = weights
    (A,) = wanted(shape.coefficients(*layer.output_shape))
    l, u = wanted(*shape.bounds(*layer.output_shape))
    call: Callable[[], Any]
    if isinstance(layer.module, nn.Conv2d):
        geometry = geometry_of(layer.module)
        size = (layer.input_shape[1], layer.input_shape[2])
        call = partial(
            ops.relax_backward_conv2d, A, l, u, weight, bias, size, sides=shape.sides, **geometry, **parameters
        )
    else:
        call = partial(ops.relax_backward_linear, A, l, u, weight, bias, sides=shape.sides, **parameters)
    rows = shape.side_count * shape.batch * shape.rows
    kind = "conv2d" if isinstance(layer.module, nn.Conv2d) else "linear"
    return OpCase(
        f"relax_backward_{kind}",
        f"{layer.name} B={shape.batch} S={shape.rows}{shape.words}",
        activation,
        call,
        (A, l, u, weight, *trained),
        bytes_of(A, l, u, weight) + rows * math.prod(layer.input_shape) * A.element_size(),
        2 * multiply_adds(layer) * rows,
        shape.sizes(),
    )


def _rows_of_crown(device: torch.device) -> Iterator[OpCase]:
    """Back-substitution from many neurons of one example, as in full CROWN."""
    layer = next(layer for layer in affine_layers("DM-Large") if layer.name.endswith("conv3"))
    shape = Shape(layer, 1, device, rows=4096 if device.type == "cuda" else 1024)
    for activation, parameters, trained in activations(shape, shape.neurons):
        l, u = wanted(*shape.bounds(shape.neurons))
        yield _relax_backward(shape, activation, parameters, (l, u), trained)
        if device.type == "cuda":
            yield from _forward_cases(shape, activation, parameters, (l, u), trained)
            if activation == "ReLU":
                yield from _concretize_cases(shape, l.detach(), u.detach())
