"""Intervals, coefficients and forward bounds through affine layers: native against the float64 reference."""

import pytest
import torch
import torch.nn.functional as F
from ops.cases import (
    DTYPES,
    SIDES,
    STRATEGIES,
    assert_matches_reference,
    coefficients,
    forward_matrices,
    intervals,
    normal,
    relaxation,
)
from ops.watching import Largest

from lbp import ops
from lbp.ops._calls import composite
from lbp.ops.interval import SMALL_BATCH

# stride, padding, dilation, groups, kernel: with rows and columns of the input that no entry of the kernel reads, too.
CONVOLUTIONS = (
    ((1, 1), (0, 0), (1, 1), 1, (3, 3)),
    ((2, 1), (1, 2), (1, 1), 1, (3, 4)),
    ((2, 3), (0, 1), (1, 1), 2, (2, 2)),
    ((1, 2), (2, 2), (2, 1), 4, (3, 3)),
    ((3, 2), (1, 1), (2, 2), 2, (1, 3)),
)
INPUT = (4, 8, 7)


def convolution(index):
    """Weight, bias, keywords and output shape of a convolution of `INPUT`."""
    stride, padding, dilation, groups, kernel = CONVOLUTIONS[index]
    weight = normal(4, 4 // groups, *kernel, seed=50)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    shape = F.conv2d(torch.zeros(1, *INPUT).double(), weight, None, **geometry).shape[1:]
    return weight, normal(4, seed=51), geometry, tuple(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(2, 7, 5), (1, 1, 1), (3, 1024, 2), (0, 4, 3), (2, 0, 3)])
def test_linear_layers(batch, inputs, outputs, with_bias, dtype):
    weight, bias = normal(outputs, inputs, seed=50), normal(outputs, seed=51) if with_bias else None
    l, u = intervals(batch, inputs)
    A = coefficients("both", batch, 3, outputs)
    assert_matches_reference(ops.interval_linear, l, u, weight, bias, dtype=dtype)
    assert_matches_reference(ops.backward_linear, A, weight, bias, dtype=dtype)
    for exact in (True, False):
        matrices = forward_matrices(batch, 4, inputs, exact=exact)
        assert_matches_reference(ops.forward_linear, *matrices, weight, bias, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("index", range(len(CONVOLUTIONS)))
def test_convolutions(index, with_bias, dtype):
    weight, bias, geometry, shape = convolution(index)
    bias = bias if with_bias else None
    A = coefficients("both", 2, 3, *shape)
    assert_matches_reference(ops.interval_conv2d, *intervals(2, *INPUT), weight, bias, **geometry, dtype=dtype)
    assert_matches_reference(ops.backward_conv2d, A, weight, bias, INPUT[1:], **geometry, dtype=dtype)
    for exact in (True, False):
        matrices = forward_matrices(2, 4, *INPUT, exact=exact)
        assert_matches_reference(ops.forward_conv2d, *matrices, weight, bias, **geometry, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    ("image", "kernel"), [((1, 9, 8), (4, 5)), ((4, 8, 7), (4, 4)), ((16, 6, 5), (3, 3)), ((2, 101, 102), (3, 3))]
)
def test_the_interval_of_one_image(image, kernel, with_bias, dtype):
    weight, bias = normal(6, image[0], *kernel, seed=55), normal(6, seed=56) if with_bias else None
    geometry = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 1)}
    assert_matches_reference(ops.interval_conv2d, *intervals(1, *image), weight, bias, **geometry, dtype=dtype)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_an_interval_of_one_image_is_undefined_where_its_bounds_are_and_nowhere_else(bad):
    l, u = (bound.float() for bound in intervals(1, 4, 8, 8))
    u[0, 1, 2, 3] = bad
    weight = normal(3, 4, 4, 4, seed=57).float()
    lower, upper = ops.interval_conv2d(l, u, weight, None)
    reads_it = F.conv2d((~u.isfinite()).float(), torch.ones_like(weight)) > 0
    assert reads_it.any()
    assert not reads_it.all()
    for bound in (lower, upper):
        assert torch.equal(bound.isfinite(), ~reads_it)


