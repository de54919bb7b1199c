"""The emulated CUDA kernels of the fused products against the float64 reference."""

import pytest
import torch
from emulation.products import Products
from ops.cases import (
    DTYPES,
    SIDES,
    STRATEGIES,
    TOLERANCE,
    assert_close,
    coefficients,
    converted,
    forward_matrices,
    intervals,
    normal,
    relaxation,
)
from ops.test_affine import CONVOLUTIONS, INPUT, convolution

from lbp import reference

# float32 by fused multiply-adds, float32 on tensor cores, float64.
ARITHMETIC = ((torch.float32, False), (torch.float32, True), (torch.float64, False))


@pytest.fixture(params=ARITHMETIC, ids=["float32", "split float32", "float64"])
def arithmetic(request):
    return request.param


@pytest.fixture(params=[1, 2])
def seed(request, emulated):
    """An order of the threads other than their own."""
    emulated.set_seed(request.param)
    yield request.param
    emulated.set_seed(0)


@pytest.fixture
def check(emulated, arithmetic):
    """Assert that an emulated product agrees with the reference: check("interval_linear", *arguments, **keywords)."""
    dtype, split = arithmetic

    def assert_agreement(name, *args, **kwargs):
        expected = getattr(reference, name)(*args, **kwargs)
        found = getattr(Products(emulated, split), name)(*converted(args, dtype), **converted(kwargs, dtype))
        pairs = [(f, e) for f, e in zip(found, expected, strict=True) if e is not None]
        assert_close([f for f, _ in pairs], [e for _, e in pairs], TOLERANCE[dtype], name)

    return assert_agreement


# Few examples and many; a depth that no tile divides, and one long enough to be split among blocks.
@pytest.mark.parametrize(
    ("batch", "inputs", "outputs"),
    [
        (1, 5, 3),
        (3, 1030, 6),
        (4, 64, 9),
        (5, 37, 3),
        (34, 9, 130),
        (7, 600, 5),
        *((batch, 24, 5) for batch in (1, 2, 3)),  # rows of W in whole vectors
        *((batch, 23, 3) for batch in (1, 2, 3, 4)),
        (0, 4, 3),
        (2, 0, 3),
        (6, 0, 2),
        (5, 3, 0),
    ],
)
def test_interval_linear(check, batch, inputs, outputs):
    weight, bias = normal(outputs, inputs, seed=50), normal(outputs, seed=51)
    check("interval_linear", *intervals(batch, inputs), weight, bias)


@pytest.mark.parametrize("index", range(len(CONVOLUTIONS)))
def test_convolutions(check, index):
    weight, bias, geometry, shape = convolution(index)
    check("interval_conv2d", *intervals(2, *INPUT), weight, bias, **geometry)
    check("forward_conv2d", *forward_matrices(2, 2, *INPUT, bias_batch=1), weight, bias, **geometry)
    check("backward_conv2d", coefficients("lower", 2, 2, *shape), weight, bias, INPUT[1:], **geometry)


@pytest.mark.parametrize("arithmetic", [a for a in ARITHMETIC if not a[1]], ids=["float32", "float64"])
def test_convolutions_of_so_many_channels_that_blocks_share_them(check):
    channels, size = 57, (3, 3)
    geometry = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    weight, bias = normal(1, channels, *size, seed=50), normal(1, seed=51)
    check("interval_conv2d", *intervals(1, channels, *size), weight, bias, **geometry)
    check("forward_conv2d", *forward_matrices(1, 1, channels, *size), weight, bias, **geometry)
    A, bounds = coefficients("both", 1, 1, channels, 1, 1), intervals(1, channels, 1, 1)
    keywords = {"sides": "both", **geometry, **relaxation(batch=1, shape=(channels, 1, 1))}
    check("relax_backward_conv2d", A, *bounds, weight.reshape(channels, 1, *size), None, size, **keywords)


def test_layers_without_a_bias_and_exact_bounds(check):
    weight, _, geometry, shape = convolution(1)
    check("interval_conv2d", *intervals(1, *INPUT), weight, None, **geometry)
    check("forward_conv2d", *forward_matrices(1, 2, *INPUT, exact=True), weight, None, **geometry)
    check("backward_conv2d", coefficients("lower", 1, 2, *shape), weight, None, INPUT[1:], **geometry)
    for batch in (2, 5):
        check("interval_linear", *intervals(batch, 7), normal(3, 7), None)
    check("forward_linear", *forward_matrices(1, 4, 7, exact=True), normal(3, 7), None)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_relaxed_convolutions(check, strategy):
    weight, bias, geometry, shape = convolution(2)
    A, (l, u) = coefficients("both", 2, 2, *shape), intervals(2, *shape)
    keywords = {"sides": "both", **geometry, **relaxation(strategy, "channel", shape=shape)}
    check("relax_backward_conv2d", A, l, u, weight, bias, INPUT[1:], **keywords)


