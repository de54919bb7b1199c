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
        self.register_buffer("order", torch.tensor([1, 0]))
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
    "x.clamp from below": lambda m, x: x.clamp(min=0),
    "x.clamp": lambda m, x: x.clamp(-0.2, 0.3),
    "torch.clamp from above": lambda m, x: torch.clamp(x, max=0.1),
    "x.clip": lambda m, x: x.clip(0.0, 0.2),
    "x.clamp_min": lambda m, x: x.clamp_min(-0.1),
    "torch.clamp_max": lambda m, x: torch.clamp_max(x, 0.1),
    "x.clamp_": lambda m, x: (x + 0).clamp_(0, 1),
    "F.threshold": lambda m, x: F.threshold(x, 0.1, 0.1),
    # affine layers
    "x @ W": lambda m, x: x.flatten(1) @ m.weight.t(),
    "torch.matmul over positions": lambda m, x: torch.matmul(x, m.weight[:, :4].t()) + m.weight[0, :3],
    "torch.mm": lambda m, x: torch.mm(x.flatten(1), m.weight.t()),
    "a vector on the right": lambda m, x: x.flatten(1).matmul(m.weight[0]),
    "a matrix on the left": lambda m, x: torch.matmul(
        m.weight[:, :4], x.transpose(1, 2).flatten(2).unflatten(2, (4, 2))
    ),
    "torch.addmm": lambda m, x: torch.addmm(m.weight[:, 0], x.flatten(1), m.weight.t()),
    "F.conv1d": lambda m, x: F.conv1d(x.flatten(2), m.kernel.view(2, 2, 9), m.gain, 2, 3),
    "F.conv_transpose2d": lambda m, x: F.conv_transpose2d(x, m.kernel.view(2, 2, 3, 3), m.gain, 2, 1, 1, dilation=2),
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
    "F.avg_pool1d": lambda m, x: F.avg_pool1d(x.flatten(2), 3, 2, 1, count_include_pad=False),
    "F.max_pool1d": lambda m, x: F.max_pool1d(x.flatten(2), 3, stride=2, padding=1),
    "x.mean over the image": lambda m, x: x.mean([2, 3]),
    "torch.mean that keeps the dimensions": lambda m, x: torch.mean(x, (-1, -2), keepdim=True),
    "x.mean over channels": lambda m, x: x.mean(1),
    "x.mean over channels and rows": lambda m, x: x.mean(axis=(1, 2)),
    "x.mean of each example": lambda m, x: x.mean((1, 2, 3)),
    "x.sum": lambda m, x: x.sum(-1),
    "torch.sum that keeps the dimension": lambda m, x: torch.sum(x, dim=2, keepdim=True),
    "a mean taken off": lambda m, x: x - x.mean((2, 3), keepdim=True),
    # parts
    "x.chunk": lambda m, x: operator.sub(*x.chunk(2, 1)),
    "x.chunk into parts of two lengths": lambda m, x: torch.cat(x.chunk(3, dim=-1)[::-1], 3),
    "torch.split": lambda m, x: torch.split(x, [1, 3], dim=2)[-1],
    "x.split in a loop": lambda m, x: torch.cat([part * i for i, part in enumerate(x.split(split_size=1, dim=3))], 1),
    "torch.unbind": lambda m, x: torch.stack(torch.unbind(x, 1)[::-1], dim=-1),
    "x.unbind unpacked": lambda m, x: (lambda first, second: first + 2 * second)(*x.unbind(1)),
    "as many parts as there are": lambda m, x: x.flatten(1).chunk(8, 1)[len(x.flatten(1).chunk(8, 1)) - 1],
    "torch.stack": lambda m, x: torch.stack([x, F.relu(x)], 2),
    # moves
    "x.flip": lambda m, x: x.flip(1, -1),
    "torch.roll": lambda m, x: torch.roll(x, (1, 2), (2, 3)),
    "x.repeat": lambda m, x: x.repeat(1, 2, 1, 1),
    "x.repeat_interleave": lambda m, x: x.repeat_interleave(2, dim=3),
    "x.expand": lambda m, x: x.mean(3, keepdim=True).expand(-1, -1, -1, 3),
    "x.expand to a batch": lambda m, x: x[:, :1].expand(x.shape[0], 3, 4, 4),
    "x.movedim": lambda m, x: x.movedim(1, -1),
    "x.select": lambda m, x: x.select(2, -1),
    "x.narrow": lambda m, x: x.narrow(-1, 1, 2),
    "x.index_select": lambda m, x: x.index_select(2, torch.tensor([3, 0, 0])),
    "a list of indices": lambda m, x: x[:, [1, 0, 1], [0, 2, 3], ..., 1:],
    "indices in a buffer": lambda m, x: x[:, m.order][:, :, m.mask],
    "x.index_select by a buffer": lambda m, x: x.index_select(3, m.order),
    "a tensor of indices": lambda m, x: x[:, :, torch.tensor([2, 1])],
    "a new dimension": lambda m, x: x[:, None, ..., 1:, None],
    "channels": lambda m, x: x[:, 1:],
    "every second pixel": lambda m, x: x[:, :, ::2, 1::2],
    "F.pixel_shuffle": lambda m, x: F.pixel_shuffle(torch.cat([x, F.relu(x)], 1), 2),
    "F.channel_shuffle": lambda m, x: F.channel_shuffle(torch.cat([x, F.relu(x)], 1), 2),
    "F.unfold": lambda m, x: F.unfold(x, 2, padding=1),
    "F.pad": lambda m, x: F.pad(x, (1, 0, 0, 2)),
    "F.pad with channels": lambda m, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2), "constant", 0),
    "F.pad that crops": lambda m, x: F.pad(x, (-1, 2)),
    "F.pad of a vector": lambda m, x: F.pad(x.flatten(1), (2, 1), value=0.0),
    "F.pad that reflects": lambda m, x: F.pad(x, (2, 1, 1, 0), mode="reflect"),
    "F.interpolate": lambda m, x: F.interpolate(x, scale_factor=2),
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
    "Conv2d that reflects": nn.Conv2d(2, 3, 3, stride=2, padding=2, padding_mode="reflect"),
    "Conv2d around the image": nn.Conv2d(2, 3, (3, 2), padding="same", padding_mode="circular"),
    "Conv1d": nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 4, 3, stride=2, padding=1, dilation=2, groups=2), nn.ReLU()),
    "Conv1d same": nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 2, 4, padding="same"), nn.BatchNorm1d(2)),
    "Conv1d that replicates": nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 2, 3, padding=1, padding_mode="replicate")),
    "ConvTranspose2d": nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
    "ConvTranspose2d in groups": nn.ConvTranspose2d(2, 4, (2, 3), (1, 3), dilation=(3, 1), groups=2, bias=False),
    "ConvTranspose2d with much padding": nn.Sequential(nn.ConvTranspose2d(2, 3, 2, padding=1), nn.BatchNorm2d(3)),
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
    "AvgPool1d": nn.Sequential(nn.Flatten(2), nn.AvgPool1d(4, 3, 1, ceil_mode=True)),
    "AdaptiveAvgPool1d": nn.Sequential(nn.Flatten(2), nn.AdaptiveAvgPool1d(3)),
    "MaxPool1d": nn.Sequential(nn.Flatten(2), nn.MaxPool1d(3, dilation=2)),
    "ZeroPad2d": nn.ZeroPad2d((1, 0, 2, 1)),
    "ConstantPad2d": nn.ConstantPad2d((1, -1, 0, 2), 0.0),
    "ReflectionPad2d": nn.ReflectionPad2d((1, 2, 0, 1)),
    "ReplicationPad2d": nn.ReplicationPad2d(2),
    "CircularPad2d": nn.CircularPad2d((1, 0, 2, 1)),
    "Upsample": nn.Upsample(scale_factor=(2, 4)),
    "PixelShuffle": nn.Sequential(nn.Conv2d(2, 4, 1), nn.PixelShuffle(2)),
    "PixelUnshuffle": nn.PixelUnshuffle(2),
    "ChannelShuffle": nn.Sequential(nn.Conv2d(2, 4, 1), nn.ChannelShuffle(2)),
    "Unfold": nn.Unfold((2, 3), stride=(1, 2)),
    "Threshold": nn.Threshold(0.0, 0.0),
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
