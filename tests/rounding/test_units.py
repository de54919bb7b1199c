"""The building blocks in exact arithmetic, and what is refused."""

import math
from fractions import Fraction

import pytest
import torch
from methods.networks import inputs, network
from rounding.cases import numbers
from torch import nn

from lbp import BoundedModule, BoundedTensor, PerturbationLpNorm
from lbp.errors import InvalidInputError, StaleBoundsError, UnanalysedRoundingError
from lbp.graph import BoundNode
from lbp.methods.sums import Sum
from lbp.rounding import gamma, lowered, raised, unit_roundoff
from lbp.strategies import side_names

DTYPES = (torch.float32, torch.float64)


def exact(values):
    return [Fraction(value) for value in values.double().flatten().tolist()]


def spread_numbers(dtype, count=200):
    """Numbers of all sizes and signs, zero and subnormal ones among them."""
    generator = torch.Generator().manual_seed(0)
    info = torch.finfo(dtype)
    exponents = torch.linspace(math.log2(info.tiny) - 10, math.log2(info.max) - 2, count, dtype=torch.float64)
    values = (torch.randn(count, generator=generator, dtype=torch.float64).clamp(-2, 2) * exponents.exp2()).to(dtype)
    values[::17] = 0
    return values


@pytest.mark.parametrize("dtype", DTYPES)
def test_lowered_and_raised_numbers_are_on_their_side(dtype):
    x = spread_numbers(dtype)
    by = spread_numbers(dtype).abs().flip(0).clamp_max(1)
    down, up = exact(lowered(x, by * (1 + 2.0**-10))), exact(raised(x, by * (1 + 2.0**-10)))
    for value, amount, below, above in zip(exact(x), exact(by), down, up, strict=True):
        assert below <= value - amount
        assert above >= value + amount


def test_what_bounds_nothing_becomes_nan():
    x = torch.tensor([math.inf, -math.inf, math.nan])
    assert lowered(x).isnan().tolist() == [True, False, True]
    assert raised(x).isnan().tolist() == [False, True, True]


@pytest.mark.parametrize("dtype", DTYPES)
def test_gamma_is_the_relative_error_of_a_sum(dtype):
    unit = Fraction(unit_roundoff(dtype))
    for terms in (1, 3, 1000, 10**6):
        assert gamma(terms, dtype) >= (1 - Fraction(1, 2**50)) * (1 / (1 - terms * unit) - 1)
    assert gamma(2**60, dtype) == math.inf


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [8 / 255, 1e-9, torch.tensor([0.1, 0.3], dtype=torch.float64)], ids=str)
def test_regions_hold_the_exact_ball(dtype, eps):
    x = inputs((5,), batch=2).to(dtype) * 3
    region = PerturbationLpNorm(eps).region(x, outward=True)
    for image in range(2):
        radius = Fraction(float(eps[image] if isinstance(eps, torch.Tensor) else eps))
        for value, low, high in zip(*map(exact, (x[image], region.lower[image], region.upper[image])), strict=True):
            assert low <= value - radius
            assert high >= value + radius
            assert high - low - 2 * radius < 64 * Fraction(torch.finfo(dtype).eps)


def ask(net, x, **keywords):
    return net.compute_bounds(x=BoundedTensor(x, PerturbationLpNorm(0.01)), **keywords)


def test_batch_statistics_are_refused_by_name():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).train()
    net, x = BoundedModule(model, torch.zeros(2, 5)), inputs((5,)).float()
    net(x)
    with pytest.raises(UnanalysedRoundingError, match=r"'1' uses batch statistics.*eval\(\)"):
        ask(net, x, rounding="outward")
    net.eval()
    assert ask(net, x, rounding="outward")[0].isfinite().all()


def test_a_node_without_analysis_is_refused_by_name(monkeypatch):
    model, shape = network("cnn")
    net = BoundedModule(model, inputs(shape))
    monkeypatch.setattr(type(net.nodes()[1]), "roundings", BoundNode.roundings)
    with pytest.raises(UnanalysedRoundingError, match=r"'0' \(Conv2dNode\) are not analysed"):
        ask(net, inputs(shape), method="IBP", rounding="outward")


def test_levels_are_checked_and_may_stand_among_the_options():
    model, shape = network("mlp")
    net, x = BoundedModule(model.float(), inputs(shape).float()), inputs(shape).float()
    with pytest.raises(InvalidInputError, match="rounding must be one of nearest, outward, inference, got 'up'"):
        ask(net, x, rounding="up")
    outward = ask(net, x, rounding="outward")
    net.set_bound_opts({"rounding": "outward"})
    assert all(map(torch.equal, ask(net, x), outward))
    assert not any(map(torch.equal, ask(net, x, rounding="nearest"), outward))


def test_cached_bounds_serve_no_stricter_level():
    model, shape = network("mlp")
    net, x = BoundedModule(model.float(), inputs(shape).float()), inputs(shape).float()
    ask(net, x, method="IBP")
    with pytest.raises(StaleBoundsError, match="computed with 'nearest'"):
        net.compute_bounds(method="CROWN", rounding="outward")
    ask(net, x, method="IBP", rounding="outward")
    expected = ask(net, x, method="CROWN-IBP", rounding="outward")
    ask(net, x, method="IBP", rounding="outward")
    # CROWN-IBP in one call knows how few rows there are, and rounds a little more generously.
    torch.testing.assert_close(net.compute_bounds(method="CROWN", rounding="outward"), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sides", ["lower", "upper", "both"])
@pytest.mark.parametrize("kind", ["cancelling", "ratios"])
def test_sums_of_constants_lie_on_the_safe_side_of_the_exact_ones(kind, sides):
    parts = [numbers(kind, 1, 2, 3, seed=seed).double() / 3 for seed in range(40)]
    parts += [-part * (1 + 2.0**-50) for part in parts]
    total = Sum(outward=True)
    total.add(*parts, None)
    found = total.result(sides)
    assert len(found) == (2 if sides == "both" else 1)
    for side, values in zip(side_names(sides), found.flatten(1).tolist(), strict=True):
        for at, value in enumerate(values):
            exact = sum(Fraction(part.flatten()[at].item()) for part in parts)
            assert (Fraction(value) < exact) == (side == "lower")
            assert abs(Fraction(value) - exact) <= 2.0**-46 * sum(abs(part.flatten()[at].item()) for part in parts)


def test_sums_of_constants_that_overflow_bound_nothing():
    infinite = torch.full((2, 1, 1), torch.inf, dtype=torch.float64)
    total = Sum(outward=True)
    total.add(infinite, torch.zeros_like(infinite))
    lower, upper = total.result("both")
    assert lower.isnan().all()
    assert (upper == torch.inf).all()
