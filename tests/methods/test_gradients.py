"""Gradients of bounds with respect to weights, bending points and the input's region."""

import pytest
import torch
from methods.networks import METHODS, bounded, inputs, network, region
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call

import lbp
from lbp.nn import ParamRamp
from lbp.specification import margins


class Small(nn.Module):
    """Every kind of layer with parameters, two activations deep, with neurons of several statuses."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2)
        self.bn = nn.BatchNorm2d(2)
        self.act1 = ParamRamp((2, 2, 2), eta=0.1, r=0.6, dtype=torch.float64)
        self.fc1 = nn.Linear(8, 3)
        self.act2 = ParamRamp((3,), eta=0.05, r=0.9, dtype=torch.float64)
        self.fc2 = nn.Linear(3, 3)

    def forward(self, x):
        x = self.act1(self.bn(self.conv(x))).flatten(1)
        return self.fc2(self.act2(self.fc1(x)))


def _small():
    torch.manual_seed(3)
    return Small().double().eval()


def _bounds_of_parameters(net, x, C, method):
    names = [name for name, _ in net.named_parameters()]

    def bounds(*values):
        parameters = dict(zip(names, values, strict=True))
        found = functional_call(net, parameters, (), {"x": x, "C": C, "method": method, "method_opt": "compute_bounds"})
        return torch.cat([side.flatten() for side in found])

    return bounds


@pytest.mark.parametrize(("norm", "with_C"), [(torch.inf, False), (2.0, True)])
@pytest.mark.parametrize("strategy", ["tight", "adaptive"])
@pytest.mark.parametrize("method", METHODS)
def test_numerical_gradients_agree(method, strategy, norm, with_C):
    net = bounded(_small(), (1, 3, 3), strategy)
    x = region(inputs((1, 3, 3)) - 0.4, 0.2, norm)
    C = margins(torch.tensor([0, 2]), 3, dtype=torch.float64) if with_C else None
    bounds = _bounds_of_parameters(net, x, C, method)
    values = tuple(parameter.detach().clone().requires_grad_() for parameter in net.parameters())
    # Fast: a random combination of the entries of each Jacobian.
    assert torch.autograd.gradcheck(bounds, values, eps=1e-7, atol=1e-5, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["residual", "dense", "pooled", "cnn"])
def test_every_parameter_that_matters_gets_a_gradient(name, method):
    model, shape = network(name, "leaky_param_ramp")
    net = bounded(model, shape)
    lower, upper = net.compute_bounds(region(inputs(shape), 0.2), method=method)
    (upper - lower).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    weights = [parameter for name, parameter in model.named_parameters() if name.endswith("weight")]
    assert all(weight.grad.abs().sum() > 0 for weight in weights)
    assert any(parameter.grad.abs().sum() > 0 for name, parameter in model.named_parameters() if name.endswith("r"))


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_the_input_and_a_tensor_eps(method):
    net = bounded(_small(), (1, 3, 3))
    x = inputs((1, 3, 3)).requires_grad_()
    eps = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    lower, _ = net.compute_bounds(region(x, eps), method=method)
    lower.sum().backward()
    assert x.grad.abs().sum() > 0
    assert eps.grad < 0, "a larger region lowers the lower bounds"


@pytest.mark.parametrize("method", METHODS)
def test_a_step_against_the_gap_narrows_it(method):
    model, shape = network("mlp", "param_ramp")
    net, x = bounded(model, shape), region(inputs(shape), 0.1)

    def gap():
        lower, upper = net.compute_bounds(x, method=method)
        return (upper - lower).mean()

    before = gap()
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
    assert gap() < before


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("form", ["dual numbers", "torch.func"])
def test_forward_mode_derivatives_are_refused(form, backend):
    net = bounded(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double(), (3,))

    def lower(eps):
        return net.compute_bounds(region(inputs((3,)), eps))[0]

    def derivative(eps):
        if form == "torch.func":
            return torch.func.jvp(lower, (eps,), (torch.ones_like(eps),))[1]
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(lower(forward_ad.make_dual(eps, torch.ones_like(eps)))).tangent

    with lbp.backend(backend), pytest.raises(NotImplementedError, match="compute_bounds has no forward-mode gradient"):
        derivative(torch.tensor(0.1, dtype=torch.float64))


def test_a_param_ramp_refuses_forward_mode_derivatives():
    ramp, z = ParamRamp((3,), dtype=torch.float64), inputs((3,))
    with pytest.raises(NotImplementedError, match="lbp::ramp has no forward-mode gradient"):
        torch.func.jvp(ramp, (z,), (torch.ones_like(z),))
