"""The ops on windows, at the convolutions of the paper's networks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lbp import ops
from lbp.bench.op_case import OpCase, Shape, activations, bytes_of, geometry_of, multiply_adds, taps_at, taps_of, wanted

_WINDOW = 5
"""Rows and columns of the windows: what two 3x3 convolutions see."""

_DENSE_NUMBERS = 2**25
"""Most numbers of a dense matrix; the reference makes several copies of it."""

_OUTPUTS = 100
"""Neurons of a Linear layer behind a convolution."""


def window_cases(shape: Shape) -> Iterator[OpCase]:
    """Yields the ops on windows of a Conv2d layer, one image."""
    layer = shape.layer
    assert isinstance(layer.module, nn.Conv2d)
    if min(layer.output_shape[1:]) < _WINDOW:
        return
    yield from _back_substitution(shape, layer.module)
    yield from _forward(shape, layer.module)
    if math.prod(layer.input_shape) * math.prod(layer.input_shape[1:]) <= _DENSE_NUMBERS:
        yield from _dense_and_pooled(shape)
    yield _insertion(shape)


def _rows(shape: Shape, height: int, width: int, step: int = 1) -> Tensor:
    """A row of coefficients for every place, or every step-th, of a window inside the layer, with values of its own."""
    y, x = torch.meshgrid(
        torch.arange(0, height - _WINDOW + 1, step, device=shape.device),
        torch.arange(0, width - _WINDOW + 1, step, device=shape.device),
        indexing="ij",
    )
    corners = torch.stack([y.flatten(), x.flatten()], 1)
    source = torch.arange(len(corners), device=shape.device)
    return torch.cat([torch.stack([source, torch.zeros_like(source)], 1), corners], 1)


def _back_substitution(shape: Shape, module: nn.Conv2d) -> Iterator[OpCase]:
    channels, height, width = shape.layer.output_shape
    rows = _rows(shape, height, width)
    (A,) = wanted(shape.normal(2, len(rows), _WINDOW, _WINDOW, channels))
    l, u = wanted(*shape.bounds(*shape.layer.output_shape))
    weight = module.weight.detach().to(shape.device).requires_grad_()
    bias = None if module.bias is None else module.bias.detach().to(shape.device)
    geometry: dict[str, Any] = geometry_of(module)
    name = f"{shape.layer.name} R={len(rows)}"
    sizes = {"B": 1, "n": shape.neurons, "S": len(rows)}
    inputs = (shape.layer.input_shape[1], shape.layer.input_shape[2])
    window, corners = _window_below(module, rows, inputs)
    operations = 2 * A.shape[0] * channels * weight.shape[1] * _taps_of_windows(module, rows, (height, width), inputs)
    results = A.shape[0] * len(rows) * window[0] * window[1] * shape.layer.input_shape[0] * A.element_size()
    for activation, parameters, trained in activations(shape, *shape.layer.output_shape):
        relax = partial(ops.relax_windows, A, rows, l, u, sides="both", **parameters)
        moved = 2 * bytes_of(A) + bytes_of(l, u)
        yield OpCase("relax_windows", name, activation, relax, (A, l, u, *trained), moved, parameters=sizes)
        options: dict[str, Any] = {"sides": "both", **geometry, **parameters}
        fused = partial(ops.relax_backward_conv2d_windows, A, rows, l, u, weight, bias, corners, window, **options)
        moved = bytes_of(A, l, u, weight) + results
        tensors = (A, l, u, weight, *trained)
        yield OpCase("relax_backward_conv2d_windows", name, activation, fused, tensors, moved, operations, sizes)
    unfused = partial(
        ops.backward_conv2d_windows, *(A, rows, (height, width), weight, bias, corners, window), **geometry
    )
    moved = bytes_of(A, weight) + results
    yield OpCase("backward_conv2d_windows", name, "", unfused, (A, weight), moved, operations, sizes)
    x = shape.uniform(1, *shape.layer.output_shape)
    box = partial(ops.concretize_windows_box, A, rows, x, x + 0.1, sides="both")
    yield OpCase("concretize_windows_box", name, "", box, (A,), bytes_of(A, x, x), parameters=sizes)
    ball = partial(ops.concretize_windows_ball, A, rows, x, 0.1, 2.0, sides="both")
    yield OpCase("concretize_windows_ball p=2", name, "", ball, (A,), bytes_of(A, x), parameters=sizes)


def _window_below(module: nn.Conv2d, rows: Tensor, layer: tuple[int, int]) -> tuple[tuple[int, int], Tensor]:
    """Size and corners of the rows' windows below the convolution, moved inside that layer."""
    geometry: dict[str, Any] = geometry_of(module)
    spans = [
        min(geometry["stride"][i] * (_WINDOW - 1) + geometry["dilation"][i] * (module.kernel_size[i] - 1) + 1, layer[i])
        for i in range(2)
    ]
    corners = rows[:, 2:] * rows.new_tensor(geometry["stride"]) - rows.new_tensor(geometry["padding"])
    most = rows.new_tensor([layer[i] - spans[i] for i in range(2)])
    return (spans[0], spans[1]), corners.clamp(min=0).minimum(most)


