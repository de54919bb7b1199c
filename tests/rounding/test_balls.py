"""Outward bounds over l_p balls, whose radius and center are exact: x0 and eps as they are stored."""

import pytest
import torch
from rounding.cases import fill, numbers
from rounding.exact import Exact, number
from torch import nn

import lbp

EPS = 0.1
METHODS = ("IBP", "CROWN", "LBP", "Relaxed-CROWN-1")


def chain(kind):
    return fill(nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 24)), kind)


def over_ball(model, x, norm, method, rounding):
    net = lbp.BoundedModule(model, x)
    region = lbp.BoundedTensor(x, lbp.PerturbationLpNorm(eps=EPS, norm=norm))
    with torch.no_grad():
        return net.compute_bounds(x=(region,), method=method, rounding=rounding)


def certain(model, x, norm, found):
    """Which lower and upper bounds [2, B, S] are at least `eps ||row||_q` away from the exact value at the center."""
    first, second = model
    weight = Exact.of(second.weight)
    rows = weight @ Exact.of(first.weight)
    center = Exact.of(x) @ rows.mT + weight @ Exact.of(first.bias) + Exact.of(second.bias)
    gaps = (center - Exact.of(found[0]), Exact.of(found[1]) - center)
    eps = number(EPS)
    if norm == 1:
        spread = eps * rows.each(lambda values: abs(values).max(1))
        return [spread <= gap for gap in gaps]
    squares = eps * eps * (rows * rows).each(lambda values: values.sum(1))
    return [(squares <= gap * gap) & (number(0.0) <= gap) for gap in gaps]


@pytest.mark.parametrize("norm", [1.0, 2.0])
@pytest.mark.parametrize("method", METHODS)
def test_bounds_over_balls_lie_outside_of_the_exact_range(method, norm):
    for kind in ("gaussian", "cancelling", "ratios", "subnormal"):
        model, x = chain(kind), numbers("gaussian", 8, 6, seed=4)
        for side in certain(model, x, norm, over_ball(model, x, norm, method, "outward")):
            assert side.all(), kind


@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_rounding_to_nearest_does_put_bounds_inside(norm):
    model, x = chain("gaussian"), numbers("gaussian", 8, 6, seed=4)
    for method in ("CROWN", "LBP"):
        lower, upper = certain(model, x, norm, over_ball(model, x, norm, method, "nearest"))
        assert not (lower.all() and upper.all())


@pytest.mark.parametrize("method", METHODS)
def test_other_norms_agree_with_float64_and_are_never_inside(method):
    model, x = chain("gaussian"), numbers("gaussian", 8, 6, seed=4)
    for norm in (1.5, 3.0, 7.0):
        lower, upper = over_ball(model.float(), x, norm, method, "outward")
        low, high = over_ball(model.double(), x.double(), norm, method, "outward")
        assert (lower <= low).all()
        assert (upper >= high).all()
        assert torch.allclose(lower.double(), low, rtol=1e-4, atol=1e-4)