@pytest.mark.parametrize(("batch", "rows"), [(0, 3), (2, 0), (1, 1)])
def test_convolutions_of_no_rows_and_no_images(batch, rows):
    weight, bias, geometry, shape = convolution(1)
    A = coefficients("both", batch, rows, *shape)
    assert_matches_reference(ops.interval_conv2d, *intervals(batch, *INPUT), weight, bias, **geometry)
    assert_matches_reference(ops.backward_conv2d, A, weight, bias, INPUT[1:], **geometry)
    assert_matches_reference(ops.forward_conv2d, *forward_matrices(batch, rows, *INPUT), weight, bias, **geometry)
    l, u = intervals(batch, *shape)
    assert_matches_reference(
        ops.relax_backward_conv2d, A, l, u, weight, bias, INPUT[1:], sides="both", r=0.75, **geometry
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_activation_and_the_linear_layer_below_it(strategy, with_bias, sides, dtype):
    weight, bias = normal(30, 11, seed=50), normal(30, seed=51) if with_bias else None
    A, (l, u) = coefficients(sides, 2, 3, 30), intervals(2, 30)
    keywords = {"sides": sides, **relaxation(strategy, shape=(30,))}
    assert_matches_reference(ops.relax_backward_linear, A, l, u, weight, bias, **keywords, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", ["adaptive", "slopes", "lines"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("r", ["channel", "neuron", "row"])
@pytest.mark.parametrize("index", range(len(CONVOLUTIONS)))
def test_an_activation_and_the_convolution_below_it(index, r, with_bias, strategy, dtype):
    weight, bias, geometry, shape = convolution(index)
    A, (l, u) = coefficients("both", 2, 3, *shape), intervals(2, *shape)
    keywords = {"sides": "both", **geometry, **relaxation(strategy, r, shape=shape)}
    assert_matches_reference(
        ops.relax_backward_conv2d, A, l, u, weight, bias if with_bias else None, INPUT[1:], **keywords, dtype=dtype
    )


@pytest.mark.parametrize("sizes", [(0, 3, 5, 4), (2, 0, 5, 4), (2, 3, 0, 4), (2, 3, 5, 0), (1, 1, 1, 1)])
def test_linear_back_substitution_of_every_size(sizes):
    batch, rows, neurons, inputs = sizes
    A, (l, u) = coefficients("both", batch, rows, neurons), intervals(batch, neurons)
    weight, bias = normal(neurons, inputs, seed=50), normal(neurons, seed=51)
    assert_matches_reference(ops.backward_linear, A, weight, bias)
    assert_matches_reference(ops.relax_backward_linear, A, l, u, weight, bias, sides="both", r=0.75)


def test_constants_of_a_linear_layer_make_nothing_as_large_as_the_coefficients():
    A, weight = coefficients("both", 2, 3, 300), normal(300, 5, seed=50)
    bias = normal(300, seed=51).requires_grad_()
    with Largest() as largest, torch.no_grad():
        composite("backward_linear", A.device)(A, weight, bias)
    assert 0 < largest.elements < A.numel()
    constants = ops.backward_linear(A, weight, bias)[1]
    with Largest() as largest:
        (to_bias,) = torch.autograd.grad(constants.sum(), bias)
    assert torch.allclose(to_bias, A.sum((0, 1, 2)), rtol=1e-12)
    assert 0 < largest.elements < A.numel()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("matrix_batch", [1, 2])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("sides", SIDES)
def test_forward_bounds_inserted_into_coefficients(sides, exact, matrix_batch, dtype):
    A = coefficients(sides, 2, 4, 3, 2, 3)
    matrices = forward_matrices(matrix_batch, 5, 3, 2, 3, exact=exact)
    assert_matches_reference(ops.insert_forward, A, *matrices, sides=sides, dtype=dtype)


@pytest.mark.parametrize("sizes", [(0, 3, 5, 4), (2, 0, 5, 4), (2, 3, 0, 4), (2, 3, 5, 0), (1, 1, 1, 1)])
@pytest.mark.parametrize("matrix_batch", ["one", "all"])
def test_insertion_of_every_size(matrix_batch, sizes):
    batch, rows, neurons, inputs = sizes
    matrices = forward_matrices(batch if matrix_batch == "all" else 1, inputs, neurons)
    assert_matches_reference(ops.insert_forward, coefficients("both", batch, rows, neurons), *matrices, sides="both")


@pytest.mark.parametrize("rows", [1, 7, 16, 17])
@pytest.mark.parametrize("neurons", [17, 530])
@pytest.mark.parametrize("inputs", [3, 18, 300])
@pytest.mark.parametrize("sides", SIDES[:2])
def test_insertion_of_few_rows_and_more(sides, inputs, neurons, rows):
    matrices = forward_matrices(2, inputs, neurons)
    for dtype in (torch.float32, torch.float64):
        A = coefficients(sides, 2, rows, neurons)
        assert_matches_reference(ops.insert_forward, A, *matrices, sides=sides, dtype=dtype)
        if inputs == 18:  # without a matrix of radii, and with one beside it
            center, radius, center_bias, radius_bias = matrices
            for other in ((center, None, center_bias, radius_bias), (center, radius, center_bias, None)):
                assert_matches_reference(ops.insert_forward, A, *other, sides=sides, dtype=dtype)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_reaches_the_rows_that_it_is_inserted_into(value):
    center, radius, center_bias, radius_bias = forward_matrices(1, 3, 40)
    radius[0, 1, 33] = value
    A = coefficients("lower", 1, 2, 40)
    A[..., 1, 33] = 0.0
    inserted, _ = ops.insert_forward(A, center, radius, center_bias, radius_bias, sides="lower")
    assert not inserted[0, 0, :, 1].isfinite().any()
    assert inserted[0, 0, :, [0, 2]].isfinite().all()


@pytest.mark.parametrize("index", range(len(CONVOLUTIONS)))
def test_back_substitution_is_the_adjoint_of_the_convolution(index):
    weight, bias, geometry, shape = convolution(index)
    x = normal(1, *INPUT, seed=60)
    A = normal(1, 1, 3, *shape, seed=61)
    coefficients, constants = ops.backward_conv2d(A, weight, bias, INPUT[1:], **geometry)
    of_output = (A * F.conv2d(x, weight, bias, **geometry)).sum((3, 4, 5))
    assert torch.allclose((coefficients * x).sum((3, 4, 5)) + constants, of_output, rtol=1e-12, atol=1e-12)


def test_channels_last_weights_and_images_change_nothing():
    weight, bias, geometry, shape = convolution(1)
    l, u = intervals(2, *INPUT)
    A = coefficients("both", 2, 3, *shape)
    last = {"memory_format": torch.channels_last}
    for strided, copied in zip(
        (
            *ops.interval_conv2d(
                l.contiguous(**last), u.contiguous(**last), weight.contiguous(**last), bias, **geometry
            ),
            *ops.backward_conv2d(A, weight.contiguous(**last), bias, INPUT[1:], **geometry),
        ),
        (
            *ops.interval_conv2d(l, u, weight, bias, **geometry),
            *ops.backward_conv2d(A, weight, bias, INPUT[1:], **geometry),
        ),
        strict=True,
    ):
        assert torch.allclose(strided, copied, rtol=1e-12, atol=1e-12)
        assert strided.is_contiguous()  # as the fake functions promise to the compiler


@pytest.mark.parametrize("layout", ["shared", "transposed"])
def test_layouts_of_coefficients_do_not_matter(layout):
    A = {"shared": normal(1, 1, 3, 6).expand(2, 2, 3, 6), "transposed": normal(6, 2, 2, 3).permute(1, 2, 3, 0)}[layout]
    weight, bias = normal(6, 5, seed=50), normal(6, seed=51)
    l, u = intervals(2, 6)
    for strided, copied in zip(
        (*ops.backward_linear(A, weight, bias), *ops.relax_backward_linear(A, l, u, weight, bias, sides="both")),
        (
            *ops.backward_linear(A.contiguous(), weight, bias),
            *ops.relax_backward_linear(A.contiguous(), l, u, weight, bias, sides="both"),
        ),
        strict=True,
    ):
        assert torch.allclose(strided, copied, rtol=1e-12, atol=1e-12)
        assert strided.is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("batch", [0, 1, SMALL_BATCH, SMALL_BATCH + 1])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (5, 37), (3, 1025), (35, 530), (0, 4), (4, 0)])
def test_an_interval_through_a_linear_layer_for_few_and_for_many_examples(outputs, inputs, batch, with_bias, dtype):
    weight = torch.randn(outputs, inputs).double()
    bias = torch.randn(outputs).double() if with_bias else None
    assert_matches_reference(ops.interval_linear, *intervals(batch, inputs), weight, bias, dtype=dtype)


def test_nan_reaches_the_interval_through_a_linear_layer():
    l, u = torch.zeros(2, 3), torch.ones(2, 3)
    l[1, 2] = torch.nan
    lower, upper = ops.interval_linear(l, u, torch.randn(4, 3), None)
    assert not lower[0].isnan().any()
    assert lower[1].isnan().all()
    assert upper[1].isnan().all()