def _taps_of_windows(module: nn.Conv2d, rows: Tensor, layer: tuple[int, int], inputs: tuple[int, int]) -> int:
    """Taps on the input of the pixels of all windows."""
    by_row, by_column = (torch.tensor(taps, device=rows.device) for taps in taps_of(module, layer, inputs))
    of_windows = (taps.unfold(0, _WINDOW, 1).sum(1) for taps in (by_row, by_column))
    vertical, horizontal = (taps[rows[:, 2 + i]] for i, taps in enumerate(of_windows))
    return int((vertical * horizontal).sum())


def _entries_on_image(height: int, width: int) -> int:
    """Entries of the forward windows that lie on the image, per channel of the layer."""
    return math.prod(sum(taps_at(size, 3, size, stride=1, padding=1, dilation=1)) for size in (height, width))


def _forward(shape: Shape, module: nn.Conv2d) -> Iterator[OpCase]:
    """Forward bounds of the layer below, on windows of three rows and columns of an image of one channel."""
    layer = shape.layer
    height, width = layer.input_shape[1:]
    window = (1, 3, 3)
    size = (1, *window, *layer.input_shape)
    center, radius = wanted(*shape.center_and_radius(*size))
    biases = (shape.normal(1, *layer.input_shape), shape.uniform(1, *layer.input_shape))
    weight = module.weight.detach().to(shape.device).requires_grad_()
    bias = None if module.bias is None else module.bias.detach().to(shape.device)
    geometry = geometry_of(module)
    name = f"{layer.name} window=3x3"
    sizes = {"B": 1, "n0": 9, "n": shape.neurons}
    call = partial(ops.forward_conv2d_windows, center, radius, *biases, weight, bias, scale=(1, 1), **geometry)
    grown = [3 + geometry["dilation"][i] * (module.kernel_size[i] - 1) for i in range(2)]
    moved = bytes_of(center, radius, weight) + 2 * grown[0] * grown[1] * shape.neurons * center.element_size()
    # Of no image: entries outside of one are computed as well.
    operations = 4 * multiply_adds(layer) * math.prod(window)
    tensors = (center, radius, weight)
    yield OpCase("forward_conv2d_windows", name, "", call, tensors, moved, operations, sizes)
    x = shape.uniform(1, 1, height, width)
    places: dict[str, Any] = {"scale": (1, 1), "offset": (-1, -1)}
    box = partial(ops.concretize_forward_windows_box, center, radius, *biases, x, x + 0.1, **places)
    moved = bytes_of(center, radius)
    sizes = {**sizes, "n": center[0, 0, 0, 0].numel()}
    yield OpCase("concretize_forward_windows_box", name, "", box, tensors[:2], moved, parameters=sizes)
    sized = partial(ops.concretize_forward_windows_box_with_magnitude, *box.args, **places)
    values = center.detach(), radius.detach()
    yield OpCase("concretize_forward_windows_box_with_magnitude", name, "", sized, values, moved, parameters=sizes)
    ball = partial(ops.concretize_forward_windows_ball, center, radius, *biases, x, 0.1, 2.0, **places)
    yield OpCase("concretize_forward_windows_ball p=2", name, "", ball, tensors[:2], moved, parameters=sizes)
    (A,) = wanted(shape.normal(1, 1, shape.rows, *layer.input_shape))
    insert = partial(
        ops.insert_forward_windows, A, center, radius, *biases, image=(1, height, width), sides="lower", **places
    )
    products = 4 * shape.rows * layer.input_shape[0] * _entries_on_image(height, width)
    moved = bytes_of(A, center, radius)
    yield OpCase("insert_forward_windows", name, "", insert, (A, *tensors[:2]), moved, products, sizes)


