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

from lbp.ops.outward_intervals import SMALL_BATCH, outward_interval_linear, short_products
from lbp.rounding import blocked_terms, gamma


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


@pytest.mark.parametrize("inputs", [7, 520, 100_000])
def test_both_products_of_few_examples_round_no_more_often_than_sums_in_blocks(inputs):
    # Terms that a sum which has reached 1 would lose one by one.
    weight = torch.full((3, inputs), -(2.0**-24))
    weight[:, 0] = torch.tensor([1.0, -1.0, 0.5])
    center, radius = torch.linspace(-1, 1, 2 * inputs).reshape(2, inputs), torch.ones(2, inputs)
    found = short_products(center, radius, weight)
    assert found is not None
    exact = center.double() @ weight.double().mT, radius.double() @ weight.double().abs().mT
    most = gamma(blocked_terms(inputs), torch.float32) * exact[1]
    for values, right in zip(found, exact, strict=True):
        assert ((values.double() - right).abs() <= most).all()


def test_products_of_many_examples_or_with_a_gradient_are_left_to_the_library():
    weight, few, many = torch.ones(3, 4), torch.ones(2, 4), torch.ones(SMALL_BATCH // 2 + 1, 4)
    assert short_products(many, many, weight) is None
    assert short_products(few, few, weight.requires_grad_()) is None
