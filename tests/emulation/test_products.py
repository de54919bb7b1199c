"""Fused products at sizes at which kernels cut their work in other ways than in tests/ops/test_affine.py."""

import pytest
import torch
from emulation.values import assert_values_match_reference
from ops.cases import (
    STRATEGIES,
    coefficients,
    forward_matrices,
    intervals,
    normal,
    relaxation,
)
from ops.test_affine import INPUT, convolution

from lbp import ops

# float32 by fused multiply-adds, float32 on tensor cores, float64.
ARITHMETIC = {"float32": (torch.float32, False), "split": (torch.float32, True), "float64": (torch.float64, False)}


@pytest.fixture(params=ARITHMETIC)
def dtype(request, emulated, kernels_in_place):
    """A dtype, with the arithmetic of the test's products in place."""
    dtype, kernels_in_place.split = ARITHMETIC[request.param]
    yield dtype
    kernels_in_place.split = False


# Few examples and many; depths that no tile divides, in whole vectors, and so long that they are split among blocks.
@pytest.mark.parametrize(
    ("batch", "inputs", "outputs"),
    [
        *((1, 5, 3), (3, 1030, 6), (4, 64, 9), (5, 37, 3), (34, 9, 130), (34, 16, 70), (7, 600, 5)),
        *((batch, 24, 5) for batch in (1, 2, 3)),  # rows of W in whole vectors
        *((batch, 23, 3) for batch in (1, 2, 3, 4)),
    ],
)
def test_interval_linear(batch, inputs, outputs, dtype):
    weight, bias = normal(outputs, inputs, seed=50), normal(outputs, seed=51)
    assert_values_match_reference(ops.interval_linear, *intervals(batch, inputs), weight, bias, dtype=dtype)


def test_convolutions_of_more_channels_than_a_narrow_tile_has_columns(dtype):
    channels, size = 17, (3, 3)
    to_many, to_one = normal(channels, 1, 2, 2, seed=50), normal(1, channels, 2, 2, seed=51)
    assert_values_match_reference(ops.interval_conv2d, *intervals(1, 1, *size), to_many, None, dtype=dtype)
    assert_values_match_reference(ops.forward_conv2d, *forward_matrices(1, 1, 1, *size), to_many, None, dtype=dtype)
    A, bounds = coefficients("both", 1, 1, 1, 2, 2), intervals(1, 1, 2, 2)
    keywords = {"sides": "both", "r": 0.75, "dtype": dtype}
    assert_values_match_reference(ops.relax_backward_conv2d, A, *bounds, to_one, None, size, **keywords)


# Images of 4 x 6 pixels are stored in whole vectors, those of 3 x 5 are not; few and many channels.
@pytest.mark.parametrize("channels", [3, 6, 18])
@pytest.mark.parametrize("size", [(4, 6), (3, 5)])
def test_convolutions_store_pixels_in_vectors_and_one_by_one(size, channels, dtype):
    geometry = {"padding": (1, 1)}
    weight, bias = normal(channels, 2, 3, 3, seed=50), normal(channels, seed=51)
    assert_values_match_reference(ops.interval_conv2d, *intervals(3, 2, *size), weight, bias, **geometry, dtype=dtype)
    matrices = forward_matrices(2, 4, 2, *size, bias_batch=1)
    assert_values_match_reference(ops.forward_conv2d, *matrices, weight, bias, **geometry, dtype=dtype)
    A, bounds = coefficients("both", 2, 3, 2, *size), intervals(2, 2, *size)
    layer = (weight.transpose(0, 1), normal(2, seed=52), size)
    keywords = {"sides": "both", "r": 0.75, **geometry, "dtype": dtype}
    assert_values_match_reference(ops.relax_backward_conv2d, A, *bounds, *layer, **keywords)
    assert_values_match_reference(ops.backward_conv2d, A, *layer, **geometry, dtype=dtype)


