"""Parameters and buffers are the model's own, read at every call."""

import copy

import pytest
import torch
from methods.networks import METHODS, bounded, inputs, network, region, seeded
from torch import nn

from lbp.bounded import BoundedModule


@pytest.mark.parametrize("method", METHODS)
def test_changing_any_parameter_moves_the_bounds(method):
    model, shape = network("residual", "leaky_param_ramp")
    net, x = bounded(model, shape), inputs(shape)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter += 0.3
        lower, upper = net.compute_bounds(region(x, 0.0), method=method)
        torch.testing.assert_close(lower, model(x), msg=name)
        torch.testing.assert_close(upper, model(x), msg=name)


def test_storage_and_names_are_shared():
    model, shape = network("residual", "param_ramp")
    net = bounded(model, shape)
    assert list(net.state_dict()) == list(model.state_dict())
    for (name, mine), (other, original) in zip(net.named_parameters(), model.named_parameters(), strict=True):
        assert name == other
        assert mine is original


def test_a_state_dict_round_trips_also_inside_another_module():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = BoundedModule(seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU())), torch.empty(1, 4))
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(self.features(x))

    first, second = Outer().double(), Outer().double()
    with torch.no_grad():
        first.features.get_parameter("0.weight").fill_(0.5)
    second.load_state_dict(first.state_dict(), strict=True)
    assert list(first.state_dict()) == ["features.0.weight", "features.0.bias", "fc.weight", "fc.bias"]
    x = inputs((4,))
    torch.testing.assert_close(first(x), second(x))


def test_loading_a_state_dict_moves_the_bounds():
    model, shape = network("cnn")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= 1.5
    net, x = bounded(model, shape), region(inputs(shape))
    net.load_state_dict(other.state_dict())
    torch.testing.assert_close(net.compute_bounds(x), bounded(other, shape).compute_bounds(x))


def test_a_copy_has_a_life_of_its_own():
    model, shape = network("residual", "param_ramp")
    net, x = bounded(model, shape), region(inputs(shape))
    before = net.compute_bounds(x)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 0.1
    torch.testing.assert_close(net.compute_bounds(x), before)
    assert not torch.allclose(twin.compute_bounds(x)[0], before[0])
    torch.testing.assert_close(twin.compute_bounds(region(inputs(shape), 0.0))[0], twin(inputs(shape)))


def test_the_batch_size_and_dtype_may_change_between_calls():
    model, shape = network("residual", "param_ramp")
    net = bounded(model, shape)
    for batch in (1, 4, 2):
        x = inputs(shape, batch)
        torch.testing.assert_close(net.compute_bounds(region(x, 0.0))[0], model(x))
    net.float()
    x = inputs(shape).float()
    assert net.compute_bounds(region(x))[0].dtype == torch.float32


def test_activations_give_their_pre_activation_and_parameters():
    model, shape = network("residual", "leaky_param_ramp")
    net = bounded(model, shape)
    net.compute_bounds(region(inputs(shape)), method="IBP")
    names = [activation.name for activation in net.activations()]
    assert names == ["act0", "act1", "act2", "act3"]
    for activation in net.activations():
        r, eta = activation.ramp_parameters()
        module = model.get_submodule(activation.name)
        assert torch.equal(r, module.effective_r())
        assert torch.equal(torch.as_tensor(eta), torch.as_tensor(module.effective_eta()))
        pre = activation.pre_activation
        assert pre.lower.shape == (2, *pre.shape)
        assert (pre.lower <= pre.upper).all()


def test_changing_a_number_in_a_list_moves_the_bounds():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.factors = [2.0, {"last": 3.0}]

        def forward(self, x):
            return x * self.factors[0] * self.factors[1]["last"]

    model, x = Scaled(), inputs((4,))
    net = BoundedModule(model, x)
    for value in (1.0, 5.0):
        model.factors[0] = model.factors[1]["last"] = value
        torch.testing.assert_close(net.compute_bounds(region(x, 0.0), method="IBP")[0], model(x))
