"""The warm-up regularisers of Shi et al. 2021, and their weights."""

import math
import threading

import pytest
import torch
from torch import nn

from lbp import BoundedModule, BoundedTensor, PerturbationLpNorm
from lbp.models import build
from lbp.nn import ParamRamp
from lbp.training.initialization import initialize_for_ibp
from lbp.training.regularizers import warm_up_regularization

TOLERANCE = 0.5


def penalty(model, x, eps, tolerance=TOLERANCE, **options):
    net = BoundedModule(model, x)
    net.compute_bounds(x=(BoundedTensor(x, PerturbationLpNorm(eps=eps)),), method="IBP")
    inputs = net[net.input_name[0]]
    return warm_up_regularization(net.activations(), (inputs.lower, inputs.upper), tolerance, **options)


def one_layer(weight, bias, activation):
    """A layer whose pre-activations are weight x + bias, one neuron per entry."""
    layer = nn.Linear(1, len(bias)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight, dtype=torch.float64)[:, None])
        layer.bias.copy_(torch.tensor(bias, dtype=torch.float64))
    return nn.Sequential(layer, activation, nn.Linear(len(bias), 2).double())


@pytest.mark.parametrize(("growth", "cost"), [(1.0, 0.0), (2.0, 0.0), (4.0, 0.5), (100.0, 0.98)])
def test_bounds_may_grow_twofold_in_a_layer_before_it_costs(growth, cost):
    # One unstable neuron: the balance has two empty sides.
    model = one_layer([growth], [0.0], nn.ReLU())
    assert penalty(model, torch.zeros(3, 1, dtype=torch.float64), 0.1).item() == pytest.approx(cost)


def expected_balance(centers, right, left):
    mean = sum(centers) / len(centers)
    cost = 0.0
    for values in (centers, [(c - mean) ** 2 for c in centers]):
        a = sum(v for v, chosen in zip(values, right, strict=True) if chosen)
        b = sum(v for v, chosen in zip(values, left, strict=True) if chosen)
        a, b = abs(a), abs(b)
        cost += max(TOLERANCE - min(a / b, b / a), 0.0) / TOLERANCE
    return cost


def test_active_neurons_balance_inactive_ones_of_relu():
    centers = [3.0, 0.5, -1.0, 0.01]
    model = one_layer([1.0] * 4, centers, nn.ReLU())
    expected = expected_balance(centers, [True, True, False, False], [False, False, True, False])
    assert penalty(model, torch.zeros(2, 1, dtype=torch.float64), 0.1).item() == pytest.approx(expected)


def test_right_dead_neurons_balance_left_dead_ones_of_param_ramp():
    pre_activations, r = [3.0, 0.5, -1.0, -4.0], 2.0
    model = one_layer([1.0] * 4, pre_activations, ParamRamp(4, 0.0, r).double())
    centers = [value - r / 2 for value in pre_activations]
    expected = expected_balance(centers, [True, False, False, False], [False, False, True, True])
    assert expected > 0
    assert penalty(model, torch.zeros(2, 1, dtype=torch.float64), 0.1).item() == pytest.approx(expected)


def test_a_network_of_right_dead_neurons_costs_with_param_ramp_and_its_gradient_moves_them_left():
    model = one_layer([1.0] * 5, [9.0, 8.0, 7.0, 6.0, -0.5], ParamRamp(5, 0.0, 1.0).double())
    value = penalty(model, torch.zeros(2, 1, dtype=torch.float64), 0.1)
    assert value > 0
    value.backward()
    assert model[0].bias.grad[:4].sum() > 0


def test_layers_with_an_empty_side_cost_nothing():
    model = one_layer([1.0] * 2, [3.0, 4.0], nn.ReLU())
    value = penalty(model, torch.zeros(2, 1, dtype=torch.float64), 0.1)
    value.backward()
    assert value.item() == 0
    assert model[0].bias.grad.isfinite().all()


def test_the_penalty_is_the_mean_over_the_layers():
    def network(repeats):
        parts = []
        for _ in range(repeats):
            layer = nn.Linear(1, 1, bias=False).double()
            nn.init.constant_(layer.weight, 4.0)
            parts += [layer, nn.LeakyReLU(1.0)]
        return nn.Sequential(*parts, nn.Linear(1, 2).double())

    x = torch.zeros(2, 1, dtype=torch.float64)
    assert penalty(network(1), x, 0.1).item() == pytest.approx(0.5)
    assert penalty(network(2), x, 0.1).item() == pytest.approx((0.5 + (0.5 - 1 / 16) / 0.5) / 2)


def test_a_layer_without_radius_costs_nothing_and_has_a_finite_gradient():
    model = one_layer([0.0] * 2, [3.0, -1.0], nn.ReLU())
    value = penalty(model, torch.zeros(2, 1, dtype=torch.float64), 0.1)
    value.backward()
    assert value.isfinite()
    assert model[0].weight.grad.isfinite().all()


def test_a_network_without_ramps_costs_nothing():
    model = nn.Sequential(nn.Linear(1, 2)).double()
    assert penalty(model, torch.zeros(2, 1, dtype=torch.float64), 0.1).item() == 0


@pytest.mark.parametrize("activation", [nn.ReLU, lambda: ParamRamp(4, 0.0, 1.0).double()], ids=["relu", "ramp"])
def test_processes_with_different_examples_have_the_penalty_of_all_of_them(activation):
    model = one_layer([2.0, 1.0, -1.0, 0.5], [3.0, 0.5, -1.0, -0.2], activation())
    x = torch.tensor([[-2.0], [0.1], [3.0], [0.5], [-0.3]], dtype=torch.float64)
    whole = penalty(model, x, 0.1, tolerance=0.9)
    meeting, sums, found = threading.Barrier(2, timeout=30), [None, None], [None, None]

    def train(rank, part):
        def reduce(values):
            sums[rank] = values
            meeting.wait()
            total = sums[0] + sums[1]
            meeting.wait()
            return total

        found[rank] = penalty(model, part, 0.1, tolerance=0.9, reduce=reduce)

    threads = [threading.Thread(target=train, args=pair) for pair in enumerate((x[:2], x[2:]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert whole > 0
    assert [value.item() for value in found] == pytest.approx([whole.item()] * 2)


@pytest.mark.parametrize("name", ["DM-Small", "CNN-7+BN", "WideResNet"])
def test_initial_weights_have_the_published_spread(name):
    torch.manual_seed(0)
    model = build(name, (1, 16, 16), 10)
    last = model.output.weight.detach().clone()
    initialize_for_ibp(model)
    layers = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    after_sums = ("block3.conv1", "block4.conv1", "block3.shortcut", "block4.shortcut", "fc1")
    halved = {path for path in layers if name == "WideResNet" and path.startswith(after_sums)}
    for path, layer in layers.items():
        if path == "output":
            assert torch.equal(layer.weight, last)
            continue
        spread = math.sqrt(2 * math.pi) / layer.weight[0].numel() * (0.5 if path in halved else 1.0)
        count = layer.weight.numel()
        assert layer.weight.std().item() == pytest.approx(spread, rel=5 / math.sqrt(2 * count))
