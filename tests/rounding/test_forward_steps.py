"""Single steps of forward bounds in exact arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from rounding.cases import generator, numbers
from rounding.exact import Exact, number
from torch import Tensor, nn

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.graph import Relaxations
from lbp.linear import ForwardBounds, Region
from lbp.methods.outward_forward import OutwardForward
from lbp.ops import bounding_lines
from lbp.perturbations import PerturbationLpNorm

INPUTS, NEURONS = 64, 48


def sides(bounds: ForwardBounds, x: Tensor) -> tuple[Exact, Exact]:
    """Exact lower and upper values [neurons] of forward bounds of one image at a point [n0]."""
    radius, radius_bias = Exact.of(bounds.radius_or_zero[0]), Exact.of(bounds.radius_bias_or_zero[0])
    center, center_bias = Exact.of(bounds.center[0]), Exact.of(bounds.center_bias[0])
    point = Exact.of(x)
    middle, spread = point @ center + center_bias, point @ radius + radius_bias
    return middle - spread, middle + spread


def small_errors_add_up(slopes: tuple[float, float], pool: Tensor, *, lower: bool) -> Tensor:
    """Entries [INPUTS, NEURONS] that a ramp's lines round in one direction, while their sums nearly cancel."""
    s, t = (torch.tensor(slope) for slope in slopes)
    center, radius = ((t + s) / 2 * pool).double(), ((t - s) / 2 * pool).double()
    wrong = center - radius - s.double() * pool.double() if lower else t.double() * pool.double() - center - radius
    order = wrong.argsort(descending=True)
    half = INPUTS // 2 * NEURONS
    entries = torch.cat([pool[order[:half]], -pool[order.flip(0)[:half]]])
    return entries.reshape(INPUTS, NEURONS)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize(
    ("eta", "strategy"), [(0.001, "adaptive"), (0.02, "adaptive"), (0.0, "one"), (0.3, "same-slope")]
)
def test_a_ramp_whose_slopes_differ_pays_for_both_sides(eta, strategy, lower):
    model = nn.Sequential(nn.Linear(INPUTS, NEURONS), nn.LeakyReLU(eta))
    network = BoundedModule(model, torch.zeros(1, INPUTS))._network()
    ramp, x = network.output, torch.ones(INPUTS)
    before = (torch.full((1, NEURONS), -3e-6 if eta else -3e-5), torch.full((1, NEURONS), 1e-6))
    lines = bounding_lines(*before, math.inf, eta, strategy)
    slopes = (lines.lower_slope[0, 0].item(), lines.upper_slope[0, 0].item())
    pool = torch.rand(40 * INPUTS * NEURONS, generator=generator(0)) + 1
    center = small_errors_add_up(slopes, pool, lower=lower)
    given = ForwardBounds(center[None], None, torch.zeros(1, NEURONS), None)
    forward = OutwardForward(Region(x[None], x[None]))
    found = forward.step(ramp, [given], Relaxations(strategy, "both", {ramp.inputs[0]: before}))
    value = Exact.of(x) @ Exact.of(center)
    low, high = sides(found, x)
    assert (low <= number(slopes[0]) * value + Exact.of(lines.lower_intercept[0])).all()
    assert (number(slopes[1]) * value + Exact.of(lines.upper_intercept[0]) <= high).all()


class Repeated(nn.Module):
    """A linear layer that reads the same neurons many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.layer = nn.Linear(2 * times, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.cat([x] * self.times, 1))


@pytest.mark.parametrize("method", ["LBP", "CROWN", "IBP"])
def test_neurons_that_hold_the_same_value_make_sums(method):
    model = Repeated(50)
    with torch.no_grad():
        model.layer.weight.copy_(numbers("cancelling", 3, 100))
    x = torch.rand(1, 2, generator=generator(1))
    region = BoundedTensor(x, PerturbationLpNorm(x_L=x, x_U=x))
    lower, upper = BoundedModule(model, x).compute_bounds(x=(region,), method=method, rounding="outward")
    value = Exact.of(torch.cat([x[0]] * 50)) @ Exact.of(model.layer.weight).mT
    assert (Exact.of(lower[0]) <= value).all()
    assert (value <= Exact.of(upper[0])).all()
