"""What the errors of a step are made of: bounds of magnitudes, and counts of the terms of sums."""

import math
from fractions import Fraction

import pytest
import torch
from rounding.cases import KINDS, NETWORKS, bounds, box, fill, numbers
from torch import nn

from lbp.bounded import BoundedModule
from lbp.graph.activation import RampNode
from lbp.graph.linear import LinearNode
from lbp.linear import Region
from lbp.methods import problem
from lbp.methods.intervals import propagate_intervals
from lbp.ops import bounding_lines
from lbp.rounding import blocked_terms, magnitude_of

LAYERS = {f"Linear, {n} inputs": (lambda n=n: nn.Linear(n, 5), (n,)) for n in (3, 600)}
LAYERS |= {
    "convolution": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 5, 6)),
    "groups, stride and dilation": (lambda: nn.Conv2d(4, 6, 2, 2, dilation=2, groups=2), (4, 6, 7)),
    "average pooling": (lambda: nn.AvgPool2d(2), (2, 4, 4)),
    "batch normalisation": (lambda: nn.BatchNorm2d(2), (2, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_bounds_of_magnitudes_are_no_smaller(name):
    build, shape = LAYERS[name]
    model = fill(nn.Sequential(build()).double(), "ratios")
    node = BoundedModule(model, torch.zeros(1, *shape, dtype=torch.float64))._network().output
    interval = tuple(side.double() for side in box(3, *shape, width=2.0))
    computed = node.magnitude(magnitude_of(interval))
    # All are rounded sums.
    least = computed * (1 - 1e-12)
    sums = node.weight_sums()
    assert (node.magnitude_at_most(interval, sums=sums).expand_as(computed) >= least).all()
    lower, upper = node.interval(interval)
    assert (upper - lower + node.magnitude_at_most(interval[::-1], sums=sums) >= least).all()
    not_negative = tuple(side.relu() for side in interval)
    at_most = (node.magnitude_at_most((low, not_negative[1]), sums=sums) for low in (None, not_negative[0]))
    torch.testing.assert_close(*at_most, rtol=0, atol=0)


def test_rows_of_weights_whose_squares_vanish_have_bounds_of_magnitudes():
    model = nn.Sequential(nn.Linear(40, 5, bias=False)).double()
    with torch.no_grad():
        model[0].weight.mul_(2.0**-600)
    node = BoundedModule(model, torch.zeros(1, 40, dtype=torch.float64))._network().output
    assert (model[0].weight.square() == 0).all()
    interval = tuple(side.double() * 2.0**600 for side in box(3, 40, width=2.0))
    least = node.magnitude(magnitude_of(interval)) * (1 - 1e-12)
    assert (node.magnitude_at_most(interval, sums=node.weight_sums()) >= least).all()


def test_parts_of_a_call_pay_what_their_own_images_lose(monkeypatch):
    monkeypatch.setattr(problem, "CACHED_BYTES", 1)
    build, shape = NETWORKS["ramp conv"]
    lower, upper = (side * 10.0 ** torch.arange(3).reshape(3, 1, 1, 1) for side in box(3, *shape))
    network = BoundedModule(fill(build(), "gaussian"), lower)._network()
    whole = problem.Problem(network, network.output, Region(lower, upper), rounding="outward")
    assert whole.outward is not None
    whole.outward.by_intervals = True
    with torch.no_grad():
        propagate_intervals(whole)
        parts = whole.cached_parts("both")
    assert len(parts) == 3
    for i, part in enumerate(parts):
        alone = whole.part(i, i + 1)
        for node in (node for node in network.nodes if node.inputs):
            paid, least = (found.underflow([node], []) for found in (part.outward, alone.outward))
            assert (paid is None) == (least is None)
            if paid is not None:
                torch.testing.assert_close(paid, least)
            if isinstance(node, RampNode):
                for margin, expected in zip(
                    part.outward.margins(node).values(), alone.outward.margins(node).values(), strict=True
                ):
                    torch.testing.assert_close(margin, expected)


def test_parts_of_a_call_read_the_weights_once_for_magnitudes(monkeypatch):
    model = fill(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), "gaussian")
    interval = box(4, 5)
    read, sums = [], LinearNode.weight_sums
    monkeypatch.setattr(LinearNode, "weight_sums", lambda node: read.append(node.name) or sums(node))
    whole = bounds(model, *interval, method="CROWN-IBP", rounding="outward")
    once = sorted(read)
    monkeypatch.setattr(problem, "CACHED_BYTES", 1)
    read.clear()
    in_parts = bounds(model, *interval, method="CROWN-IBP", rounding="outward")
    assert sorted(read) == once
    torch.testing.assert_close(in_parts, whole)


@pytest.mark.parametrize("name", LAYERS)
def test_every_term_of_a_sum_is_counted(name):
    build, shape = LAYERS[name]
    model = fill(nn.Sequential(build()).double(), "gaussian")
    node = BoundedModule(model, torch.zeros(1, *shape, dtype=torch.float64))._network().output
    size = math.prod(shape)
    with torch.no_grad():
        at_zero, *columns = model(torch.cat([torch.zeros(1, size), torch.eye(size)]).double().reshape(-1, *shape))
    present = (torch.stack(columns) != at_zero).flatten(1)  # [inputs, outputs]
    roundings = node.roundings(torch.float64)
    assert roundings.forward >= blocked_terms(int(present.sum(0).max()))
    assert roundings.backward >= int(present.sum(1).max())


@pytest.mark.parametrize("strategy", ["tight", "adaptive", "same-slope", "zero", "one"])
def test_intercepts_of_ramps_that_bend_at_0_alone_are_no_larger_than_slopes_times_bounds(strategy):
    u, least = 2.0**-24, 2.0**-126
    for kind in KINDS:
        ends = [numbers(kind, 4096, seed=seed)[None] for seed in (1, 2)]
        lower, upper = torch.minimum(*ends), torch.maximum(*ends)
        size = torch.maximum(-lower, upper).double()
        for eta in (0.0, 0.3, 1.0):
            lines = bounding_lines(lower, upper, math.inf, eta, strategy)
            for slope, intercept in (
                (lines.lower_slope, lines.lower_intercept),
                (lines.upper_slope, lines.upper_intercept),
            ):
                assert (intercept.abs() <= (1 + 32 * u) * slope.double() * size + 8 * least * (1 + size)).all()


def exact_merge(layer, normalisation, channel):
    """The weights and the bias of one output of a Linear layer with batch normalisation merged into it."""
    eps = torch.tensor(normalisation.eps, dtype=normalisation.running_var.dtype).item()
    squared = Fraction(normalisation.running_var[channel].item()) + Fraction(eps)
    root = Fraction(2**300, math.isqrt(int(squared * 2**600)))
    weight, bias, mean, scale, shift = (
        [Fraction(number) for number in part[channel].double().flatten().tolist()]
        for part in (layer.weight, layer.bias, normalisation.running_mean, normalisation.weight, normalisation.bias)
    )
    factor = root * scale[0]
    return [factor * entry for entry in weight], (bias[0] - mean[0]) * factor + shift[0]


@pytest.mark.parametrize(("dtype", "counted"), [(torch.float32, 3), (torch.float64, 10)])
def test_merged_batch_normalisations_are_as_exact_as_counted(dtype, counted):
    channels = 200
    layer, normalisation = nn.Linear(3, channels), nn.BatchNorm1d(channels)
    model = fill(nn.Sequential(layer, normalisation), "gaussian").eval()
    with torch.no_grad():
        normalisation.running_var.copy_(torch.logspace(-9, 5, channels))
        normalisation.running_mean.copy_(layer.bias + 1e-4 * numbers("gaussian", channels, seed=3))
    node = BoundedModule(model.to(dtype), torch.zeros(1, 3, dtype=dtype))._network().output
    weight, bias = (part.detach().double() for part in node.parameters())
    roundings, unit = node.roundings(dtype), Fraction(2) ** (-24 if dtype == torch.float32 else -53)
    assert roundings.weights == counted
    most = Fraction(0)
    for channel in range(channels):
        entries, offset = exact_merge(layer, normalisation, channel)
        for found, entry in zip(weight[channel].tolist(), entries, strict=True):
            most = max(most, abs(Fraction(found) - entry) / abs(entry) / unit)
        assert abs(Fraction(bias[channel].item()) - offset) <= Fraction(roundings.shift_error[channel].item())
        assert abs(offset) <= Fraction(roundings.shift[channel].item())
    assert 1 < most <= counted
