"""The CPU's kernels for the gradients of convolutions, one or center and radius at once, whatever the geometry."""

import pytest
import torch

from lbp import ops
from lbp.backend import backend
from lbp.ops._convolution import direct_weight_gradient_pays

GEOMETRIES = [
    # channels, outputs, groups, height, width, kernel, stride, padding, dilation
    (1, 16, 1, 28, 28, (4, 4), (2, 2), (2, 2), (1, 1)),
    (3, 40, 1, 9, 40, (3, 3), (1, 1), (1, 1), (1, 1)),  # some lanes of a second vector are idle
    (4, 13, 1, 15, 15, (3, 2), (3, 1), (0, 4), (1, 2)),
    (6, 9, 3, 8, 5, (2, 3), (1, 3), (2, 1), (3, 1)),
    (5, 5, 5, 33, 17, (3, 3), (2, 2), (1, 1), (2, 2)),
    (2, 1, 1, 4, 4, (1, 1), (3, 2), (0, 0), (1, 1)),  # columns that no output reads
    (2, 3, 1, 1, 1, (1, 3), (1, 4), (0, 6), (1, 5)),
    (70, 70, 1, 60, 64, (3, 3), (1, 1), (1, 1), (1, 1)),  # more than one band, and panel
]


def layer(geometry, batch, dtype):
    """Gradients of two results, two inputs, a weight with zeros in it, and the convolution."""
    channels, outputs, groups, height, width, kernel, *convolution = geometry
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, dtype=dtype, generator=generator)

    x, y = normal(2, batch, channels, height, width)
    weight = normal(outputs, channels // groups, *kernel)
    weight.flatten()[::5] = 0
    convolution = (*convolution, groups)
    result = torch.nn.functional.conv2d(x, weight, None, *convolution)
    return normal(*result.shape), normal(*result.shape), x, y, weight, convolution


def by_library(gradient, x, weight, convolution):
    """Gradients of a convolution by input and weight, in float64."""
    stride, padding, dilation, groups = convolution
    tensors = [tensor.double() for tensor in (gradient, x, weight)]
    sizes = (stride, padding, dilation, False, [0, 0], groups)
    return torch.ops.aten.convolution_backward(*tensors, None, *sizes, [True, True, False])[:2]


def center_and_radius(lower, upper):
    return (lower.double() + upper.double()) / 2, (upper.double() - lower.double()) / 2


def tolerance(dtype):
    return {"rtol": 1e-5, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-11}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradients_by_ends_and_weight_are_those_of_two_convolutions(geometry, batch, dtype):
    lower, upper, l, u, weight, convolution = layer(geometry, batch, dtype)
    to_ends = torch.ops.lbp.interval_conv2d_input_gradient(lower, upper, weight, l.shape[2:], True, *convolution)
    to_weight = torch.ops.lbp.conv2d_weight_gradient(lower, upper, l, u, weight, True, *convolution)
    (to_center, to_radius), (center, radius) = center_and_radius(lower, upper), center_and_radius(l, u)
    by_center, through_center = by_library(to_center, center, weight, convolution)
    by_radius, through_radius = by_library(to_radius, radius, weight.abs(), convolution)
    expected = (by_center - by_radius, by_center + by_radius)
    torch.testing.assert_close(tuple(end.double() for end in to_ends), expected, **tolerance(dtype))
    expected = 2 * (through_center + weight.double().sign() * through_radius)
    torch.testing.assert_close(to_weight.double(), expected, **tolerance(dtype))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradients_by_center_radius_and_weight_are_those_of_two_convolutions(geometry):
    to_center, to_radius, center, radius, weight, convolution = layer(geometry, 2, torch.float64)
    to_pair = torch.ops.lbp.interval_conv2d_input_gradient(
        to_center, to_radius, weight, center.shape[2:], False, *convolution
    )
    to_weight = torch.ops.lbp.conv2d_weight_gradient(to_center, to_radius, center, radius, weight, False, *convolution)
    by_center, through_center = by_library(to_center, center, weight, convolution)
    by_radius, through_radius = by_library(to_radius, radius, weight.abs(), convolution)
    torch.testing.assert_close(to_pair, (by_center, by_radius), **tolerance(torch.float64))
    expected = through_center + weight.sign() * through_radius
    torch.testing.assert_close(to_weight, expected, **tolerance(torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_gradient_by_one_convolutions_weight_reads_one_input(geometry, dtype):
    gradient, _, x, _, weight, convolution = layer(geometry, 2, dtype)
    to_weight = torch.ops.lbp.conv2d_weight_gradient(gradient, None, x, None, weight, False, *convolution)
    _, expected = by_library(gradient, x, weight, convolution)
    torch.testing.assert_close(to_weight.double(), expected, **tolerance(dtype))


def test_results_hardly_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    try:
        for geometry in (GEOMETRIES[0], GEOMETRIES[-1]):
            lower, upper, l, u, weight, convolution = layer(geometry, 2, torch.float64)
            results = []
            for count in (1, 2, 7):
                torch.set_num_threads(count)
                results.append(torch.ops.lbp.conv2d_weight_gradient(lower, upper, l, u, weight, True, *convolution))
            torch.testing.assert_close(results[1:], results[:1] * 2, rtol=1e-13, atol=1e-10)
    finally:
        torch.set_num_threads(threads)


def test_the_sum_over_no_images_is_zero():
    lower, upper, l, u, weight, convolution = layer(GEOMETRIES[0], 0, torch.float32)
    to_weight = torch.ops.lbp.conv2d_weight_gradient(lower, upper, l, u, weight, True, *convolution)
    assert torch.equal(to_weight, torch.zeros_like(weight))


def test_shapes_that_do_not_fit_are_refused():
    lower, upper, l, u, weight, convolution = layer(GEOMETRIES[0], 2, torch.float32)
    for gradients in ((lower[:1], upper[:1]), (lower, upper.mT[:, :, :4]), (lower[:, 1:], upper[:, 1:])):
        with pytest.raises(RuntimeError):
            torch.ops.lbp.conv2d_weight_gradient(*gradients, l, u, weight, True, *convolution)
    for gradients in ((lower, upper[:1]), (lower, upper.mT[:, :, :4]), (lower[:, 1:], upper[:, 1:])):
        with pytest.raises(RuntimeError):
            torch.ops.lbp.interval_conv2d_input_gradient(*gradients, weight, l.shape[2:], True, *convolution)
    with pytest.raises(RuntimeError):
        torch.ops.lbp.conv2d_weight_gradient(lower, None, l, u, weight, True, *convolution)


@pytest.mark.parametrize("wanted", [("l", "u"), ("weight",), ("bias",), ("u", "weight", "bias")])
@pytest.mark.parametrize("groups", [1, 12])  # a weight's gradient by the kernel, and by the library
def test_any_of_an_intervals_gradients_may_be_asked_for_alone(wanted, groups):
    torch.manual_seed(0)
    l, weight, bias = torch.randn(2, 12, 9, 9), torch.randn(24, 12 // groups, 3, 3), torch.randn(24)
    tensors = {"l": l, "u": l + torch.rand_like(l), "weight": weight, "bias": bias}
    tensors = {name: tensor.double().requires_grad_(name in wanted) for name, tensor in tensors.items()}
    results = []
    for name in ("native", "reference"):
        with backend(name):
            lower, upper = ops.interval_conv2d(*tensors.values(), padding=(1, 1), groups=groups)
            results.append(torch.autograd.grad((lower * upper).sum(), [tensors[name] for name in wanted]))
    torch.testing.assert_close(*results)


def test_where_an_output_channel_is_alone_the_library_finds_the_weights_gradient():
    convolution = ((1, 1), (1, 1), (1, 1), 64)
    assert not direct_weight_gradient_pays(torch.zeros(2, 64, 8, 8), torch.zeros(64, 1, 3, 3), convolution, alone=True)