def _dense_and_pooled(shape: Shape) -> Iterator[OpCase]:
    """What leaves the windows of the layer below: a Linear layer, and dense matrices; and pooling, which grows them."""
    layer = shape.layer
    channels, height, width = layer.input_shape
    center, radius = wanted(*shape.center_and_radius(1, 1, 3, 3, *layer.input_shape))
    biases = (shape.normal(1, *layer.input_shape), shape.uniform(1, *layer.input_shape))
    neurons = channels * height * width
    name = f"{layer.name} window=3x3"
    sizes = {"B": 1, "n": neurons}
    image = (1, height, width)
    places: dict[str, Any] = {"scale": (1, 1), "offset": (-1, -1)}
    (weight,) = wanted(shape.normal(_OUTPUTS, neurons))
    linear = partial(ops.forward_linear_windows, center, radius, *biases, weight, None, image=image, **places)
    moved = bytes_of(center, radius, weight) + 2 * height * width * _OUTPUTS * center.element_size()
    operations = 4 * _OUTPUTS * channels * _entries_on_image(height, width)
    yield OpCase(
        "forward_linear_windows", name, "", linear, (center, radius, weight), moved, operations, parameters=sizes
    )
    dense = partial(ops.windows_to_dense, center, image, **places)
    moved = bytes_of(center) + height * width * neurons * center.element_size()
    yield OpCase("windows_to_dense", name, "", dense, (center,), moved, parameters=sizes)
    pooled = height // 2
    means = center.new_zeros(pooled, height)
    means[:, : 2 * pooled] = torch.eye(pooled, device=shape.device).repeat_interleave(2, dim=1) / 2
    pool = partial(ops.combine_windows, center, 0, means, scale=1, stride=2, offset=0, size=2)
    moved = bytes_of(center) + 4 * 3 * channels * pooled * width * center.element_size()
    yield OpCase("combine_windows", name, "", pool, (center,), moved, parameters=sizes)


def _insertion(shape: Shape) -> OpCase:
    """Forward bounds of the layer in as many rows for each of some places as the layer has channels."""
    layer = shape.layer
    channels, height, width = layer.output_shape
    places = _rows(shape, height, width, step=2 * _WINDOW)[:, 1:]
    count = channels * len(places)
    (A,) = wanted(shape.normal(2, count, _WINDOW, _WINDOW, channels))
    size = (1, height, width, channels)
    center, radius = wanted(shape.normal(*size, 1, 3, 3), shape.uniform(*size, 1, 3, 3))
    matrices = (center, radius, shape.normal(*size), shape.uniform(*size))
    call = partial(ops.insert_into_windows, A, places, *matrices, scale=(1, 1), sides="both")
    moved = bytes_of(A, center, radius) + 2 * count * (_WINDOW + 2) ** 2 * A.element_size()
    return OpCase(
        "insert_into_windows",
        f"{layer.name} R={count}",
        "",
        call,
        (A, center, radius),
        moved,
        4 * A.numel() * 9,
        {"B": 1, "n": shape.neurons, "S": count},
    )
