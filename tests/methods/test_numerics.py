"""Bounds in float32, under reduced-precision switches, and with either backend."""

import pytest
import torch
from methods.networks import METHODS, NETWORKS, STRATEGIES, bounded, inputs, network, region

from lbp.backend import backend
from lbp.bounded import BoundedModule
from lbp.linear import round_down, round_up
from lbp.specification import margins


def _float32(name, activation="leaky_param_ramp"):
    model, shape = network(name, activation)
    return bounded(model.float(), shape, dtype=torch.float32), inputs(shape).float()


@pytest.fixture
def medium_precision():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["cnn", "residual"])
def test_the_matmul_precision_switch_does_not_change_bounds(name, method, request):
    net, x = _float32(name)
    C = margins(torch.tensor([0, 2]), 3)
    before = [net.compute_bounds(region(x), C=rows, method=method) for rows in (None, C)]
    request.getfixturevalue("medium_precision")
    after = [net.compute_bounds(region(x), C=rows, method=method) for rows in (None, C)]
    for (lower, upper), (lower2, upper2) in zip(before, after, strict=True):
        assert torch.equal(lower, lower2)
        assert torch.equal(upper, upper2)


@pytest.mark.parametrize("method", METHODS)
def test_autocast_does_not_change_bounds(method):
    net, x = _float32("residual")
    lower, upper = net.compute_bounds(region(x), method=method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lower2, upper2 = net.compute_bounds(region(x), method=method)
    assert torch.equal(lower, lower2)
    assert torch.equal(upper, upper2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_float32_bounds_agree_with_float64(name, method):
    model, shape = network(name, "leaky_param_ramp")
    x = inputs(shape)
    exact = torch.stack(bounded(model, shape).compute_bounds(region(x), method=method))
    net, x32 = _float32(name)
    single = torch.stack(net.compute_bounds(region(x32), method=method))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_both_backends_give_the_same_bounds(name, strategy):
    first = [*NETWORKS].index(name) + STRATEGIES.index(strategy)
    nets = {}
    for dtype in (torch.float32, torch.float64):
        model, shape = network(name, "leaky_param_ramp")
        example = torch.zeros(1, *shape, dtype=dtype)
        nets[dtype] = BoundedModule(model.to(dtype), example, bound_opts={"activation_bound_option": strategy})
    settings = ((torch.float32, torch.inf, 2e-5), (torch.float64, torch.inf, 1e-12), (torch.float64, 2.0, 1e-12))
    for number, method in enumerate(METHODS, first):
        dtype, norm, tolerance = settings[number % len(settings)]  # every method meets all, in some network
        x = region(inputs(shape).to(dtype), 0.1, norm)
        with backend("reference"):
            reference = torch.stack(nets[dtype].compute_bounds(x, method=method))
        with backend("native"):
            native = torch.stack(nets[dtype].compute_bounds(x, method=method))
        torch.testing.assert_close(native, reference, rtol=tolerance, atol=tolerance)


def test_conversion_rounds_to_the_safe_side_and_passes_the_gradient():
    exact = torch.linspace(-3, 3, 1001, dtype=torch.float64, requires_grad=True)
    lower, upper = round_down(exact, torch.float32), round_up(exact, torch.float32)
    assert (lower.double() <= exact).all()
    assert (upper.double() >= exact).all()
    assert ((upper - lower).double() <= 2**-22 * exact.abs() + 1e-30).all()
    (gradient,) = torch.autograd.grad(lower.sum() + 2 * upper.sum(), exact)
    assert torch.equal(gradient, torch.full_like(exact, 3.0))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 0.0])
def test_conversion_keeps_special_values(value):
    exact = torch.tensor([value], dtype=torch.float64)
    for converted in (round_down(exact, torch.float32), round_up(exact, torch.float32)):
        torch.testing.assert_close(converted.double(), exact, equal_nan=True)
