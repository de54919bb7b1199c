"""Bounds of whole networks: `model.cuda()` is all that a user changes."""

import copy

import pytest
import torch
from ops.cases import normal

import lbp

METHODS = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "CROWN")


def network(activation):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, stride=2, padding=1),
        activation,
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 4 * 4, 12),
        torch.nn.ReLU(),
        torch.nn.Linear(12, 5),
    ).double()


def bounds(model, images, method, device):
    """Lower bounds of all outputs on a device, and their gradients by the parameters."""
    model, images = copy.deepcopy(model).to(device).eval(), images.to(device)
    net = lbp.BoundedModule(model, images)
    x = lbp.BoundedTensor(images, lbp.PerturbationLpNorm(eps=0.05, clip=(0, 1)))
    lower, upper = net.compute_bounds(x=(x,), method=method)
    gradients = torch.autograd.grad((upper - lower).sum(), list(model.parameters()))
    return [value.detach().cpu() for value in (lower, upper, *gradients)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["relu", "ramp"])
def test_bounds_and_gradients_are_those_of_the_cpu(kind, method):
    activation = torch.nn.ReLU() if kind == "relu" else lbp.nn.ParamRamp((4, 4, 4), eta=0.01, r=0.5)
    model, images = network(activation), normal(3, 2, 8, 8).sigmoid()
    for on_device, on_cpu in zip(*(bounds(model, images, method, device) for device in ("cuda", "cpu")), strict=True):
        assert torch.allclose(on_device, on_cpu, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_float32_bounds_do_not_depend_on_reduced_precision(method):
    model, images = network(torch.nn.ReLU()).float(), normal(3, 2, 8, 8).sigmoid().float()
    exact = bounds(model, images, method, "cuda")
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    try:
        reduced = bounds(model, images, method, "cuda")
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.benchmark = False
    for a, b in zip(exact[:2], reduced[:2], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("norm", [float("inf"), 2.0])
@pytest.mark.parametrize("method", METHODS)
def test_bounds_that_are_rounded_outward_hold_the_values_of_a_small_region(method, norm):
    eps, model, images = 1e-5, network(torch.nn.ReLU()).float(), normal(3, 2, 8, 8).sigmoid().float()
    net = lbp.BoundedModule(copy.deepcopy(model).cuda().eval(), images.cuda())
    x = lbp.BoundedTensor(images.cuda(), lbp.PerturbationLpNorm(eps=eps, norm=norm))
    with torch.no_grad():
        lower, upper = (side.cpu() for side in net.compute_bounds(x=(x,), method=method, rounding="outward"))
        direction = normal(8, *images.shape).double().flatten(2)
        reach = eps * (1 - 1e-9) / torch.linalg.vector_norm(direction, norm, -1, keepdim=True)
        for moved in images.double() + (direction * reach).unflatten(2, images.shape[1:]):
            value = model.double()(moved)
            assert ((lower <= value) & (value <= upper)).all()
