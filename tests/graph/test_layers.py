"""Every layer and every form of calling it: sound bounds from every method, and exact ones over a single point."""

import math
import operator
import warnings

import pytest
import torch
from methods.networks import (
    METHODS,
    assert_contains,
    bounded,
    inputs,
    region,
    samples,
    seeded,
    values_at,
    with_statistics,
)
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from lbp.graph import build_network
from lbp.nn import LazyParamRamp, ParamRamp


class Call(nn.Module):
    """Wraps a function of (module, x), with a few parameters at hand; the first layer mixes all inputs."""

    def __init__(self, function, shape=(2, 4, 4)):
        super().__init__()
        self.function = function
        self.mix = nn.Conv2d(2, 2, 3, padding=1) if len(shape) == 3 else nn.Linear(shape[-1], shape[-1])
        self.weight = nn.Parameter(torch.randn(3, 32) * 0.3)
        self.kernel = nn.Parameter(torch.randn(4, 1, 3, 3) * 0.3)
        self.gain = nn.Parameter(torch.tensor([1.5, -0.5]))
        self.register_buffer("offset", torch.linspace(-1, 1, 16).reshape(1, 4, 4))
        self.register_buffer("mask", torch.tensor([True, False, True, True]))
        self.register_buffer("bytes", torch.tensor([0, 3, 200, 255], dtype=torch.uint8))

    def forward(self, x):
        return self.function(self, self.mix(x))


def in_place(y):
    y += 1
    y *= 2
    y -= 0.5
    y /= 4
    return y


