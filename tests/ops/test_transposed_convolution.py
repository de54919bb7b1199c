"""The CPU's kernels for coefficients through a convolution: both directions, whatever the geometry."""

import pytest
import torch
from ops.test_interval_convolution import GEOMETRIES, in_float64, tolerance
from torch.nn.functional import conv2d

from lbp import ops, reference
from lbp.ops._convolution import direct_transposed_pays

EDGES = [
    # channels, outputs, groups, height, width, kernel, stride, padding, dilation
    (3, 4, 1, 5, 7, (1, 1), (2, 3), (0, 0), (1, 1)),  # results that no tap reaches
    (2, 3, 1, 6, 6, (1, 1), (1, 1), (2, 1), (1, 1)),  # coefficients of padding alone
    (2, 2, 2, 2, 3, (2, 2), (4, 5), (3, 2), (1, 1)),  # a stride beyond the image
    (4, 20, 1, 12, 50, (4, 4), (2, 2), (1, 1), (1, 1)),
    (6, 6, 3, 9, 9, (3, 3), (2, 1), (4, 4), (2, 3)),
    (2, 70, 1, 120, 64, (3, 3), (2, 2), (1, 1), (1, 1)),  # more than one band
]


def layer(geometry, rows, dtype):
    channels, outputs, groups, height, width, kernel, *convolution = geometry
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(outputs, channels // groups, *kernel, dtype=dtype, generator=generator)
    bias = torch.randn(outputs, dtype=dtype, generator=generator)
    size = conv2d(torch.zeros(1, channels, height, width, dtype=dtype), weight, None, *convolution, groups).shape[1:]
    A = torch.randn(*rows, *size, dtype=dtype, generator=generator)
    return A, weight, bias, (height, width), (*convolution, groups)


def named(convolution):
    return dict(zip(("stride", "padding", "dilation", "groups"), convolution, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [(1, 1, 1), (2, 3, 2)])
@pytest.mark.parametrize("geometry", GEOMETRIES + EDGES)
def test_coefficients_are_those_of_the_transposed_convolution(geometry, rows, dtype):
    A, weight, bias, size, convolution = layer(geometry, rows, dtype)
    coefficients, constants = torch.ops.lbp.backward_conv2d_direct(A, weight, bias, size, *convolution)
    expected = reference.backward_conv2d(*in_float64(A, weight, bias), size, **named(convolution))
    assert coefficients.shape == expected[0].shape
    torch.testing.assert_close((coefficients.double(), constants), expected, **tolerance(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("geometry", GEOMETRIES + EDGES)
def test_the_gradient_is_the_convolution(geometry, dtype):
    A, weight, bias, size, convolution = layer(geometry, (2, 3, 1), dtype)
    to_coefficients = torch.randn(2, 3, 1, geometry[0], *size, dtype=dtype)
    to_constants = torch.randn(2, 3, 1, dtype=torch.float64)
    gradient = torch.ops.lbp.backward_conv2d_direct_gradient(to_coefficients, to_constants, weight, bias, *convolution)
    A = A.double().requires_grad_()
    results = reference.backward_conv2d(A, *in_float64(weight, bias), size, **named(convolution))
    (expected,) = torch.autograd.grad(results, A, (to_coefficients.double(), to_constants))
    torch.testing.assert_close(gradient.double(), expected, **tolerance(dtype))


def test_without_a_bias_the_constants_are_zero():
    A, weight, _, size, convolution = layer(GEOMETRIES[0], (1, 2, 3), torch.float32)
    _, constants = torch.ops.lbp.backward_conv2d_direct(A, weight, None, size, *convolution)
    assert constants.shape == (1, 2, 3)
    assert not constants.any()


@pytest.mark.parametrize("geometry", [GEOMETRIES[-1], EDGES[-1]])
def test_results_do_not_depend_on_the_number_of_threads(geometry):
    A, weight, bias, size, convolution = layer(geometry, (1, 1, 3), torch.float32)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            coefficients, constants = torch.ops.lbp.backward_conv2d_direct(A, weight, bias, size, *convolution)
            gradient = torch.ops.lbp.backward_conv2d_direct_gradient(
                coefficients, constants, weight, bias, *convolution
            )
            results.append((coefficients, constants, gradient))
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))


def test_infinite_and_undefined_coefficients_reach_only_what_they_touch():
    geometry = (1, 1, 1, 9, 9, (3, 3), (2, 2), (0, 0), (1, 1))
    A, weight, bias, size, convolution = layer(geometry, (1, 1, 1), torch.float32)
    A.zero_()[..., 1, 1] = torch.nan
    coefficients, constants = torch.ops.lbp.backward_conv2d_direct(A, weight, bias, size, *convolution)
    touched = torch.zeros(size, dtype=torch.bool)
    touched[2:5, 2:5] = True
    assert torch.equal(coefficients[0, 0, 0, 0].isnan(), touched)
    assert constants.isnan().all()


def test_shapes_that_do_not_fit_are_refused():
    A, weight, bias, size, convolution = layer(GEOMETRIES[0], (1, 2, 3), torch.float32)
    for arguments in (
        (A[0], weight, bias, size),
        (A[..., 1:], weight, bias, size),
        (A[:, :, :, 1:], weight, bias, size),
        (A, weight[0], bias, size),
        (A, weight, bias[1:], size),
        (A, weight, bias, (3, 3)),
        (A, weight.double(), bias, size),
    ):
        with pytest.raises(RuntimeError):
            torch.ops.lbp.backward_conv2d_direct(*arguments, *convolution)
    gradient, constants = torch.zeros(1, 2, 3, 1, *size), torch.zeros(1, 2, 3, dtype=torch.float64)
    for arguments in (
        (gradient[0], constants, weight, bias),
        (gradient, constants[:, 1:], weight, bias),
        (gradient, constants.float(), weight, bias),
        (gradient, constants, weight, bias[1:]),
    ):
        with pytest.raises(RuntimeError):
            torch.ops.lbp.backward_conv2d_direct_gradient(*arguments, *convolution)


@pytest.mark.parametrize("geometry", GEOMETRIES[:5])
def test_gradients_of_gradients_are_the_library_s(geometry):
    A, weight, bias, size, convolution = layer(geometry, (1, 1, 1), torch.float64)
    A, weight, bias = (tensor.requires_grad_() for tensor in (A, weight, bias))
    assert torch.autograd.gradgradcheck(
        lambda *tensors: ops.backward_conv2d(*tensors, size, **named(convolution)), (A, weight, bias)
    )


def test_where_lanes_are_idle_and_work_is_plenty_the_library_convolves():
    weight, convolution = torch.zeros(64, 64, 4, 4), ((2, 2), (0, 0), (1, 1), 1)
    assert not direct_transposed_pays(torch.zeros(288, 64, 5, 5), weight, (12, 12), convolution)
