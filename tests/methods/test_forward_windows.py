"""Forward bounds on windows of the input equal those of dense matrices, which `conv_mode="matrix"` keeps."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods.networks import STRATEGIES, seeded
from torch import nn

from lbp import BoundedModule, BoundedTensor, PerturbationLpNorm
from lbp.graph import build_network
from lbp.linear import ForwardBounds, Region
from lbp.methods import Problem
from lbp.methods.forward import propagate_forward
from lbp.methods.forward_bytes import forward_bytes
from lbp.methods.relaxed_crown import relaxed_crown_pre_activations
from lbp.nn import ParamRamp

METHODS = ("LBP", "CROWN-LBP", "Relaxed-CROWN-1", "Relaxed-CROWN-2", "Relaxed-CROWN-3")


def bounds(model, shape, method, mode, *, batch=2, norm=math.inf, strategy="adaptive", C=None):
    """Lower and upper bounds around random images."""
    x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    options = {"conv_mode": mode, "activation_bound_option": strategy, "sparse_intermediate_bounds": False}
    bounded = BoundedModule(model, x, bound_opts=options)
    return bounded.compute_bounds(x=(BoundedTensor(x, PerturbationLpNorm(norm=norm, eps=0.1)),), method=method, C=C)


def assert_same(model, shape, *, methods=METHODS, **options):
    for method in methods:
        on_windows = bounds(model, shape, method, "patches", **options)
        dense = bounds(model, shape, method, "matrix", **options)
        for window, matrix in zip(on_windows, dense, strict=True):
            assert torch.isfinite(window).all()
            assert torch.allclose(window, matrix, rtol=1e-10, atol=1e-10 * float(matrix.detach().abs().max()))


class Residual(nn.Module):
    """`x + body(x)`, or `shortcut(x) + body(x)`."""

    def __init__(self, body, shortcut=None):
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x):
        return self.shortcut(x) + self.body(x)


class Concat(nn.Module):
    """Channels of two branches, one after the other."""

    def __init__(self, first, second):
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x):
        return torch.cat([self.first(x), self.second(x)], 1)


def conv(c_in, c_out, kernel=3, **options):
    return nn.Conv2d(c_in, c_out, kernel, **options)


class Shortcut(nn.Module):
    """Every second pixel, between channels of zeros: the shortcut without parameters of residual networks."""

    def forward(self, x):
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))


class Parts(nn.Module):
    """One layer for the first channels and none for the others, in turn."""

    def __init__(self, body, count):
        super().__init__()
        self.body, self.count = body, count

    def forward(self, x):
        first, second = x[:, : self.count], x[:, self.count :]
        return torch.cat([second, self.body(first)], 1)


class Crop(nn.Module):
    """The image without its border, of which one side is wider."""

    def forward(self, x):
        return x[..., 1:-2, 2:-1]


NETWORKS = {
    "shortcut of every second pixel": lambda: nn.Sequential(
        conv(2, 2, padding=1),
        nn.ReLU(),
        Residual(nn.Sequential(conv(2, 4, stride=2, padding=1), nn.ReLU(), conv(4, 4, padding=1)), Shortcut()),
        nn.ReLU(),
        conv(4, 2, 2),
    ),
    "parts": lambda: nn.Sequential(
        conv(2, 4, padding=1), Parts(conv(1, 2, padding=1), 1), nn.ReLU(), Parts(conv(3, 2, padding=1), 3), nn.ReLU()
    ),
    "crop": lambda: nn.Sequential(
        conv(2, 3, padding=1), nn.ReLU(), Crop(), conv(3, 2, stride=2), nn.ReLU(), conv(2, 2, 1)
    ),
    "chain": lambda: nn.Sequential(conv(2, 3, padding=1), nn.ReLU(), conv(3, 4, stride=2), nn.ReLU(), conv(4, 3)),
    "first layer is an activation": lambda: nn.Sequential(nn.Hardtanh(0.2, 0.7), conv(2, 3), nn.ReLU(), conv(3, 2)),
    "batch norm apart": lambda: nn.Sequential(
        nn.BatchNorm2d(2), conv(2, 3, padding=1), nn.LeakyReLU(0.2), nn.BatchNorm2d(3), conv(3, 3), nn.ReLU6()
    ),
    "groups": lambda: nn.Sequential(conv(2, 4, groups=2), nn.ReLU(), conv(4, 4, 2, groups=4), nn.ReLU(), conv(4, 2, 1)),
    "identity shortcut": lambda: nn.Sequential(
        Residual(nn.Sequential(conv(2, 2, padding=1), nn.ReLU(), conv(2, 2, 5, padding=2))), nn.ReLU(), conv(2, 3)
    ),
    "nested residuals": lambda: nn.Sequential(
        conv(2, 3, padding=1),
        Residual(
            nn.Sequential(
                nn.ReLU(),
                Residual(nn.Sequential(conv(3, 3, padding=1), nn.ReLU(), conv(3, 3, padding=1))),
                nn.ReLU(),
                conv(3, 4, stride=2, padding=1),
            ),
            conv(3, 4, 1, stride=2),
        ),
        nn.ReLU(),
        conv(4, 2, 1),
    ),
    "average pools": lambda: nn.Sequential(
        conv(2, 3),
        nn.ReLU(),
        nn.AvgPool2d(2, stride=1, padding=1, count_include_pad=False),
        conv(3, 3, 2),
        nn.ReLU(),
        nn.AvgPool2d(3, stride=2, ceil_mode=True),
        conv(3, 2, 1),
    ),
    "adaptive pools": lambda: nn.Sequential(
        conv(2, 3, (3, 2)), nn.ReLU(), nn.AdaptiveAvgPool2d((3, 3)), conv(3, 4, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    ),
    "max pool": lambda: nn.Sequential(conv(2, 3), nn.ReLU(), nn.MaxPool2d(2), conv(3, 2, 2), nn.ReLU()),
    "concatenation": lambda: nn.Sequential(
        Concat(conv(2, 2, padding=1), conv(2, 3, 1)), nn.ReLU(), Concat(nn.Identity(), conv(5, 2, padding=1)), nn.ReLU()
    ),
    "branches of different strides": lambda: nn.Sequential(
        Concat(conv(2, 2, 2, stride=2), conv(2, 3, (6, 5))), nn.ReLU(), conv(5, 2)
    ),
    "uneven padding": lambda: nn.Sequential(
        nn.ZeroPad2d((2, 0, 1, -1)), conv(2, 3), nn.ReLU(), nn.ZeroPad2d((-1, 2, 0, 3)), conv(3, 2), nn.ReLU()
    ),
    "even kernels": lambda: nn.Sequential(conv(2, 3, 2, padding="same"), nn.ReLU(), conv(3, 2, 4, padding="same")),
    "permuted": lambda: nn.Sequential(conv(2, 3), nn.ReLU(), Permuted(), nn.Flatten(), nn.Linear(150, 3)),
    "activation after flattening": lambda: nn.Sequential(
        conv(2, 3), nn.Flatten(), ParamRamp((120,), r=0.5, eta=0.1, dtype=torch.float64), nn.Linear(120, 5), nn.ReLU()
    ),
    "another image after flattening": lambda: nn.Sequential(
        conv(2, 3), nn.ReLU(), nn.Flatten(), nn.Unflatten(1, (4, 6, 5)), conv(4, 2), nn.ReLU()
    ),
    "activation on another image": lambda: nn.Sequential(
        conv(2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Unflatten(1, (6, 7, 5)), nn.ReLU(), conv(6, 2), nn.ReLU()
    ),
    "activation on an image of a vector": lambda: nn.Sequential(
        conv(2, 3), nn.Flatten(), nn.Linear(120, 24), nn.Unflatten(1, (4, 3, 2)), nn.ReLU(), conv(4, 2, 2), nn.ReLU()
    ),
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(140, 12), nn.ReLU(), nn.Linear(12, 3)),
    "window larger than the image": lambda: nn.Sequential(
        conv(2, 3, padding=1, dilation=1),
        nn.ReLU(),
        conv(3, 2, padding=4, dilation=4),
        nn.ReLU(),
        conv(2, 2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(140, 3),
    ),
}


class Permuted(nn.Module):
    """Channels last."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_windows_equal_dense_matrices(name):
    shape = (2, 12, 7) if name == "permuted" else (2, 10, 7)
    assert_same(seeded(NETWORKS[name]), shape, methods=(*METHODS, "CROWN"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy(strategy):
    model = seeded(
        lambda: nn.Sequential(
            conv(2, 3, padding=1), ramp((3, 7, 6)), conv(3, 4, stride=2), ramp((4, 3, 2)), conv(4, 2, 2)
        )
    )
    assert_same(model, (2, 7, 6), strategy=strategy)


def ramp(shape):
    r = torch.linspace(0.3, 2.0, math.prod(shape), dtype=torch.float64).reshape(shape)
    return ParamRamp(shape, r=r, eta=0.1, dtype=torch.float64)


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0])
def test_every_norm(norm):
    assert_same(seeded(NETWORKS["nested residuals"]), (2, 9, 8), methods=["LBP"], norm=norm)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 5), (2, 1, 1)])