IMAGE_FUNCTIONS = {
    # activations
    "F.relu": lambda m, x: F.relu(x),
    "torch.relu": lambda m, x: torch.relu(x),
    "x.relu()": lambda m, x: x.relu(),
    "x.relu_()": lambda m, x: x.relu_(),
    "F.relu in place": lambda m, x: F.relu(x, inplace=True),
    "F.leaky_relu": lambda m, x: F.leaky_relu(x, 0.3),
    "F.leaky_relu keyword": lambda m, x: F.leaky_relu(x, negative_slope=1.0),
    "F.relu6": lambda m, x: F.relu6(x * 10),
    "F.hardtanh": lambda m, x: F.hardtanh(x),
    "F.hardtanh limits": lambda m, x: F.hardtanh(x, -0.2, max_val=0.4),
    "F.hardtanh from 0": lambda m, x: F.hardtanh(x, 0.0, 0.4),
    "F.hardtanh to infinity": lambda m, x: F.hardtanh(x, -0.2, math.inf),
    "F.hardtanh from minus infinity": lambda m, x: F.hardtanh(x, -math.inf, 0.2),
    "F.hardtanh without limits": lambda m, x: F.hardtanh(x, -math.inf, math.inf),
    "F.hardtanh far to the right": lambda m, x: F.hardtanh(x, 0.1, 1e30),
    "F.hardtanh far to the left": lambda m, x: F.hardtanh(x, -1e30, -0.1),
    "F.hardtanh far on both sides": lambda m, x: F.hardtanh(x * 100, -90.0, 80.0) / 100,
    "two activations": lambda m, x: F.leaky_relu(F.relu6(x), 0.2),
    # affine layers
    "F.linear": lambda m, x: F.linear(x.flatten(1), m.weight),
    "F.linear with an expression": lambda m, x: F.linear(x.flatten(1), m.weight * 2 + 0.1, bias=m.weight[:, 0]),
    "F.linear over positions": lambda m, x: F.linear(x, m.weight[:, :4], m.weight[:, 5]),
    "F.conv2d": lambda m, x: F.conv2d(x, m.kernel, None, 2, 1, 1, 2),
    "F.conv2d keywords": lambda m, x: F.conv2d(
        x, m.kernel.view(2, 2, 3, 3), stride=(1, 2), padding=(2, 0), dilation=(2, 1)
    ),
    "F.conv2d same": lambda m, x: F.conv2d(x, m.kernel.view(2, 2, 3, 3)[:, :, :2], padding="same"),
    "F.batch_norm": lambda m, x: F.batch_norm(x, m.gain.detach(), m.gain.detach().abs(), m.gain, eps=0.1),
    # pooling
    "F.avg_pool2d": lambda m, x: F.avg_pool2d(x, 2),
    "F.avg_pool2d options": lambda m, x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 0), True, False),
    "F.avg_pool2d divisor": lambda m, x: F.avg_pool2d(x, 3, padding=1, divisor_override=2),
    "F.avg_pool2d negative divisor": lambda m, x: F.avg_pool2d(F.relu(x), 2, divisor_override=-3),
    "F.adaptive_avg_pool2d": lambda m, x: F.adaptive_avg_pool2d(x, (3, 1)),
    "F.max_pool2d": lambda m, x: F.max_pool2d(x, 2),
    "F.max_pool2d options": lambda m, x: F.max_pool2d(x, 3, stride=1, padding=1, dilation=1, ceil_mode=True),
    # shapes
    "torch.flatten": lambda m, x: torch.flatten(x, 1),
    "view with size": lambda m, x: x.view(x.size(0), -1),
    "view with shape": lambda m, x: x.view(x.shape[0], x.shape[1] * x.size(2), 4),
    "view with -1": lambda m, x: x.view(-1, 32),
    "reshape": lambda m, x: torch.reshape(x, (-1, 4, 8)),
    "unsqueeze and squeeze": lambda m, x: torch.squeeze(x.unsqueeze(1), 1),
    "permute": lambda m, x: x.permute(0, 2, 3, 1),
    "permute tuple": lambda m, x: torch.permute(x, (0, 3, 1, -2)),
    "transpose": lambda m, x: x.transpose(1, -1).contiguous(),
    "unflatten": lambda m, x: x.flatten(1).unflatten(1, (4, 8)),
    "slices": lambda m, x: x[:, :, 1:, ::2],
    "numbers as indices": lambda m, x: x[:, 1, ..., -1],
    "ellipsis": lambda m, x: x[..., -2:],
    "a slice that ends at a size": lambda m, x: x[:, :, : x.size(3) - 1],
    "a slice that ends at the size of a parameter": lambda m, x: x[:, : m.gain.size(0) - 1],
    "one number for each example": lambda m, x: x[:, 0, 1, 2],
    "an activation of one number for each example": lambda m, x: F.hardtanh(x[:, 0, 1, 2] * 2) - m.gain[0],
    "one number for each example on the way": lambda m, x: F.relu(x[:, 0, 1, 2]).view(-1, 1) * m.gain,
    "permute of one number for each example": lambda m, x: (
        x[:, 0, 1, 2].permute(0) + torch.permute(x[:, 1, 1, 2], (0,))
    ),
    "transpose of one number for each example": lambda m, x: x[:, 0, 1, 2].transpose(0, -1)[..., :],
    # arithmetic
    "x + y": lambda m, x: x + F.relu(x),
    "x - y": lambda m, x: torch.sub(x, F.relu(x), alpha=2),
    "x += y": lambda m, x: operator.iadd(F.relu(x), x),
    "torch.add alpha": lambda m, x: torch.add(x, F.relu(x), alpha=-0.5),
    "x + x": lambda m, x: x + x,
    "in place without an alias": lambda m, x: in_place(F.relu(x)),
    "broadcast sum": lambda m, x: x + F.adaptive_avg_pool2d(x, 1),
    "constants": lambda m, x: 1 - (2 * x + 3) / 4,
    "negation": lambda m, x: -x - 1,
    "buffer": lambda m, x: x * m.offset + m.offset,
    "buffer minus x": lambda m, x: m.offset - x,
    "buffer with batch dimension": lambda m, x: x - m.offset[None],
    "parameter per channel": lambda m, x: x * m.gain[:, None, None] / m.gain.view(1, 2, 1, 1).exp(),
    "shape as a number": lambda m, x: x / x.size(-1),
    "a mask": lambda m, x: x * m.mask + m.mask,
    "whole numbers": lambda m, x: (m.bytes - x) / (m.mask + 2) - m.bytes,
    "a constant made on the way": lambda m, x: x * torch.tensor(2.0) + torch.linspace(0, 1, 4),
    "torch.cat": lambda m, x: torch.cat([x, F.relu(x)], 1),
    "torch.cat last": lambda m, x: torch.cat((x, 2 * x, F.relu(x)), dim=-1),
    "F.dropout": lambda m, x: F.dropout(x, 0.5, training=m.training),
    "x.clone()": lambda m, x: x.clone(),
}

