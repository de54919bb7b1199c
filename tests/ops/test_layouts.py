"""The layout in memory changes no number: a single channel may have any stride."""

import pytest
import torch
from ops.cases import normal

import lbp
from lbp import BoundedModule, BoundedTensor, PerturbationLpNorm, ops


def test_gradients_of_windows_are_those_of_the_reference():
    A, rows = normal(2, 2, 4, 1, 3), torch.tensor([[0, 0, 0, 0], [0, 1, 4, 0], [0, 1, 3, 0]])
    corners, weight = torch.tensor([[-1, -2], [3, -2], [2, -2]]), normal(3, 1, 4, 2)
    gradients = []
    for backend in ("native", "reference"):
        dtype = torch.float32 if backend == "native" else torch.float64
        leaf = A.to(dtype).requires_grad_()
        with lbp.backend(backend):
            call = leaf, rows, (9, 1), weight.to(dtype), None, corners, (9, 3)
            result, _ = ops.backward_conv2d_windows(*call, stride=(1, 3), padding=(1, 2))
        gradients += torch.autograd.grad(result.square().sum(), leaf)
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["IBP", "CROWN", "LBP", "CROWN-LBP"])
@pytest.mark.parametrize("rounding", ["nearest", "outward"])
def test_bounds_of_a_network_in_channels_last_are_those_of_the_network(method, rounding):
    torch.manual_seed(0)
    first, last = torch.nn.Conv2d(1, 4, (3, 5), stride=(1, 4)), torch.nn.Linear(44, 3)
    net, x = torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.Flatten(), last), torch.rand(2, 1, 13, 5)
    bounds = []
    for layout in (torch.contiguous_format, torch.channels_last):
        module = BoundedModule(net.to(memory_format=layout), x)
        ball = BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), eps=0.01))
        bounds.append(module.compute_bounds(x=(ball,), method=method, rounding=rounding))
    for plain, turned in zip(*bounds, strict=True):
        torch.testing.assert_close(turned, plain, rtol=1e-4, atol=1e-4)
