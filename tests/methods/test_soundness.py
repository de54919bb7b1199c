"""No point of the region leaves any bound: sampled points, corners, and points found by an attack."""

import math

import pytest
import torch
from methods.networks import (
    ACTIVATIONS,
    METHODS,
    NETWORKS,
    NORMS,
    STRATEGIES,
    assert_contains,
    attacked,
    bounded,
    inputs,
    network,
    paired,
    region,
    samples,
    seeded,
    trained,
    values_at,
)
from torch import nn

from lbp.specification import margins

RADIUS = {math.inf: 0.1, 3.0: 0.3, 2.0: 0.5, 1.0: 1.0}
LABELS = torch.tensor([0, 2])


@pytest.mark.parametrize(("name", "strategy", "norm"), paired(NETWORKS, STRATEGIES, NORMS))
def test_sampled_points_stay_within_every_bound(name, strategy, norm):
    model, shape = network(name, "leaky_param_ramp")
    net, x = bounded(model, shape, strategy), inputs(shape)
    C = margins(LABELS, 3, dtype=torch.float64)
    points = samples(x, RADIUS[norm], norm)
    for rows in (None, C):
        values = values_at(model, points, rows)
        for method in METHODS:
            assert_contains(net.compute_bounds(region(x, RADIUS[norm], norm), C=rows, method=method), values)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_activation_in_every_network_is_bounded_soundly(name, activation):
    model, shape = network(name, activation)
    x = inputs(shape) * 3 - 1
    net, values = bounded(model, shape), values_at(model, samples(x, 0.7, math.inf))
    for method in METHODS:
        assert_contains(net.compute_bounds(region(x, 0.7), method=method), values)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_attack_does_not_break_the_margins(name):
    model, shape = network(name, "param_ramp")
    model = trained(model.train(False), shape)
    x, eps = inputs(shape), 0.1
    C = margins(LABELS, 3, dtype=torch.float64)
    reached = values_at(model, attacked(model, x, eps, C, clip=(0, 1)), C).amin(0)
    net = bounded(model, shape)
    for method in METHODS:
        lower, _ = net.compute_bounds(region(x, eps, clip=(0, 1)), C=C, method=method)
        assert (reached >= lower - 1e-9).all(), method
    center = values_at(model, x.unsqueeze(0), C)[0]
    assert (reached < center).all(), "the attack must have found something"


def attacked_in_ball(model, x, eps, norm, C, steps=12):
    """Points of the l_p ball that conditional gradient descent finds for every row of C: [S, *x.shape]."""
    found = []
    for row in range(C.shape[1]):
        point = x.clone()
        for step in range(steps):
            point = point.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((C[:, row] * model(point).flatten(1)).sum(), point)
            weight = 2 / (step + 2)
            point = (1 - weight) * point + weight * (x - eps * steepest(gradient.flatten(1), norm).reshape(x.shape))
        found.append(point.detach())
    return torch.stack(found)


def steepest(gradient, norm):
    """Unit vectors of the l_p norm along which the rows of the gradient rise most."""
    if norm == 1:
        return torch.nn.functional.one_hot(gradient.abs().argmax(1), gradient.shape[1]) * gradient.sign()
    q = 1.0 if math.isinf(norm) else norm / (norm - 1)
    direction = gradient.sign() * gradient.abs() ** (q - 1)
    length = torch.linalg.vector_norm(direction, norm, dim=1, keepdim=True)
    return direction / length.clamp(min=1e-300)


@pytest.mark.parametrize(("strategy", "activation", "norm"), paired(STRATEGIES, ACTIVATIONS, NORMS))
def test_an_attack_in_the_ball_breaks_no_margin_of_any_method(strategy, activation, norm):
    model, shape = network("cnn", activation)
    x, eps = inputs(shape), RADIUS[norm]
    C = margins(LABELS, 3, dtype=torch.float64)
    reached = values_at(model, attacked_in_ball(model, x, eps, norm, C), C).amin(0)
    assert (reached <= values_at(model, x.unsqueeze(0), C)[0]).all(), "the attack must not go up"
    net = bounded(model, shape, strategy)
    for method in METHODS:
        lower, _ = net.compute_bounds(region(x, eps, norm), C=C, method=method)
        assert (reached >= lower - 1e-9).all(), method