def test_images_of_few_pixels(shape):
    model = seeded(
        lambda: nn.Sequential(conv(shape[0], 3, padding=1), nn.ReLU(), conv(3, 2, 1), nn.ReLU(), conv(2, 2, padding=1))
    )
    assert_same(model, shape)


@pytest.mark.parametrize("method", METHODS)
def test_specifications(method):
    model = seeded(lambda: nn.Sequential(conv(2, 3), nn.ReLU(), conv(3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)))
    C = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert_same(model, (2, 10, 6), methods=[method], C=C)


@st.composite
def stacks(draw):
    """Convolutions of any geometry with activations between them, and the image that they take."""
    size = (draw(st.integers(1, 11)), draw(st.integers(1, 11)))
    channels = draw(st.integers(1, 2))
    shape, layers = (channels, *size), []
    for _ in range(draw(st.integers(1, 3))):
        kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        extent = tuple(dilation[i] * (kernel[i] - 1) + 1 for i in range(2))
        padding = tuple(draw(st.integers(max((extent[i] - size[i] + 1) // 2, 0), 3)) for i in range(2))
        stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        groups = draw(st.sampled_from([1, channels]))
        out = groups * draw(st.integers(1, 3))
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        layers += [(channels, out, kernel, options)]
        size = tuple((size[i] + 2 * padding[i] - extent[i]) // stride[i] + 1 for i in range(2))
        channels = out
    return shape, layers


@settings(max_examples=25, deadline=None)
@given(stacks())
def test_random_stacks(case):
    shape, layers = case
    parts = [part for c_in, c_out, kernel, options in layers for part in ((c_in, c_out, kernel, options), None)]
    model = seeded(lambda: nn.Sequential(*(nn.ReLU() if p is None else conv(*p[:3], **p[3]) for p in parts)))
    assert_same(model, shape, methods=("LBP", "CROWN-LBP", "Relaxed-CROWN-2"))


@pytest.mark.parametrize("method", ["LBP", "CROWN-LBP", "Relaxed-CROWN-2"])
@pytest.mark.parametrize("name", ["nested residuals", "average pools", "concatenation", "groups", "uneven padding"])
def test_gradients_are_those_of_dense_matrices(name, method):
    gradients = []
    for mode in ("patches", "matrix"):
        model = seeded(NETWORKS[name])
        lower, upper = bounds(model, (2, 9, 8), method, mode)
        (lower.sum() + (2 * upper).sum()).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for on_windows, dense in zip(*gradients, strict=True):
        assert torch.allclose(on_windows, dense, rtol=1e-10, atol=1e-10 * float(dense.abs().max()))


def test_the_work_is_that_of_the_windows():
    model = nn.Sequential(conv(3, 4, padding=1), nn.ReLU(), conv(4, 4, 3, stride=2, padding=1), nn.ReLU(), conv(4, 2))
    x = torch.rand(1, 3, 40, 40)
    network = build_network(model, x, {})
    first, _, second, _, third = network.nodes[1:]
    found = ForwardBounds.identity(x, windows=True)
    sizes = []
    for layer in (first, second, third):
        found = layer.forward_linear(found, relaxations=None)
        sizes.append((found.windows.field.size, found.center.shape[1]))
    assert sizes == [((3, 3), 27), ((5, 5), 75), ((9, 9), 243)]


def test_relaxed_crown_keeps_the_bounds_of_hidden_layers_on_windows():
    convolutions = [conv(2, 3), conv(3, 4, stride=2), conv(4, 2), conv(2, 2, padding=1)]
    model = nn.Sequential(*(part for layer in convolutions for part in (layer, nn.ReLU()))).double()
    x = torch.rand(2, 2, 16, 17, dtype=torch.float64)
    network = build_network(model, x, {})
    problem = Problem(network, network.output, Region(x - 0.1, x + 0.1))
    kept = relaxed_crown_pre_activations(problem, 2)
    fields = [bounds.windows.field.size for bounds in kept.values()]
    assert fields == [(3, 3), (5, 5), (9, 9)]


@pytest.mark.parametrize("mode", ["patches", "matrix"])
@pytest.mark.parametrize("name", ["chain", "nested residuals", "concatenation", "average pools"])
def test_memory_is_counted_from_shapes(name, mode, monkeypatch):
    sizes = []
    model, x = seeded(NETWORKS[name]), torch.rand(2, 2, 10, 7, dtype=torch.float64)
    network = build_network(model, x, {})
    counted = forward_bytes(network.nodes, windows=mode == "patches", batch=2, itemsize=8)
    for node in network.nodes[1:]:
        monkeypatch.setattr(node, "forward_linear", watched(node.forward_linear, sizes))
    problem = Problem(network, network.output, Region(x - 0.1, x + 0.1), windows=mode == "patches")
    propagate_forward(problem, [*problem.pre_activations, network.output])
    # Input and output of one layer are always held together.
    assert max(sizes) <= counted <= 4 * max(sizes)


def watched(step, sizes):
    """The step of a layer, noting the bytes of the matrices that it reads and writes."""

    def run(*inputs, relaxations):
        result = step(*inputs, relaxations=relaxations)
        matrices = [matrix for b in (*inputs, result) for matrix in (b.center, b.radius) if matrix is not None]
        sizes.append(sum(matrix.numel() * matrix.itemsize for matrix in matrices))
        return result

    return run
