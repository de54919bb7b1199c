"""Parameters and buffers are the model's own, read at every call."""

import copy

import numpy as np
import pytest
import torch
from methods.networks import METHODS, bounded, inputs, network, region, seeded
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

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


class Scaled(nn.Module):
    """A layer that meets constants of every kind."""

    factor = 2.0
    offset = torch.tensor(0.25)

    def __init__(self, function):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.register_buffer("gain", torch.tensor([1.0, 2.0, 3.0]))
        self.attribute = torch.tensor([0.5, 1.0, 2.0])
        self.inside = [torch.tensor(3.0)]
        self.number = np.float32(2.0)
        self.activation = F.relu
        self.function = function

    def forward(self, x):
        return self.function(self, self.fc(x))


COMPUTED = {
    "product": lambda m, x: x * (m.gain * 2),
    "view": lambda m, x: (x - m.gain[None]) / m.gain.view(1, 3),
    "function": lambda m, x: x + torch.exp(m.gain),
    "number": lambda m, x: x * m.gain[1].item(),
    "weight": lambda m, x: F.linear(x, m.fc.weight * m.gain),
}
CHANGES = {
    "in place": lambda m: m.gain.mul_(5),
    "assigned": lambda m: setattr(m, "gain", torch.tensor([-4.0, 5.0, 6.0])),
    "loaded": lambda m: m.load_state_dict(m.state_dict() | {"gain": torch.tensor([7.0, -1.0, 2.0])}, assign=True),
    "other precision": lambda m: m.double(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", COMPUTED)
def test_bounds_follow_what_is_computed_from_a_buffer(name, change):
    model = seeded(lambda: Scaled(COMPUTED[name])).float()
    net = BoundedModule(model, torch.zeros(1, 3))
    names = set(vars(model))
    CHANGES[change](model)
    x = inputs((3,)).to(model.fc.weight.dtype)
    for side in net.compute_bounds(region(x, 0.0)):
        torch.testing.assert_close(side, model(x))
    assert set(vars(model)) == names


@pytest.mark.parametrize(
    ("function", "change"),
    [
        (lambda m, x: x * -m.attribute, lambda m: setattr(m, "attribute", torch.tensor([4.0, -1.0, 3.0]))),
        (lambda m, x: x * -m.attribute, lambda m: m.attribute.mul_(-3)),
        (lambda m, x: x * (m.inside[0] + 1), lambda m: m.inside[0].fill_(-7.0)),
        (lambda m, x: x * m.factor, lambda m: setattr(type(m), "factor", -1.0)),
        (lambda m, x: x + 2 * m.offset, lambda m: type(m).offset.add_(1)),
        (lambda m, x: x * float(m.number), lambda m: setattr(m, "number", np.float32(-5.0))),
        (lambda m, x: m.activation(x), lambda m: setattr(m, "activation", F.leaky_relu)),
    ],
    ids=["tensor", "tensor in place", "tensor in a list", "class", "tensor of the class", "NumPy number", "function"],
)
def test_bounds_follow_what_a_trace_takes_for_constant(function, change):
    class Mine(Scaled):
        offset = torch.tensor(0.25)

    model, x = seeded(lambda: Mine(function)).float(), inputs((3,)).float()
    net = BoundedModule(model, x)
    change(model)
    for side in net.compute_bounds(region(x, 0.0)):
        torch.testing.assert_close(side, model(x))


def test_a_trace_serves_as_long_as_nothing_changes():
    model, x = seeded(lambda: Scaled(lambda m, x: x * (m.gain * 2) - m.attribute)).float(), inputs((3,)).float()
    net = BoundedModule(model, x)
    nodes = {}
    for step in range(4):
        net.train(step % 2 == 0)
        net.compute_bounds(region(x))
        assert nodes.setdefault(net.training, net.nodes()) == net.nodes()


def test_bounds_follow_the_parameters_of_a_parametrised_weight():
    class Doubled(nn.Module):
        def forward(self, weight):
            return weight * 2

    model, x = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))), inputs((3,))
    parametrize.register_parametrization(model[0], "weight", Doubled())
    net = BoundedModule(model, x)
    original = model[0].parametrizations.weight.original
    with torch.no_grad():
        original.mul_(-3)
    lower, _ = net.compute_bounds(region(x, 0.0))
    torch.testing.assert_close(lower, model(x))
    expected = torch.autograd.grad(model(x).sum(), original)
    torch.testing.assert_close(torch.autograd.grad(lower.sum(), original), expected)