@pytest.mark.parametrize("norm", [2.0, 1.0, 3.0])
@pytest.mark.parametrize("method", METHODS)
def test_a_clipped_ball_is_sound(method, norm):
    model, shape = network("cnn", "leaky_param_ramp")
    x, eps = inputs(shape), 0.8
    found = bounded(model, shape, "tight").compute_bounds(region(x, eps, norm, clip=(0.0, 1.0)), method=method)
    assert_contains(found, values_at(model, samples(x, eps, norm, clip=(0.0, 1.0))))


@pytest.mark.parametrize("norm", [2.0, 1.0, 3.0])
def test_intervals_over_a_clipped_ball_are_no_looser_than_over_the_ball_or_the_box(norm):
    model, shape = network("cnn", "leaky_param_ramp")
    x, eps = inputs(shape), 0.8
    net = bounded(model, shape)
    clipped = net.compute_bounds(region(x, eps, norm, clip=(0.0, 1.0)), method="IBP")
    for other in (region(x, eps, norm), region(x, eps, clip=(0.0, 1.0))):
        lower, upper = net.compute_bounds(other, method="IBP")
        assert (clipped[0] >= lower - 1e-10).all()
        assert (clipped[1] <= upper + 1e-10).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_region_of_one_point_is_bounded_by_its_value(name, method):
    model, shape = network(name, "leaky_param_ramp")
    x = inputs(shape)
    lower, upper = bounded(model, shape).compute_bounds(region(x, 0.0), method=method)
    torch.testing.assert_close(lower, model(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(upper, model(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["cnn", "residual"])
def test_hidden_bounds_contain_the_hidden_values(name, method):
    model, shape = network(name, "leaky_param_ramp")
    net, x = bounded(model, shape), inputs(shape)
    net.compute_bounds(region(x, 0.1), method=method)
    points = samples(x, 0.1, math.inf, count=100)
    for activation in net.activations():
        module = model.get_submodule(activation.name)
        seen = []
        handle = module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].detach()))
        model(points.flatten(0, 1))
        handle.remove()
        pre = activation.pre_activation
        assert_contains((pre.lower, pre.upper), seen[0].unflatten(0, points.shape[:2]))


class Branches(nn.Module):
    """A branch of three activations, and after it one of two."""

    def __init__(self):
        super().__init__()
        self.deep = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(4, 4), nn.ReLU())))
        self.flat = nn.Sequential(*(layer for _ in range(2) for layer in (nn.Linear(4, 4), nn.ReLU())))

    def forward(self, x):
        return torch.cat([self.deep(x), self.flat(x)], 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("windows", ["patches", "matrix"])
def test_branches_may_have_different_numbers_of_activations(method, windows):
    model = seeded(Branches)
    net, x = bounded(model, (4,)), inputs((4,))
    net.set_bound_opts({"conv_mode": windows})
    assert_contains(net.compute_bounds(region(x, 0.3), method=method), values_at(model, samples(x, 0.3, math.inf)))


def test_nan_in_the_weights_gives_nan_bounds_and_never_a_verdict():
    for name in NETWORKS:
        model, shape = network(name)
        net, x = bounded(model, shape), inputs(shape)
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] = torch.nan
        for method in METHODS:
            lower, upper = net.compute_bounds(region(x), method=method)
            assert not (lower > -torch.inf).any(), f"{method} on {name} gave a finite lower bound"
            assert not (upper < torch.inf).any(), f"{method} on {name} gave a finite upper bound"
