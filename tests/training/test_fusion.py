"""Loss fusion: one bound of the loss holds over the whole region, and needs one row."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lbp import BoundedModule, BoundedTensor, PerturbationLpNorm
from lbp.checks import trusted_values
from lbp.nn import ParamRamp
from lbp.training.fusion import fused_loss
from lbp.training.losses import exponential_chords

EPS = 0.05
CLASSES = 7


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 15), ParamRamp(15, 0.1, 0.05), nn.Linear(15, CLASSES)
    ).double()
    x, labels = torch.rand(5, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 6, 3, 3, 1])
    net = BoundedModule(model, x)
    return model, net, x, labels


def losses(net, x, labels, beta, eps=EPS):
    region = BoundedTensor(x, PerturbationLpNorm(eps=eps))
    return fused_loss(net, region, labels, None if beta is None else torch.tensor(beta, dtype=x.dtype))


@pytest.mark.parametrize("beta", [None, 0.5, 1.0])
def test_no_point_of_the_region_has_a_larger_loss(problem, beta):
    model, net, x, labels = problem
    bound, _ = losses(net, x, labels, beta)
    for _ in range(200):
        point = x + EPS * (2 * torch.rand_like(x) - 1).sign()
        assert (F.cross_entropy(model(point), labels, reduction="none") <= bound).all()


@pytest.mark.parametrize("beta", [None, 1.0])
def test_at_radius_zero_it_is_the_cross_entropy(problem, beta):
    model, net, x, labels = problem
    bound, verified = losses(net, x, labels, beta, eps=0.0)
    torch.testing.assert_close(bound, F.cross_entropy(model(x), labels, reduction="none"))
    assert torch.equal(verified, model(x).argmax(1) == labels)


def test_crown_is_tighter_here_than_ibp(problem):
    _, net, x, labels = problem
    assert (losses(net, x, labels, 1.0)[0] < losses(net, x, labels, None)[0]).all()


def test_it_is_differentiable_in_every_parameter(problem):
    model, net, x, labels = problem
    losses(net, x, labels, 0.5)[0].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_the_gradient_is_that_of_the_bound(problem):
    model, net, x, labels = problem
    parameter = model[3].weight
    losses(net, x, labels, 0.5)[0].sum().backward()
    step, direction = 1e-6, torch.randn_like(parameter)
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            parameter.add_(sign * step * direction)
            values.append(losses(net, x, labels, 0.5)[0].sum())
            parameter.sub_(sign * step * direction)
    torch.testing.assert_close(
        (parameter.grad * direction).sum(), (values[0] - values[1]) / (2 * step), rtol=1e-5, atol=1e-8
    )


def test_huge_logits_neither_overflow_nor_give_nan(problem):
    model, net, x, labels = problem
    with torch.no_grad():
        model[-1].weight.mul_(1e5)
    for beta in (None, 0.5, 1.0):
        assert losses(net, x, labels, beta)[0].isfinite().all()


@pytest.mark.parametrize("width", [0.0, 1e-12, 1e-5, 1e-3, 1.0, 50.0, 700.0])
def test_a_chord_meets_exp_at_both_ends(width):
    upper = torch.tensor([-3.0, 0.0], dtype=torch.float64)
    slope, value = exponential_chords(upper, torch.full_like(upper, width))
    torch.testing.assert_close(value, upper.exp())
    torch.testing.assert_close(value - slope * width, (upper - width).exp(), rtol=1e-6, atol=1e-13)


def test_nan_bounds_give_a_nan_loss_and_no_verdict(problem):
    model, net, x, labels = problem
    with torch.no_grad():
        model[1].bias[0] = torch.nan
    with trusted_values():
        bound, verified = losses(net, x, labels, 0.5)
    assert bound.isnan().all()
    assert not verified.any()
