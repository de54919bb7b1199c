"""The CPU's kernel for center and radius through a convolution: both sums, whatever the geometry."""

import pytest
import torch
from torch.nn.functional import conv2d

from lbp import reference
from lbp.ops._convolution import direct_convolution_pays

NO_MARGINS = (None, None, 0.0, 0.0)
GEOMETRIES = [
    # channels, outputs, groups, height, width, kernel, stride, padding, dilation
    (1, 16, 1, 28, 28, (4, 4), (2, 2), (2, 2), (1, 1)),
    (3, 7, 1, 9, 40, (3, 3), (1, 1), (1, 1), (1, 1)),
    (4, 13, 1, 15, 15, (3, 2), (3, 1), (0, 4), (1, 2)),
    (6, 9, 3, 8, 5, (2, 3), (1, 3), (2, 1), (3, 1)),
    (5, 5, 5, 33, 17, (3, 3), (2, 2), (1, 1), (2, 2)),
    (2, 1, 1, 4, 4, (1, 1), (3, 2), (0, 0), (1, 1)),
    (2, 3, 1, 1, 1, (1, 3), (1, 4), (0, 6), (1, 5)),
    (70, 12, 1, 60, 64, (3, 3), (1, 1), (1, 1), (1, 1)),  # more than one band
]


def layer(geometry, batch, dtype, with_bias=True):
    channels, outputs, groups, height, width, kernel, *convolution = geometry
    generator = torch.Generator().manual_seed(1)
    l = torch.randn(batch, channels, height, width, dtype=dtype, generator=generator)
    u = l + torch.rand(l.shape, dtype=dtype, generator=generator)
    weight = torch.randn(outputs, channels // groups, *kernel, dtype=dtype, generator=generator)
    bias = torch.randn(outputs, dtype=dtype, generator=generator) if with_bias else None
    return l, u, weight, bias, (*convolution, groups)


def direct(first, second, weight, bias, margins, of_ends, convolution):
    return torch.ops.lbp.interval_conv2d_direct(first, second, weight, bias, *margins, of_ends, *convolution)


def in_float64(*tensors):
    return [None if tensor is None else tensor.double() for tensor in tensors]


def tolerance(dtype):
    return {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_bounds_are_those_of_two_convolutions(geometry, batch, dtype):
    l, u, weight, bias, convolution = layer(geometry, batch, dtype, with_bias=batch > 1)
    lower, upper = direct(l, u, weight, bias, NO_MARGINS, True, convolution)
    named = dict(zip(("stride", "padding", "dilation", "groups"), convolution, strict=True))
    expected = reference.interval_conv2d(*in_float64(l, u, weight, bias), **named)
    torch.testing.assert_close((lower.double(), upper.double()), expected, **tolerance(dtype))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_centers_and_radii_are_those_of_two_convolutions(geometry):
    center, radius, weight, bias, convolution = layer(geometry, 2, torch.float32)
    results = direct(center, radius, weight, bias, NO_MARGINS, False, convolution)
    center, radius, weight, bias = in_float64(center, radius, weight, bias)
    expected = (conv2d(center, weight, bias, *convolution), conv2d(radius, weight.abs(), None, *convolution))
    torch.testing.assert_close(tuple(part.double() for part in results), expected, **tolerance(torch.float32))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_radii_are_widened_and_the_bounds_moved_by_both_margins(geometry):
    l, u, weight, bias, convolution = layer(geometry, 2, torch.float64)
    margin, of_example = torch.rand(len(weight), dtype=torch.float64), torch.rand(2, dtype=torch.float64)
    lower, upper = direct(l, u, weight, bias, (margin, of_example, 0.25, 0.5), True, convolution)
    center, radius = (u + l) / 2, (u - l) / 2
    radius = radius + (center.abs() + radius) * 0.25 + 0.5  # padding is no interval and has no radius
    middle = conv2d(center, weight, bias, *convolution)
    spread = conv2d(radius, weight.abs(), margin, *convolution) + of_example[:, None, None, None]
    torch.testing.assert_close((lower, upper), (middle - spread, middle + spread))


def test_an_outward_bound_that_overflowed_to_the_wrong_side_is_none():
    top = torch.finfo(torch.float32).max
    ends, weight = torch.full((1, 2, 1, 1), top), torch.ones(1, 2, 1, 1)
    convolution = ((1, 1), (0, 0), (1, 1), 1)
    lower, upper = direct(ends, ends, weight, None, NO_MARGINS, True, convolution)
    assert lower.isnan().all() or (lower == torch.inf).all()
    lower, _ = direct(ends, ends, weight, None, (torch.zeros(1), None, 0.0, 0.0), True, convolution)
    assert lower.isnan().all()
    _, upper = direct(-ends, -ends, weight, None, (torch.zeros(1), None, 0.0, 0.0), True, convolution)
    assert upper.isnan().all()


def test_results_do_not_depend_on_the_number_of_threads():
    l, u, weight, bias, convolution = layer(GEOMETRIES[-1], 1, torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(torch.stack(direct(l, u, weight, bias, NO_MARGINS, True, convolution)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_shapes_that_do_not_fit_are_refused():
    l, u, weight, bias, convolution = layer(GEOMETRIES[0], 2, torch.float32)
    for arguments in (
        (l, u[:1], weight, bias),
        (l, u.mT[:, :, :, :14], weight, bias),
        (l, u, weight[:, :0], bias),
        (l, u, weight, bias[1:]),
        (l[0], u[0], weight, bias),
        (l[..., :1, :1], u[..., :1, :1], weight.repeat(1, 1, 3, 3), bias),
    ):
        with pytest.raises(RuntimeError):
            direct(*arguments, NO_MARGINS, True, convolution)


def test_where_lanes_are_idle_and_work_is_plenty_the_library_convolves():
    weight, convolution = torch.zeros(256, 256, 3, 3), ((1, 1), (1, 1), (1, 1), 1)
    assert not direct_convolution_pays(torch.zeros(32, 256, 8, 8), weight, convolution, of_bounds=True)