MODULES = {
    "ReLU": nn.ReLU(inplace=True),
    "LeakyReLU": nn.LeakyReLU(0.1),
    "ReLU6": nn.ReLU6(),
    "Hardtanh": nn.Hardtanh(-0.3, 0.5),
    "ParamRamp": ParamRamp((2, 4, 4), eta=0.05, r=0.4),
    "ParamRamp per channel": ParamRamp((2, 1, 1), eta=0.05, r=0.4),
    "ParamRamp warming up": ParamRamp((2, 4, 4), eta=0.05, r=0.4, warm_up=True),
    "LazyParamRamp": LazyParamRamp(eta=0.05, r=0.4),
    "Conv2d": nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, bias=False),
    "Conv2d same": nn.Conv2d(2, 3, (2, 4), padding="same", dilation=(1, 1)),
    "Conv2d valid": nn.Conv2d(2, 3, 3, padding="valid"),
    "Conv2d of one pixel": nn.Conv2d(2, 3, 4),
    "BatchNorm2d": nn.BatchNorm2d(2),
    "BatchNorm2d without parameters": nn.BatchNorm2d(2, affine=False),
    "BatchNorm2d after a pool": nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(2)),
    "BatchNorm1d": nn.Sequential(nn.Flatten(), nn.Linear(32, 6), nn.BatchNorm1d(6)),
    "BatchNorm1d over positions": nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(2)),
    "AvgPool2d": nn.AvgPool2d(3, 2, 1),
    "AvgPool2d in ceil mode": nn.AvgPool2d(3, 2, ceil_mode=True),
    "AvgPool2d in ceil mode with padding": nn.AvgPool2d(2, 3, 1, ceil_mode=True),
    "AvgPool2d without counted padding": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "AdaptiveAvgPool2d": nn.AdaptiveAvgPool2d((3, 2)),
    "MaxPool2d": nn.MaxPool2d(3, 2, 1),
    "MaxPool2d dilated": nn.MaxPool2d(2, 1, 1, dilation=2),
    "MaxPool2d in ceil mode": nn.MaxPool2d(3, 2, ceil_mode=True),
    "MaxPool2d of the whole image": nn.MaxPool2d(4),
    "ZeroPad2d": nn.ZeroPad2d((1, 0, 2, 1)),
    "Flatten": nn.Flatten(2),
    "Unflatten": nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 8))),
    "Dropout": nn.Dropout(0.5),
    "Identity": nn.Identity(),
    "nested Sequential": nn.Sequential(nn.Sequential(nn.ReLU(), nn.Sequential()), nn.Conv2d(2, 2, 1)),
    "weight norm": parametrizations.weight_norm(nn.Conv2d(2, 3, 3)),
    "spectral norm": nn.Sequential(nn.Flatten(), parametrizations.spectral_norm(nn.Linear(32, 3))),
    "Linear over positions": nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)),
}


def _module_net(name):
    return with_statistics(seeded(lambda: nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), MODULES[name])), (2, 4, 4))


def _function_net(name):
    return seeded(lambda: Call(IMAGE_FUNCTIONS[name]))


def _net(kind, name):
    return (_module_net if kind == "module" else _function_net)(name)


def _is_affine(kind, name):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same'")
        network = build_network(_net(kind, name), torch.zeros(1, 2, 4, 4, dtype=torch.float64), {})
    return not network.activations


CASES = [("module", name) for name in MODULES] + [("function", name) for name in IMAGE_FUNCTIONS]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_bounds_of_the_layer_are_sound_and_exact_over_a_point(kind, name):
    model = _net(kind, name)
    x = inputs((2, 4, 4)) * 2 - 1
    net, values = bounded(model, (2, 4, 4)), values_at(model, samples(x, 0.2, torch.inf, count=60))
    for method in METHODS:
        found = net.compute_bounds(region(x, 0.2), method=method)
        assert found[0].shape == model(x).shape, method
        assert_contains(found, values)
        for side in net.compute_bounds(region(x, 0.0), method=method):
            torch.testing.assert_close(side, model(x), rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if _is_affine(*case)])
def test_an_affine_layer_is_bounded_exactly_by_crown(kind, name):
    model = _net(kind, name)
    x = inputs((2, 4, 4), batch=1)
    lower, upper = bounded(model, (2, 4, 4)).compute_bounds(region(x, 0.2), method="CROWN")
    jacobian = torch.autograd.functional.jacobian(lambda one: model(one).flatten(), x).flatten(1)
    spread = 0.2 * jacobian.abs().sum(1)
    torch.testing.assert_close(lower.flatten(), model(x).flatten() - spread, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(upper.flatten(), model(x).flatten() + spread, rtol=1e-9, atol=1e-9)


def test_a_module_called_twice_gives_two_nodes_with_names_of_their_own():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act = nn.Linear(3, 3), nn.ReLU()

        def forward(self, x):
            return self.act(self.fc(self.act(self.fc(x))))

    model = seeded(Twice)
    net = bounded(model, (3,))
    assert [node.name for node in net.nodes()] == ["x", "fc", "act", "fc:2", "act:2"]
    x = inputs((3,))
    assert_contains(net.compute_bounds(region(x, 0.1)), values_at(model, samples(x, 0.1, torch.inf)))


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(2)])
def test_a_single_layer_may_be_the_model(layer):
    layer = layer.double().eval()
    x = inputs((2, 4, 4))
    assert_contains(bounded(layer, (2, 4, 4)).compute_bounds(region(x)), values_at(layer, samples(x, 0.05, torch.inf)))


def test_a_single_param_ramp_may_be_the_model():
    layer = ParamRamp((4,), eta=0.1, r=0.5, dtype=torch.float64)
    x = inputs((4,))
    net = bounded(layer, (4,))
    assert_contains(net.compute_bounds(region(x)), values_at(layer, samples(x, 0.05, torch.inf)))
    assert list(net.state_dict()) == list(layer.state_dict())