def test_convolutions_of_so_many_channels_that_blocks_share_them(dtype):
    channels, size = 57, (3, 3)
    weight, bias = normal(1, channels, *size, seed=50), normal(1, seed=51)
    assert_values_match_reference(ops.interval_conv2d, *intervals(1, channels, *size), weight, bias, dtype=dtype)
    matrices = forward_matrices(1, 1, channels, *size)
    assert_values_match_reference(ops.forward_conv2d, *matrices, weight, bias, dtype=dtype)
    A, bounds = coefficients("both", 1, 1, channels, 1, 1), intervals(1, channels, 1, 1)
    layer, lines = (weight.reshape(channels, 1, *size), None, size), relaxation(batch=1, shape=(channels, 1, 1))
    assert_values_match_reference(ops.relax_backward_conv2d, A, *bounds, *layer, sides="both", **lines, dtype=dtype)
    assert_values_match_reference(ops.backward_conv2d, A, *layer, dtype=dtype)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize(("relaxed", "stride"), [(True, 1), (False, 2)])
def test_convolutions_of_so_many_rows_that_threads_have_larger_rectangles(relaxed, stride):
    channels, inputs, size, rows = (3, 17, (16, 16), 99)
    layer = (normal(channels, inputs, 2, 2, seed=50), normal(channels, seed=51), size)
    shape = (channels, *[(side - 2) // stride + 1 for side in size])
    A, keywords = coefficients("both", 2, rows, *shape), {"stride": [stride] * 2, "dtype": torch.float32}
    if relaxed:
        bounds = intervals(2, *shape)
        assert_values_match_reference(ops.relax_backward_conv2d, A, *bounds, *layer, sides="both", r=0.75, **keywords)
    else:
        assert_values_match_reference(ops.backward_conv2d, A, *layer, **keywords)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in ("adaptive", "slopes", "lines")])
def test_convolutions_below_an_activation_with_the_other_lines(strategy):
    weight, bias, geometry, shape = convolution(2)
    A, bounds = coefficients("both", 2, 2, *shape), intervals(2, *shape)
    keywords = {"sides": "both", **geometry, **relaxation(strategy, "channel", shape=shape)}
    layer = (weight, bias, INPUT[1:])
    assert_values_match_reference(ops.relax_backward_conv2d, A, *bounds, *layer, **keywords, dtype=torch.float64)


# More images than a block keeps lines of, more rows than a tile has, a split depth.
@pytest.mark.parametrize(
    ("batch", "rows", "neurons", "inputs"), [(11, 1, 20, 5), (3, 70, 9, 70), (3, 70, 12, 70), (2, 5, 600, 3)]
)
def test_a_linear_layer_below_an_activation(batch, rows, neurons, inputs, dtype):
    A, bounds = coefficients("both", batch, rows, neurons), intervals(batch, neurons)
    layer = normal(neurons, inputs, seed=50), None
    assert_values_match_reference(ops.relax_backward_linear, A, *bounds, *layer, sides="both", r=0.75, dtype=dtype)


@pytest.mark.parametrize(
    ("batch", "inputs", "n_in", "n_out"), [(2, 70, 35, 67), (2, 70, 36, 67), (1, 3, 600, 2), (2, 0, 3, 4)]
)
def test_forward_linear(batch, inputs, n_in, n_out, dtype):
    layer = normal(n_out, n_in, seed=50), normal(n_out, seed=51)
    matrices = forward_matrices(batch, inputs, n_in, bias_batch=1)
    assert_values_match_reference(ops.forward_linear, *matrices, *layer, dtype=dtype)


@pytest.mark.parametrize(("batch", "rows", "neurons", "inputs"), [(2, 70, 19, 67), (2, 70, 20, 67), (2, 3, 600, 5)])
def test_insertion(batch, rows, neurons, inputs, dtype):
    A, matrices = coefficients("both", batch, rows, neurons), forward_matrices(1, inputs, neurons)
    assert_values_match_reference(ops.insert_forward, A, *matrices, sides="both", dtype=dtype)


@pytest.mark.parametrize("layout", ["shared", "sides apart"])
def test_layouts_of_coefficients_that_are_read_where_they_lie(layout, dtype):
    rows = normal(1, 1, 3, 6) if layout == "shared" else normal(3, 2, 2, 6).permute(1, 2, 0, 3)
    A, weight, bounds = rows.expand(2, 2, 3, 6).to(dtype), normal(6, 5).to(dtype), intervals(2, 6)
    layer = (*(end.to(dtype) for end in bounds), weight, None)
    found = ops.relax_backward_linear(A, *layer, sides="both")
    copied = ops.relax_backward_linear(A.contiguous(), *layer, sides="both")
    assert all(torch.equal(f, c) for f, c in zip(found, copied, strict=True))
