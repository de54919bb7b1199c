"""Intervals through layers that are rounded outward, beside those of the float64 reference."""

import torch
from ops.cases import TOLERANCE, assert_close, converted, intervals, normal, uniform
from ops.test_affine import INPUT, convolution

import lbp
from lbp.ops.outward_intervals import Widening, outward_interval_conv2d, outward_interval_linear

WIDENING = Widening(2.0**-8, 2.0**-20)
# Few examples and many; rows in whole vectors and such that are not; sums of one block, of two, and of none.
LAYERS = (
    *((batch, inputs, 5) for batch in (1, 2, 3, 4) for inputs in (23, 24)),
    *((6, 37, 3), (33, 9, 130), (1, 1030, 4), (7, 1100, 5), (2, 0, 3), (6, 0, 2), (0, 4, 3)),
)


def product(values, weight, offset):
    return torch.nn.functional.linear(values, weight, offset)


def assert_outward_linear(batch, inputs, outputs, dtype, device="cpu"):
    """Assert that bounds of a Linear layer are those of the float64 reference, in the dtype's precision."""
    layer = normal(outputs, inputs, seed=50), normal(outputs, seed=51) if batch % 2 else None
    margins = uniform(outputs, seed=52), of_examples(batch) if batch % 3 else None
    _assert_reference(outward_interval_linear, intervals(batch, inputs), layer, margins, dtype, device, product)


def assert_outward_conv2d(index, dtype, device="cpu"):
    """Likewise, of one of the convolutions of tests/ops/test_affine.py."""
    weight, bias, geometry, _ = convolution(index)
    layer, of_both = (weight, bias if index % 2 else None), of_examples(2) if index % 3 else None
    margins = uniform(weight.shape[0], seed=52), of_both
    _assert_reference(outward_interval_conv2d, intervals(2, *INPUT), layer, margins, dtype, device, **geometry)


def of_examples(batch):
    """Margins of some examples."""
    return torch.arange(batch).double() % 2


def _assert_reference(function, bounds, layer, margins, dtype, device, *rest, **geometry):
    def on(layer, margins):
        return function(*bounds, *layer, WIDENING, margins[0], *rest, of_example=margins[1], **geometry)

    with lbp.backend("reference"), torch.no_grad():
        expected = on(layer, margins)
    bounds, layer, margins = converted((bounds, layer, margins), dtype, None, device)
    with torch.no_grad():
        found = on(layer, margins)
    assert_close([side.cpu() for side in found], expected, TOLERANCE[dtype], "bound")


def overflowing_bounds(batch, dtype, device="cpu"):
    """Bounds of sums that overflow to positive and negative infinity."""
    largest = torch.finfo(dtype).max
    weight = torch.full((2, 8), 0.75 * largest, dtype=dtype, device=device)
    weight[1].neg_()
    one, margin = torch.ones(batch, 8, dtype=dtype, device=device), torch.zeros(2, dtype=dtype, device=device)
    with torch.no_grad():
        return outward_interval_linear(one, one, weight, None, Widening(2.0**-20, 0.0), margin, product)


def assert_infinite_bounds_on_the_wrong_side_are_none(batch, dtype, device="cpu"):
    lower, upper = overflowing_bounds(batch, dtype, device)
    assert lower[:, 0].isnan().all()
    assert (upper[:, 0] == torch.inf).all()
    assert (lower[:, 1] == -torch.inf).all()
    assert upper[:, 1].isnan().all()


def _calls():
    (l, u), image = intervals(3, 6), intervals(2, 2, 5, 4)
    outward = (WIDENING.relative, WIDENING.absolute)
    kernel, geometry = normal(8, 2, 3, 3), ((2, 1), (1, 1), (1, 1), 1)
    yield "split_interval", (l, u, *outward)
    yield "join_interval", (l, u, True)
    yield "interval_linear_outward", (l, u, normal(4, 6), normal(4), *outward, uniform(4), uniform(3))
    yield "interval_conv2d_outward", (*image, kernel, None, *outward, uniform(8), None, *geometry)


CALLS = dict(_calls())
"""The kernels of CUDA devices, by name, with arguments."""
