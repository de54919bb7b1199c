"""Bounds follow what a forward pass reads from outside of its module, or refuse to."""

import functools
import types
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from graph.values import bounds_are_the_value
from torch import nn

import lbp
from lbp.errors import StaleBoundsError, UnsupportedLayerError

NUMBER = 2.0
TENSOR = torch.full((3,), 2.0, dtype=torch.float64)
NUMBERS = {"of": [2.0, 3.0]}
ARRAY = np.full(3, 2.0)


@dataclass
class Config:
    factor: float = 2.0

    @property
    def doubled(self):
        return 2 * self.factor


CONFIG = types.SimpleNamespace(inner=Config())
MODULE = types.ModuleType("settings_of_a_user")
MODULE.factor = 2.0
LAYER = nn.Linear(3, 3).double()


def by_a_helper(y):
    return NUMBER * y


@dataclass(slots=True)
class Slots:
    factor: float = 2.0


class Called:
    def __init__(self):
        self.factor = 2.0

    def __call__(self, y):
        return self.factor * y


SLOTS = Slots()
CALLED = Called()
PARTIAL = functools.partial(by_a_helper)


def closed_over(value):
    def function(y):
        return value * y

    def change():
        nonlocal value
        value = -3.0

    return function, change


CLOSED_OVER, CHANGE = closed_over(2.0)


class Affine(nn.Module):
    """A layer, and a function of its output that reads something outside."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3).double()
        self.config = Config()
        self.function = by_a_helper


def changing(name, value):
    return lambda model, patch: patch.setitem(globals(), name, value)


def in_place(model, patch):
    TENSOR.mul_(-1.5)


def model_of(function):
    return type("User", (Affine,), {"forward": lambda self, x: function(self, self.layer(x))})()


CASES = {
    "a number": (lambda self, y: NUMBER * y, changing("NUMBER", -3.0)),
    "a branch on a number": (lambda self, y: y if NUMBER > 0 else -y, changing("NUMBER", -3.0)),
    "another tensor": (lambda self, y: TENSOR * y, changing("TENSOR", torch.tensor(-3.0).double())),
    "a tensor in place": (lambda self, y: TENSOR * y, in_place),
    "computed of another tensor": (lambda self, y: TENSOR.exp() * y, changing("TENSOR", torch.tensor(3.0).double())),
    "computed of a tensor in place": (lambda self, y: TENSOR.exp() * y, in_place),
    "a number in a list": (
        lambda self, y: NUMBERS["of"][1] * y,
        lambda model, patch: patch.setitem(NUMBERS, "of", [2.0, -3.0]),
    ),
    "computed of an array": (
        lambda self, y: torch.tensor(ARRAY) * y,
        lambda model, patch: ARRAY.__setitem__(1, -3.0),
    ),
    "by a helper": (lambda self, y: by_a_helper(y), changing("NUMBER", -3.0)),
    "another helper": (lambda self, y: by_a_helper(y), changing("by_a_helper", lambda y: 7 * y)),
    "by a function in an attribute": (lambda self, y: self.function(y), changing("NUMBER", -3.0)),
    "by a closure": (lambda self, y: CLOSED_OVER(y), lambda model, patch: CHANGE()),
    "of an object": (
        lambda self, y: CONFIG.inner.factor * y,
        lambda model, patch: patch.setattr(CONFIG.inner, "factor", -3.0),
    ),
    "of an object in an attribute": (
        lambda self, y: self.config.factor * y,
        lambda model, patch: patch.setattr(model.config, "factor", -3.0),
    ),
    "by a property of an object": (
        lambda self, y: self.config.doubled * y,
        lambda model, patch: patch.setattr(model.config, "factor", -3.0),
    ),
    "of an object with slots": (
        lambda self, y: SLOTS.factor * y,
        lambda model, patch: patch.setattr(SLOTS, "factor", -3.0),
    ),
    "by an object that is called": (
        lambda self, y: CALLED(y),
        lambda model, patch: patch.setattr(CALLED, "factor", -3.0),
    ),
    "by a partial function": (lambda self, y: PARTIAL(y), changing("NUMBER", -3.0)),
    "of a Python module": (
        lambda self, y: MODULE.factor * y,
        lambda model, patch: patch.setattr(MODULE, "factor", 3.0),
    ),
    "of a class": (lambda self, y: Config.factor * y, lambda model, patch: patch.setattr(Config, "factor", -3.0)),
    "computed of a layer elsewhere": (
        lambda self, y: LAYER.bias.exp() * y,
        lambda model, patch: LAYER.requires_grad_(False).bias.add_(1),
    ),
}


@pytest.fixture(autouse=True)
def _as_before():
    yield
    TENSOR.fill_(2.0)
    ARRAY.fill(2.0)


@pytest.mark.parametrize("case", CASES)
def test_bounds_follow_what_the_forward_pass_reads_outside(monkeypatch, point, case):
    function, change = CASES[case]
    model = model_of(function)
    net = lbp.BoundedModule(model, point)
    assert bounds_are_the_value(net, model, point)
    before = model(point)
    change(model, monkeypatch)
    assert not torch.allclose(model(point), before), "the change matters"
    assert bounds_are_the_value(net, model, point)


@pytest.mark.parametrize("case", CASES)
def test_a_trace_serves_as_long_as_what_is_read_outside_is_what_it_was(point, case):
    model = model_of(CASES[case][0])
    net = lbp.BoundedModule(model, point)
    nodes = net.nodes()
    for _ in range(3):
        net(point)
        model.layer.requires_grad_(False).weight.mul_(1.5)
        assert bounds_are_the_value(net, model, point)
        assert net.nodes() == nodes


def test_cached_bounds_from_before_a_change_outside_are_refused(monkeypatch, point):
    model = nn.Sequential(model_of(lambda self, y: NUMBER * y), nn.ReLU(), nn.Linear(3, 2).double())
    net = lbp.BoundedModule(model, point)
    net.compute_bounds(x=lbp.BoundedTensor(point, lbp.PerturbationLpNorm(eps=0.1)), method="IBP")
    net.compute_bounds(x=None, method="CROWN")
    monkeypatch.setitem(globals(), "NUMBER", -3.0)
    with pytest.raises(StaleBoundsError, match="stale"):
        net.compute_bounds(x=None, method="CROWN")


def test_a_decorated_forward_pass_is_followed(monkeypatch, point):
    def decorate(function):
        @functools.wraps(function)
        def decorated(self, x):
            return function(self, x) + NUMBER

        return decorated

    class Decorated(Affine):
        @decorate
        def forward(self, x):
            return by_a_helper(self.layer(x))

    model = Decorated()
    net = lbp.BoundedModule(model, point)
    monkeypatch.setitem(globals(), "NUMBER", -3.0)
    assert bounds_are_the_value(net, model, point)


def test_layers_that_the_forward_pass_calls_from_elsewhere_are_refused(point):
    model = model_of(lambda self, y: LAYER(y))
    with pytest.raises(UnsupportedLayerError, match="a module that is no attribute of the model"):
        lbp.BoundedModule(model, point)


def test_gradients_reach_a_tensor_outside(point):
    factor = torch.full((3,), 2.0, dtype=torch.float64, requires_grad=True)
    model = model_of(lambda self, y: factor * y)
    x = lbp.BoundedTensor(point, lbp.PerturbationLpNorm(eps=0.0))
    lower, _ = lbp.BoundedModule(model, point).compute_bounds(x=x, method="IBP")
    (found,) = torch.autograd.grad(lower.sum(), factor)
    torch.testing.assert_close(found, model.layer(point).sum(0))
