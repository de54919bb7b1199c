"""Intervals through layers, rounded outward: the widening and the margin, by whatever computes them on the CPU."""

import pytest
import torch
from ops.cases import DTYPES, intervals, normal
from ops.outward_cases import (
    LAYERS,
    WIDENING,
    assert_infinite_bounds_on_the_wrong_side_are_none,
    assert_outward_conv2d,
    assert_outward_linear,
    product,
)
from ops.test_affine import CONVOLUTIONS

from lbp.ops.outward_intervals import outward_interval_linear


@pytest.mark.parametrize("dtype", DTYPES)
def test_bounds_are_those_of_the_reference(dtype):
    for layer in LAYERS:
        assert_outward_linear(*layer, dtype)
    for index in range(len(CONVOLUTIONS)):
        assert_outward_conv2d(index, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [3, 20])
def test_infinite_bounds_on_the_wrong_side_are_none(batch, dtype):
    assert_infinite_bounds_on_the_wrong_side_are_none(batch, dtype)


@pytest.mark.parametrize("name", ["l", "weight", "bias"])
def test_whatever_requires_a_gradient_gets_it(name):
    l, u = intervals(2, 6)
    tensors = {"l": l, "u": u, "weight": normal(3, 6), "bias": normal(3)}
    tensors[name].requires_grad_()
    lower, upper = outward_interval_linear(*tensors.values(), WIDENING, torch.zeros(3).double(), product)
    (gradient,) = torch.autograd.grad(upper.sum() - 2 * lower.sum(), tensors[name])
    assert gradient.abs().sum() > 0
