"""Sizes at which kernels cut their work in other ways: several tiles and pieces, sums in two launches, odd rows.

compute-sanitizer watches these, too.
"""

import math

import pytest
import torch
from ops.cases import (
    DTYPES,
    TOLERANCE,
    assert_close,
    assert_matches_reference,
    coefficients,
    converted,
    forward_matrices,
    intervals,
    normal,
    relaxation,
    window_matrices,
)
from ops.small_layers import SHARED_SUMS

from lbp import ops, reference
from lbp.ops import _window_accumulation, _windows

pytestmark = [pytest.mark.usefixtures("native_on_cuda"), pytest.mark.parametrize("dtype", DTYPES)]
# Tiles of 1,024 numbers of float32, 512 of float64: of one block, of several, and rows that are no whole packs.
LAYERS = (2500, 2501, 9000)


@pytest.mark.parametrize("neurons", LAYERS)
def test_relax_backward(neurons, dtype):
    A, bounds = coefficients("both", 2, 37, neurons), intervals(2, neurons)
    keywords = {"sides": "both", "bias": normal(neurons, seed=4), **relaxation(shape=(neurons,))}
    assert_matches_reference(ops.relax_backward, A, *bounds, **keywords, dtype=dtype)


# Of ten rows and fewer, blocks with several tiles; from 2,048 tiles of all images on, with one each.
@pytest.mark.parametrize(("rows", "neurons"), [(4, 9000), (5, 9000), (1, 2048 * 1024)])
@pytest.mark.parametrize("sides", ["both", "lower"])
def test_relax_backward_of_few_rows(sides, rows, neurons, dtype):
    A, bounds = coefficients(sides, 1, rows, neurons), intervals(1, neurons)
    keywords = {"sides": sides, "bias": normal(neurons, seed=4), **relaxation(batch=1, shape=(neurons,))}
    assert_matches_reference(ops.relax_backward, A, *bounds, **keywords, dtype=dtype)


@pytest.mark.parametrize("neurons", LAYERS)
def test_relax_forward_and_its_bounds(neurons, dtype):
    matrices, bounds = forward_matrices(2, 70, neurons), intervals(2, neurons)
    assert_matches_reference(ops.relax_forward, *matrices, *bounds, **relaxation(shape=(neurons,)), dtype=dtype)
    x = intervals(2, 70, seed=3)
    assert_matches_reference(ops.concretize_forward_box, *matrices, *x, dtype=dtype)
    assert_matches_reference(ops.concretize_forward_ball, *matrices, x[0], 0.5, 2.0, dtype=dtype)


@pytest.mark.parametrize("inputs", LAYERS)
def test_concretize(inputs, dtype):
    A, x = coefficients("both", 2, 5, inputs), intervals(2, inputs)
    assert_matches_reference(ops.concretize_box, A, *x, sides="both", dtype=dtype)
    for p in (1.0, 2.0, torch.inf):
        assert_matches_reference(ops.concretize_ball, A, x[0], 0.5, p, sides="both", dtype=dtype)


@pytest.mark.parametrize("neurons", LAYERS)
def test_activations(neurons, dtype):
    bounds, ramp = intervals(40, neurons), {"r": relaxation(shape=(neurons,))["r"], "eta": 0.1}
    assert_matches_reference(ops.ramp_interval_with_status, *bounds, **ramp, dtype=dtype)
    assert_matches_reference(ops.ramp, bounds[0], **ramp, dtype=dtype)
    assert_matches_reference(ops.bounding_lines, *bounds, **ramp, dtype=dtype)


@pytest.mark.parametrize("rows", [5, 140])
def test_products_of_a_deep_layer(rows, dtype):
    neurons, inputs = 1100, 70
    A, bounds = coefficients("both", 1, rows, neurons), intervals(1, neurons)
    weight, bias = normal(neurons, inputs, seed=32) / 16, normal(neurons, seed=33)
    keywords = {"sides": "both", **relaxation(batch=1, shape=(neurons,))}
    assert_matches_reference(ops.relax_backward_linear, A, *bounds, weight, bias, **keywords, dtype=dtype)
    assert_matches_reference(ops.insert_forward, A, *forward_matrices(1, inputs, neurons), sides="both", dtype=dtype)
    wide, wide_bias = normal(inputs, neurons, seed=34) / 16, normal(inputs, seed=35)
    assert_matches_reference(ops.interval_linear, *intervals(rows, neurons), wide, wide_bias, dtype=dtype)


# The op itself leaves more rows than those of a tile to the library.
@pytest.mark.parametrize("rows", [5, 140])
def test_the_fused_insertion(rows, dtype):
    A, matrices = coefficients("both", 1, rows, 1100), forward_matrices(1, 70, 1100)
    on_device = converted((A, *matrices), dtype, None, "cuda")
    found = [result.cpu() for result in torch.ops.lbp.insert_forward_fused(*on_device, 3)]
    assert_close(found, reference.insert_forward(A, *matrices, sides="both"), TOLERANCE[dtype], "output")


