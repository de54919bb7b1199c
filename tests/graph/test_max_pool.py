"""The lines of max pooling, window by window."""

import itertools

import pytest
import torch
from methods.networks import bounded, inputs, region
from torch import nn
from torch.nn import functional as F

from lbp.bounded import BoundedModule
from lbp.graph import Relaxations, build_network

GEOMETRIES = [
    {"kernel_size": k, "stride": s, "padding": p, "dilation": d, "ceil_mode": c}
    for k, s, p, d, c in itertools.product([2, (3, 2)], [1, 2, 3], [0, 1], [1, 2], [False, True])
    if not (p == 1 and k == 2 and d == 2 and s == 3)
]


def _lines(options, lower, upper, strategy="tight"):
    pool = nn.MaxPool2d(**options)
    network = build_network(nn.Sequential(nn.ReLU(), pool), lower[:1], {})
    node = network.output
    return node, node._lines(Relaxations(strategy, "both", {node.inputs[0]: (lower, upper)}))


@pytest.mark.parametrize("options", GEOMETRIES, ids=lambda o: "-".join(map(str, o.values())))
def test_the_lines_enclose_the_maximum_and_touch_it_where_one_input_dominates(options):
    generator = torch.Generator().manual_seed(0)
    lower = torch.randn(2, 3, 7, 6, generator=generator, dtype=torch.float64)
    upper = lower + torch.rand(lower.shape, generator=generator, dtype=torch.float64)
    node, lines = _lines(options, lower, upper)
    for _ in range(50):
        z = lower + (upper - lower) * torch.rand(lower.shape, generator=generator, dtype=torch.float64).round(
            decimals=1
        )
        value = F.max_pool2d(z, **options).flatten(2)
        chosen = node._picked(z, lines.chosen)
        assert (lines.lower_slope * chosen + lines.lower_intercept <= value).all()
        assert (lines.upper_slope * chosen + lines.upper_intercept >= value).all()
        dominated = lines.upper_slope == 1
        assert torch.equal(value[dominated], chosen[dominated])
    largest_lower = F.max_pool2d(lower, **options).flatten(2)
    assert torch.equal(node._picked(lower, lines.chosen), largest_lower)


def test_a_window_with_one_dominating_input_is_exact():
    lower = torch.tensor([[[[0.0, 3.0], [1.0, 2.0]]]], dtype=torch.float64)
    _, lines = _lines({"kernel_size": 2}, lower, lower + 1)
    assert lines.chosen.item() == 1
    assert lines.upper_slope.item() == 1
    _, lines = _lines({"kernel_size": 2}, lower, lower + 1.5)
    assert (lines.upper_slope.item(), lines.upper_intercept.item()) == (0, 4.5)


@pytest.mark.parametrize("strategy", ["tight", "constant"])
@pytest.mark.parametrize(("side", "bad"), [(0, torch.nan), (1, torch.nan), (0, torch.inf)])
@pytest.mark.parametrize("place", range(4))
def test_broken_bounds_give_nan_lines(place, side, bad, strategy):
    lower = torch.tensor([[[[0.0, 0.0], [0.0, 3.0]]]], dtype=torch.float64)  # the last one dominates
    upper = lower + 1.0
    (lower, upper)[side].view(-1)[place] = bad
    _, lines = _lines({"kernel_size": 2}, lower, upper, strategy)
    assert lines.lower_intercept.isnan().all()
    assert lines.upper_intercept.isnan().all()


def test_an_image_of_minus_infinity_never_chooses_the_padding():
    lower = torch.full((1, 1, 2, 2), -torch.inf, dtype=torch.float64)
    _, lines = _lines({"kernel_size": 2, "padding": 1}, lower, torch.zeros_like(lower))
    assert lines.lower_intercept.isnan().all()


@pytest.mark.parametrize("method", ["CROWN", "CROWN-LBP", "Relaxed-CROWN-2"])
@pytest.mark.parametrize("mode", ["patches", "matrix"])
def test_bounds_that_overflow_below_padding_give_no_finite_bound(method, mode):
    model = nn.Sequential(
        nn.Conv2d(1, 1, 1), nn.MaxPool2d(2, padding=1), nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)
    )
    nn.init.constant_(model[0].weight, 3e38)
    net, x = BoundedModule(model, torch.zeros(1, 1, 8, 8), {"conv_mode": mode}), torch.zeros(2, 1, 8, 8)
    lower, upper = net.compute_bounds(region(x, 2.0), method=method)
    assert not torch.isfinite(lower).any()
    assert not torch.isfinite(upper).any()


def test_pooling_a_monotone_chain_is_tighter_by_back_substitution_than_by_intervals():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)).double()
    net, x = bounded(model, (1, 6, 6), "tight"), region(inputs((1, 6, 6)), 0.01)
    ibp, crown = (torch.sub(*reversed(net.compute_bounds(x, method=method))) for method in ("IBP", "CROWN"))
    assert (crown <= ibp + 1e-12).all()
    assert crown.mean() < 0.9 * ibp.mean()
