"""Bounds follow layers, settings and attributes that change between two calls."""

import numpy as np
import pytest
import torch
from graph.values import bounds_are_the_value
from torch import nn

import lbp
from lbp import bounded
from lbp.graph.structure import structure_of


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.__setitem__(1, nn.ReLU()),
        lambda model: model.__setitem__(1, nn.Identity()),
        lambda model: model.__setitem__(0, nn.Linear(4, 5, bias=False).double()),
        lambda model: setattr(model[1], "negative_slope", 0.7),
        lambda model: setattr(model[0], "weight", nn.Parameter(torch.randn(5, 4, dtype=torch.float64))),
    ],
    ids=["other activation", "no activation", "other layer", "slope", "weight"],
)
def test_bounds_follow_a_changed_model(model, point, change):
    net = lbp.BoundedModule(model, point)
    assert bounds_are_the_value(net, model, point)
    change(model)
    assert bounds_are_the_value(net, model, point)


def test_bounds_follow_a_number_of_the_users_module(point):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = 2.0
            self.layer = nn.Linear(4, 3).double()

        def forward(self, x):
            return self.factor * self.layer(x)

    model = Scaled()
    net = lbp.BoundedModule(model, point)
    assert bounds_are_the_value(net, model, point)
    model.factor = -5.0
    assert bounds_are_the_value(net, model, point)


class Scale(nn.Module):
    """Has a list of numbers, and nothing else that could change inside."""

    def __init__(self):
        super().__init__()
        self.numbers = [2.0]

    def forward(self, x):
        return x * self.numbers[0]


class Kept(nn.Module):
    """Computes with what it keeps in attributes of every kind."""

    factor = 2.0

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)]).double()
        self.number, self.numbers, self.lists, self.by_name = 2.0, [2.0], [[3.0]], {"of": 2.0}
        self.tensor, self.nested, self.array = torch.tensor(2.0).double(), (1, [2.0]), np.full(3, 2.0)
        self.scale = Scale()
        self.register_buffer("buffer", None)
        self.register_buffer("order", torch.tensor([2, 0, 1]))

    def forward(self, x):
        y = self.scale(self.layers[0](x)) * self.number * self.numbers[0] * self.by_name["of"] * float(self.tensor)
        y = y * self.lists[0][0] * self.nested[1][0] * torch.tensor(self.array) * self.factor
        y = y[:, self.order]
        return y if self.buffer is None else y + self.buffer


class Negated(Kept):
    def forward(self, x):
        return -super().forward(x)


KEPT_CHANGES = {
    "a number": lambda model: setattr(model, "number", -3.0),
    "in a list": lambda model: model.numbers.__setitem__(0, -3.0),
    "in a list of lists": lambda model: model.lists[0].__setitem__(0, -3.0),
    "in a dictionary": lambda model: model.by_name.update(of=-3.0),
    "a tensor in place": lambda model: model.tensor.neg_(),
    "inside of a tuple": lambda model: model.nested[1].__setitem__(0, -3.0),
    "an array in place": lambda model: model.array.__setitem__(1, -3.0),
    "of the class": lambda model: setattr(Kept, "factor", -3.0),
    "the class": lambda model: setattr(model, "__class__", Negated),
    "a buffer": lambda model: setattr(model, "buffer", torch.ones(3).double()),
    "indices in a buffer": lambda model: model.order.copy_(torch.tensor([0, 1, 2])),
    "other indices in a buffer": lambda model: setattr(model, "order", torch.tensor([0, 1, 2])),
    "a bias less": lambda model: setattr(model.layers[0], "bias", None),
    "the order of layers": lambda model: setattr(model, "layers", nn.ModuleList(reversed(model.layers))),
    "a layer": lambda model: model.layers._modules.update({"0": nn.Linear(4, 3).double()}),
    "in a list of a module without other things": lambda model: model.scale.numbers.__setitem__(0, -3.0),
    "all attributes": lambda model: setattr(model, "__dict__", {**vars(model), "number": -3.0}),
}


@pytest.mark.parametrize("change", KEPT_CHANGES)
def test_bounds_follow_what_changes_between_calls(monkeypatch, point, change):
    torch.manual_seed(0)
    monkeypatch.setattr(Kept, "factor", 2.0)
    model = Kept()
    net = lbp.BoundedModule(model, point)
    for _ in range(2):
        assert bounds_are_the_value(net, model, point)
    before = model(point)
    KEPT_CHANGES[change](model)
    assert not torch.allclose(model(point), before), "the change matters"
    for _ in range(2):
        assert bounds_are_the_value(net, model, point)


def test_a_structure_is_found_again_only_when_something_has_changed(monkeypatch, model, point):
    found = []
    net = lbp.BoundedModule(model, point)
    monkeypatch.setattr(bounded, "structure_of", lambda model: found.append(structure_of(model)) or found[-1])
    for _ in range(2):
        assert bounds_are_the_value(net, model, point)
    assert not found
    model[1].negative_slope = 0.7
    assert bounds_are_the_value(net, model, point)
    times = len(found)
    assert times > 0
    assert bounds_are_the_value(net, model, point)
    assert len(found) == times


def test_the_shape_of_a_replaced_parameter_counts(point):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    net = lbp.BoundedModule(model, point)
    taken = net.images_within("CROWN", memory_budget="1MiB")
    model[0].weight, model[0].bias = (nn.Parameter(torch.randn(50, *rest, dtype=torch.float64)) for rest in ([4], []))
    model[2].weight = nn.Parameter(torch.randn(3, 50, dtype=torch.float64))
    assert bounds_are_the_value(net, model, point)
    assert net.images_within("CROWN", memory_budget="1MiB") < taken
