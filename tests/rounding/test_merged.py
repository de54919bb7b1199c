"""A layer with batch normalisation merged into it: intervals of a Linear layer scale its results, never its weight."""

from contextlib import nullcontext

import pytest
import torch
from ops.watching import Largest
from rounding.cases import KINDS, METHODS, bounds, box, fill, flushed_subnormals, numbers
from rounding.exact import Exact, linear_range, value
from rounding.test_outward import violations
from torch import nn

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.perturbations import PerturbationLpNorm
from lbp.rounding import unit_roundoff

INPUTS, OUTPUTS, BATCH = 37, 48, 3


def normalised_layer(kind, dtype=torch.float32):
    """Scales of both signs, from 2^-80 to 2^30, and none; some shifts cancel the layer's bias."""
    layer, normalisation = nn.Linear(INPUTS, OUTPUTS), nn.BatchNorm1d(OUTPUTS)
    model = fill(nn.Sequential(layer, normalisation), kind).eval()
    with torch.no_grad():
        normalisation.running_var.copy_(torch.logspace(-9, 5, OUTPUTS))
        normalisation.running_mean.copy_(layer.bias + 1e-4 * numbers("gaussian", OUTPUTS, seed=3))
        normalisation.weight.copy_(numbers("gaussian", OUTPUTS, seed=4))
        normalisation.weight[:3] = torch.tensor([0.0, 2.0**-80, 2.0**20])
        normalisation.bias.copy_(numbers("gaussian", OUTPUTS, seed=5))
        normalisation.bias[::3] = 0
    return model.to(dtype)


def intervals(model, lower, upper, rounding, watch=None):
    net = BoundedModule(model, lower)
    region = BoundedTensor(lower, PerturbationLpNorm(x_L=lower, x_U=upper))
    with torch.no_grad(), watch or torch.no_grad():
        return net.compute_bounds(x=(region,), method="IBP", rounding=rounding)


def exact_range(model, lower, upper):
    """The exact values of the layer over boxes."""
    origin = torch.zeros(1, INPUTS, dtype=lower.dtype)
    at_zero = value(model, Exact.of(origin))
    columns = value(model, Exact.of(torch.eye(INPUTS, dtype=lower.dtype))) - at_zero
    return linear_range(columns.mT, at_zero.reshape(OUTPUTS), Exact.of(lower), Exact.of(upper))


def assert_intervals_hold(dtype, kinds=KINDS):
    for kind in kinds:
        model = normalised_layer(kind, dtype)
        lower, upper = (end.to(dtype) for end in box(BATCH, INPUTS))
        exact = exact_range(model, lower, upper)
        found = intervals(model, lower, upper, "outward")
        wrong, compared = violations(found, *exact)
        assert (wrong, compared) == (0, 2 * BATCH * OUTPUTS), kind
        if kind in ("gaussian", "cancelling"):
            assert violations(intervals(model, lower, upper, "nearest"), *exact)[0] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_intervals_lie_outside_of_the_exact_range(dtype):
    assert_intervals_hold(dtype)


def test_what_they_lose_is_of_the_order_of_the_roundings():
    model, (lower, upper) = normalised_layer("gaussian"), box(BATCH, INPUTS)
    layer, normalisation = model
    scale = normalisation.weight / torch.sqrt(normalisation.running_var + normalisation.eps)
    size = torch.maximum(-lower, upper) @ layer.weight.abs().mT + layer.bias.abs() + normalisation.running_mean.abs()
    most = (size * scale.abs() + normalisation.bias.abs()) * (4 * (INPUTS + 20) * unit_roundoff(torch.float32)) + 1e-25
    for ours, nearest in zip(
        *(intervals(model, lower, upper, rounding) for rounding in ("outward", "nearest")), strict=True
    ):
        assert ((ours - nearest).abs() <= most).all()


@pytest.mark.parametrize("rounding", ["nearest", "outward"])
def test_nothing_as_large_as_the_weight_is_made(rounding):
    largest = Largest()
    intervals(normalised_layer("gaussian"), *box(BATCH, INPUTS), rounding, largest)
    assert BATCH * OUTPUTS <= largest.elements < INPUTS * OUTPUTS


# A weight, the number that scales it, and whether numbers below the normal range are flushed to zero.
PRODUCTS = {
    "a scale below the normal range": (2.0**120, 2.0**-149, False),
    "a scale that is flushed": (2.0**120, 2.0**-128, True),
    "a weight that is flushed": (2.0**-130, 2.0**120, True),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("convolution", [False, True], ids=["linear", "convolution"])
@pytest.mark.parametrize("method", METHODS)
def test_what_a_factor_loses_below_the_normal_range_is_multiplied_by_the_other(method, convolution, name):
    weight, scale, flushed = PRODUCTS[name]
    layer, normalisation = nn.Linear(1, 2), nn.BatchNorm1d(2)
    if convolution:
        layer, normalisation = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
    model = nn.Sequential(layer, normalisation, nn.Flatten(), nn.Linear(2, 1, bias=False)).eval()
    with torch.no_grad():
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, weight)
        normalisation.running_var.fill_(0.5)
        normalisation.weight.copy_(torch.tensor([scale, -scale / 2]))
        nn.init.constant_(model[3].weight, 2.0**20)
    x = torch.ones(1, 1, 1, 1) if convolution else torch.ones(1, 1)
    exact = value(model, Exact.of(x))
    with flushed_subnormals() if flushed else nullcontext():
        for rounding in ("outward", "inference"):
            found = bounds(model, x, x, method=method, rounding=rounding)
            assert violations(found, exact, exact)[0] == 0


def test_what_rows_lose_below_the_normal_range_is_multiplied_by_the_weight():
    # The coefficient 2^-90 of the merged layer times its scale 2^-61 is nothing; times the layer's value it counts.
    layer, normalisation = nn.Linear(8, 1), nn.BatchNorm1d(1, eps=2.0**-126)
    model = nn.Sequential(layer, normalisation, nn.ReLU(), nn.Linear(1, 1, bias=False)).eval()
    with torch.no_grad():
        nn.init.constant_(layer.weight, 2.0**60)
        nn.init.zeros_(layer.bias)
        normalisation.weight.fill_(2.0**-61)
        nn.init.constant_(model[3].weight, 2.0**-90)
    x = torch.full((1, 8), 2.0**50)
    exact = value(model, Exact.of(x))
    for rounding in ("outward", "inference"):
        found = bounds(model, x, x, method="CROWN-IBP", rounding=rounding)
        assert violations(found, exact, exact)[0] == 0


@pytest.mark.parametrize("method", METHODS)
def test_channels_that_are_scaled_to_nothing_cost_nothing(method):
    model, (lower, upper) = normalised_layer("gaussian"), box(BATCH, INPUTS)
    model[1].weight.data[:4] = torch.tensor([0.0, 2.0**-149, 2.0**-140, 2.0**-126])
    model[1].bias.data[:4] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    found = bounds(model, lower, upper, method=method, rounding="outward")
    assert ((found[1] - found[0])[:, 1:4] < 1e-20).all()
    assert ((found[1] - found[0])[:, 0] < 1e-5).all()
