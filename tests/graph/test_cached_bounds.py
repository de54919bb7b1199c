"""Bounds of hidden layers serve a later call only while nothing that they depend on has changed."""

import weakref

import pytest
import torch
from torch import nn

import lbp
from lbp.errors import StaleBoundsError


def ramp_network():
    return nn.Sequential(nn.Linear(4, 5), lbp.nn.ParamRamp((5,)), nn.Linear(5, 3)).double().eval()


@pytest.mark.parametrize(
    "change",
    [
        lambda model, x: setattr(model[1], "warm_up", True),
        lambda model, x: setattr(x.ptb, "eps", 0.5),
        lambda model, x: setattr(x.ptb, "clip", (torch.zeros(4).double() - 9, torch.ones(4).double() * 9)),
        lambda model, x: model[0].weight.requires_grad_(False).add_(1),
    ],
    ids=["warm-up", "eps", "clip", "weight"],
)
def test_cached_bounds_of_another_state_are_refused(point, change):
    model = ramp_network()
    net = lbp.BoundedModule(model, point)
    limits = (torch.full((4,), -10.0).double(), torch.full((4,), 10.0).double())
    x = lbp.BoundedTensor(point, lbp.PerturbationLpNorm(eps=0.1, clip=limits))
    net.compute_bounds(x=x, method="IBP")
    net.compute_bounds(x=None, method="CROWN")
    change(model, x)
    with pytest.raises(StaleBoundsError):
        net.compute_bounds(x=None, method="CROWN")


def test_cached_bounds_hold_what_they_depend_on(point):
    net = lbp.BoundedModule(ramp_network(), point)
    x = lbp.BoundedTensor(point, lbp.PerturbationLpNorm(eps=torch.tensor(0.1).double()))
    net.compute_bounds(x=x, method="IBP")
    eps = weakref.ref(x.ptb.eps)
    # Nobody else holds the old radius: a new one could take its address.
    x.ptb.eps = torch.tensor(0.5).double()
    assert eps() is not None
    with pytest.raises(StaleBoundsError):
        net.compute_bounds(x=None, method="CROWN")


def test_cached_bounds_of_a_tensor_without_versions_are_refused(point):
    net = lbp.BoundedModule(ramp_network(), point)
    with torch.inference_mode():
        x = point.clone()
        net.compute_bounds(x=x, method="IBP")
        x.add_(5)
        with pytest.raises(StaleBoundsError, match="inference_mode"):
            net.compute_bounds(x=None, method="CROWN")


def test_reference_bounds_tighten_cached_bounds(point):
    model = ramp_network()
    net = lbp.BoundedModule(model, point)
    x = lbp.BoundedTensor(point, lbp.PerturbationLpNorm(eps=0.1))
    net.compute_bounds(x=x, method="IBP")
    (node,) = net.get_layers_requiring_bounds()
    known = node.lower
    middle = (node.lower + node.upper) / 2
    net.compute_bounds(x=None, method="CROWN", reference_bounds={node.name: (known - 1, middle)})
    torch.testing.assert_close(node.lower, known)
    torch.testing.assert_close(node.upper, middle)


def _bounded(model, optimizer, **options):
    """Return a network that has bounds of its hidden layers, their input, and an optimizer of the parameters."""
    net = lbp.BoundedModule(model, torch.zeros(1, 4).double())
    x = lbp.BoundedTensor(torch.ones(2, 4).double(), lbp.PerturbationLpNorm(eps=0.1))
    net.compute_bounds(x=x, method="IBP")[0].sum().backward()
    return net, x, optimizer(model.parameters(), lr=0.1, **options)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_cached_bounds_from_before_a_step_of_an_optimizer_are_refused(optimizer, fused):
    net, x, updates = _bounded(ramp_network(), optimizer, fused=fused)
    updates.step()
    with pytest.raises(StaleBoundsError, match="stale"):
        net.compute_bounds(x=None, method="CROWN")
    expected = net.compute_bounds(x=x, method="CROWN-IBP")
    net.compute_bounds(x=x, method="IBP")
    torch.testing.assert_close(net.compute_bounds(x=None, method="CROWN"), expected)


def test_cached_bounds_of_an_input_that_a_fused_optimizer_moves_are_refused():
    net = lbp.BoundedModule(ramp_network(), torch.zeros(1, 4).double())
    point = torch.ones(2, 4).double().requires_grad_()
    x = lbp.BoundedTensor(point, lbp.PerturbationLpNorm(eps=0.1))
    net.compute_bounds(x=x, method="IBP")[0].sum().backward()
    torch.optim.Adam([point], lr=0.1, fused=True).step()
    with pytest.raises(StaleBoundsError):
        net.compute_bounds(x=None, method="CROWN")


def test_cached_bounds_outlast_steps_of_other_networks():
    net, _, _ = _bounded(ramp_network(), torch.optim.SGD)
    _, _, updates = _bounded(ramp_network(), torch.optim.Adam, fused=True)
    before = net.compute_bounds(x=None, method="CROWN")
    updates.step()
    for bound, earlier in zip(net.compute_bounds(x=None, method="CROWN"), before, strict=True):
        assert torch.equal(bound, earlier)


def test_cached_bounds_of_parameters_in_other_memory_are_refused():
    model = ramp_network()
    net, _, _ = _bounded(model, torch.optim.SGD)
    nn.utils.vector_to_parameters(1 + nn.utils.parameters_to_vector(model.parameters()), model.parameters())
    with pytest.raises(StaleBoundsError):
        net.compute_bounds(x=None, method="CROWN")