@pytest.mark.parametrize("absent", [(), (1,), (3,), (1, 3)], ids=["both", "no radius", "no radius_bias", "exact"])
@pytest.mark.parametrize("batch", [1, 2])
def test_insertion_of_many_rows(batch, absent, dtype):
    A = coefficients("both", 2, 70, 40)
    matrices = [None if i in absent else matrix for i, matrix in enumerate(forward_matrices(batch, 6, 40))]
    assert_matches_reference(ops.insert_forward, A, *matrices, sides="both", dtype=dtype)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [1, 2**10, 2**20])
def test_products_with_windows_in_chunks(size, batch, dtype, monkeypatch):
    """Of images, and of the rows of one."""
    monkeypatch.setattr(_windows, "OPERAND_BYTES", size)
    monkeypatch.setattr(_window_accumulation, "LEAST_ROWS", 2)
    layer, places = (3, 4, 5), {"image": (2, 6, 7), "scale": (1, 1), "offset": (-1, -1)}
    matrices = window_matrices(batch, (3, 3), layer, bias_batch=3)
    A = coefficients("both", 3, 5, *layer)
    assert_matches_reference(ops.insert_forward_windows, A, *matrices, sides="both", dtype=dtype, **places)
    weight = normal(7, math.prod(layer), seed=30) / 8
    assert_matches_reference(ops.forward_linear_windows, *matrices, weight, None, dtype=dtype, **places)


# Into many and into few channels, from so many that sums are split.
@pytest.mark.parametrize("outputs", [70, 6])
@pytest.mark.parametrize("channels", [40, 130])
def test_convolutions_of_a_deep_layer(channels, outputs, dtype):
    weight, bias = normal(outputs, channels, 3, 3, seed=32) / 16, normal(outputs, seed=33)
    geometry = {"padding": (1, 1)}
    assert_matches_reference(ops.interval_conv2d, *intervals(2, channels, 6, 7), weight, bias, **geometry, dtype=dtype)
    matrices = forward_matrices(1, 5, channels, 6, 7)
    assert_matches_reference(ops.forward_conv2d, *matrices, weight, bias, **geometry, dtype=dtype)
    A, bounds = coefficients("both", 2, 5, channels, 6, 7), intervals(2, channels, 6, 7)
    below = normal(channels, outputs, 3, 3, seed=34) / 16, normal(channels, seed=35), (6, 7)
    keywords = {"sides": "both", **geometry, **relaxation(shape=(channels, 6, 7))}
    assert_matches_reference(ops.relax_backward_conv2d, A, *bounds, *below, **keywords, dtype=dtype)


# Of few input channels, with strides of one and two, and of more.
@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "size"), [(3, 3, 1, (28, 30)), (3, 4, 2, (12, 14)), (6, 3, 1, (28, 30))]
)
def test_back_substitution_through_a_convolution(channels, kernel, stride, size, dtype):
    outputs, padding = 34, 1
    image = tuple((count - 1) * stride + kernel - 2 * padding for count in size)
    A, bounds = coefficients("both", 2, 5, outputs, *size), intervals(2, outputs, *size)
    layer = normal(outputs, channels, kernel, kernel, seed=32) / 16, normal(outputs, seed=33), image
    geometry = {"stride": (stride, stride), "padding": (padding, padding)}
    keywords = {"sides": "both", **geometry, **relaxation(shape=(outputs, *size))}
    assert_matches_reference(ops.relax_backward_conv2d, A, *bounds, *layer, **keywords, dtype=dtype)


# From 792 tiles of 128 x 64 on, a thread has twice as many sums.
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("inputs", [20, 70])
def test_many_rows_through_a_convolution(inputs, stride, dtype):
    outputs, rows, image = 9, 99, (16, 16)
    size = tuple((count - 2) // stride + 1 for count in image)
    A, bounds = coefficients("both", 2, rows, outputs, *size), intervals(2, outputs, *size)
    layer = normal(outputs, inputs, 2, 2, seed=32) / 4, normal(outputs, seed=33), image
    assert_matches_reference(ops.backward_conv2d, A, *layer, stride=(stride, stride), dtype=dtype)
    keywords = {"sides": "both", "stride": (stride, stride), **relaxation(shape=(outputs, *size))}
    assert_matches_reference(ops.relax_backward_conv2d, A, *bounds, *layer, **keywords, dtype=dtype)


@pytest.mark.parametrize("rows", [40, 1500])
def test_windows(rows, dtype):
    layer, window = (8, 9, 10), (4, 4)
    A = coefficients("both", rows, *window, layer[0])
    generator = torch.Generator().manual_seed(1)
    ends = (rows, 2, layer[1] - window[0] + 1, layer[2] - window[1] + 1)
    where = torch.stack([torch.randint(0, end, (rows,), generator=generator) for end in ends], 1)
    bounds = intervals(2, *layer)
    keywords = {"sides": "both", **relaxation(shape=layer)}
    assert_matches_reference(ops.relax_windows, A, where, *bounds, **keywords, dtype=dtype)
    assert_matches_reference(ops.concretize_windows_box, A, where, *bounds, sides="both", dtype=dtype)
    assert_matches_reference(ops.concretize_windows_ball, A, where, bounds[0], 0.5, 2.0, sides="both", dtype=dtype)


@pytest.mark.parametrize("name", SHARED_SUMS)
def test_small_layers_in_one_launch(name, dtype):
    op, args, kwargs = SHARED_SUMS[name]
    assert_matches_reference(op, *args, **kwargs, dtype=dtype)
