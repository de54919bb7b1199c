"""A Linear layer with batch normalisation merged into it: intervals scale its results, and never its weight."""

import pytest
import torch
from ops.watching import Largest
from rounding.cases import KINDS, box, fill, numbers
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