@pytest.mark.parametrize(("index", "sides"), [(index, SIDES[index % 3]) for index in range(len(CONVOLUTIONS))])
def test_relaxed_convolutions_of_every_geometry(check, index, sides):
    weight, bias, geometry, shape = convolution(index)
    A, (l, u) = coefficients(sides, 3, 2, *shape), intervals(1, *shape)
    keywords = {"sides": sides, **geometry, **relaxation("adaptive", "neuron", shape=shape)}
    check("relax_backward_conv2d", A, l, u, weight, bias, INPUT[1:], **keywords)


@pytest.mark.parametrize(
    ("strategy", "sides"), [*((strategy, "both") for strategy in STRATEGIES), ("tight", "lower"), ("tight", "upper")]
)
def test_relaxed_linear_layers(check, strategy, sides):
    weight, bias = normal(30, 11, seed=50), normal(30, seed=51)
    A, (l, u) = coefficients(sides, 2, 3, 30), intervals(2, 30)
    keywords = {"sides": sides, **relaxation(strategy, shape=(30,))}
    check("relax_backward_linear", A, l, u, weight, bias, **keywords)


# More images than a block keeps lines of, more rows than a tile has, a split depth.
@pytest.mark.parametrize(
    ("batch", "rows", "neurons", "inputs"),
    [
        (11, 1, 20, 5),
        (3, 70, 9, 70),
        (2, 5, 600, 3),
        (0, 3, 5, 4),
        (2, 0, 5, 4),
        (2, 3, 0, 4),
        (2, 3, 5, 0),
        (1, 1, 1, 1),
    ],
)
def test_relaxed_linear_layers_of_every_size(check, batch, rows, neurons, inputs):
    A, (l, u) = coefficients("both", batch, rows, neurons), intervals(batch, neurons)
    weight = normal(neurons, inputs, seed=50)
    check("relax_backward_linear", A, l, u, weight, None, sides="both", r=0.75)


@pytest.mark.parametrize(
    ("batch", "inputs", "n_in", "n_out"), [(2, 70, 35, 67), (1, 3, 600, 2), (2, 0, 3, 4), (1, 1, 0, 2)]
)
def test_forward_linear(check, batch, inputs, n_in, n_out):
    weight, bias = normal(n_out, n_in, seed=50), normal(n_out, seed=51)
    check("forward_linear", *forward_matrices(batch, inputs, n_in, bias_batch=1), weight, bias)


@pytest.mark.parametrize("matrix_batch", ["one", "all"])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("sides", SIDES)
def test_insertion(check, sides, exact, matrix_batch):
    A = coefficients(sides, 2, 4, 3, 2, 3)
    matrices = forward_matrices(2 if matrix_batch == "all" else 1, 5, 3, 2, 3, exact=exact)
    check("insert_forward", A, *matrices, sides=sides)


@pytest.mark.parametrize(
    ("batch", "rows", "neurons", "inputs"),
    [(2, 70, 19, 67), (2, 3, 600, 5), (0, 3, 5, 4), (2, 0, 5, 4), (2, 3, 0, 4), (2, 3, 5, 0), (1, 1, 1, 1)],
)
def test_insertion_of_every_size(check, batch, rows, neurons, inputs):
    check(
        "insert_forward",
        coefficients("both", batch, rows, neurons),
        *forward_matrices(1, inputs, neurons),
        sides="both",
    )


def test_threads_may_run_in_any_order(seed, check):
    weight, bias, geometry, shape = convolution(1)
    A, (l, u) = coefficients("both", 2, 3, *shape), intervals(2, *shape)
    check("relax_backward_conv2d", A, l, u, weight, bias, INPUT[1:], sides="both", r=0.75, **geometry)
    check("interval_conv2d", *intervals(2, *INPUT), weight, bias, **geometry)
    dense = normal(40, 7, seed=50)
    check("relax_backward_linear", coefficients("both", 2, 3, 40), *intervals(2, 40), dense, None, sides="both", r=0.75)
    check("insert_forward", coefficients("both", 2, 3, 40), *forward_matrices(2, 7, 40), sides="both")
    for batch in (3, 5):
        check("interval_linear", *intervals(batch, 40), normal(6, 40, seed=50), None)


@pytest.mark.parametrize("layout", ["shared", "sides apart"])
def test_layouts_of_coefficients(emulated, arithmetic, layout):
    dtype, split = arithmetic
    rows = normal(1, 1, 3, 6) if layout == "shared" else normal(3, 2, 2, 6).permute(1, 2, 0, 3)
    A, weight, (l, u) = rows.expand(2, 2, 3, 6).to(dtype), normal(6, 5).to(dtype), converted(intervals(2, 6), dtype)
    products = Products(emulated, split)
    found = products.relax_backward_linear(A, l, u, weight, None, sides="both")
    copied = products.relax_backward_linear(A.contiguous(), l, u, weight, None, sides="both")
    assert all(torch.equal(f, c) for f, c in zip(found, copied, strict=True))


def test_dtypes_cover_what_the_ops_take():
    assert {dtype for dtype, _ in ARITHMETIC} == set(DTYPES)
