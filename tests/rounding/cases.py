"""Weights, regions and networks on which rounding shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from rounding.exact import Beside, Exact, Residual, ScaleShift, value
from torch import Tensor, nn

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.nn import ParamRamp
from lbp.perturbations import PerturbationLpNorm

KINDS = ("gaussian", "cancelling", "ratios", "subnormal", "large")
METHODS = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "Relaxed-CROWN-1", "Relaxed-CROWN-2", "CROWN")


def generator(seed: int) -> torch.Generator:
    """A generator of its own for every test."""
    return torch.Generator().manual_seed(seed)


def numbers(kind: str, *shape: int, seed: int = 0) -> Tensor:
    """float32 numbers that make sums hard: terms that cancel, of very different sizes, below the normal range."""
    source = generator(seed)
    values = torch.randn(*shape, generator=source)
    if kind == "cancelling":
        half = (shape[-1] + 1) // 2
        nudge = 1 + torch.randint(-3, 4, values[..., half:].shape, generator=source) * torch.finfo(values.dtype).eps
        values[..., half:] = -values[..., : shape[-1] - half] * nudge
    elif kind == "ratios":
        values *= 2.0 ** torch.randint(-40, 41, shape, generator=source)
    elif kind == "subnormal":
        values *= 2.0**-130
    elif kind == "large":
        values *= 2.0**60
    return values


def fill(model: nn.Module, kind: str, seed: int = 0) -> nn.Module:
    """Give the layers of a model weights of a kind."""
    with torch.no_grad():
        for i, layer in enumerate(m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)):
            layer.weight.copy_(numbers(kind, *layer.weight.shape, seed=seed + 2 * i))
            if layer.bias is not None:
                layer.bias.copy_(numbers(kind, *layer.bias.shape, seed=seed + 2 * i + 1))
    return model.eval()


def box(batch: int, *shape: int, seed: int = 0, width: float = 0.25) -> tuple[Tensor, Tensor]:
    """Boxes [B, *shape], some of their sides a single point."""
    source = generator(seed)
    center = torch.randn(batch, *shape, generator=source)
    radius = torch.rand(batch, *shape, generator=source) * width
    radius *= torch.rand(batch, *shape, generator=source) < 0.8
    return center - radius, center + radius


def bounds(model: nn.Module, lower: Tensor, upper: Tensor, *, options: dict | None = None, **keywords) -> tuple:
    """Bounds [B, S] of a model over boxes."""
    net = BoundedModule(model, lower, bound_opts=options)
    region = BoundedTensor(lower, PerturbationLpNorm(x_L=lower, x_U=upper))
    with torch.no_grad():
        return net.compute_bounds(x=(region,), **keywords)


@contextmanager
def flushed_subnormals() -> Iterator[None]:
    """Flush numbers below the normal range to zero; those that are to meet this must exist before."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush numbers below the normal range to zero")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def conv_network(activation: nn.Module) -> nn.Sequential:
    """Convolutions with strides, groups and a dilation, an average over windows of three, a residual sum, an image."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        activation,
        Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 1))),
        nn.ReLU(),
        nn.AvgPool2d(3, 1),
        nn.Conv2d(4, 3, 2, stride=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def pooled_network() -> nn.Sequential:
    """Batch normalisation merged and on its own, max pooling, scaling, concatenation."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.MaxPool2d(2, 2),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        Beside(
            ScaleShift(numbers("gaussian", 3, 1, 1, seed=5), numbers("gaussian", 3, 3, 3, seed=6)), nn.Conv2d(3, 2, 1)
        ),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(45, 3),
    )
    for layer in (model[1], model[3]):
        layer.running_mean.copy_(torch.tensor([-0.3, 0.1, 0.4]))
        layer.running_var.copy_(torch.tensor([0.7, 1.3, 2.1]))
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([-0.9, 0.3, 1.7]))
            layer.bias.copy_(torch.tensor([0.2, -0.1, 0.05]))
    return model


def dense_network(width: int = 8) -> nn.Sequential:
    """A chain with a ParamRamp whose bending points matter, and a leaky one."""
    ramp = ParamRamp((width,), eta=0.1, r=torch.linspace(0.1, 3.0, width))
    return nn.Sequential(nn.Linear(6, width), ramp, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


NETWORKS = {
    "dense": (dense_network, (6,)),
    "conv": (lambda: conv_network(nn.ReLU()), (2, 6, 6)),
    "ramp conv": (
        lambda: conv_network(ParamRamp((4, 1, 1), eta=0.05, r=torch.tensor([0.3, 1.0, 2.0, 4.0]).reshape(4, 1, 1))),
        (2, 6, 6),
    ),
    "pooled": (pooled_network, (2, 6, 6)),
}


def points(model: nn.Module, lower: Tensor, upper: Tensor, *, random: int, seed: int = 0) -> list[Tensor]:
    """Points of boxes [B, *shape], each [B, *shape]: random ones, and corners at which an output is nearly extreme."""
    source = generator(seed)
    found = []
    for i in range(random):
        share = torch.rand(lower.shape, generator=source)
        share = share.round() if i % 2 else share
        found.append(torch.minimum(torch.maximum(lower + share * (upper - lower), lower), upper))
    center = ((lower + upper) / 2).requires_grad_()
    for output in model(center).flatten(1).unbind(1):
        (slope,) = torch.autograd.grad(output.sum(), center, retain_graph=True)
        found += [torch.where(slope >= 0, lower, upper), torch.where(slope >= 0, upper, lower)]
    return found


@dataclass(frozen=True)
class Case:
    """A network, boxes, and exact values [B, S] of the network at points of them."""

    model: nn.Module
    lower: Tensor
    upper: Tensor
    reached: tuple[Exact, ...]

    def bounds(self, **keywords: Any) -> tuple[Tensor, Tensor]:
        """Bounds [B, S] of the network over the boxes."""
        return bounds(self.model, self.lower, self.upper, **keywords)


@cache
def case(name: str, kind: str = "gaussian", *, seed: int = 0, width: float = 0.25) -> Case:
    """A network by name, with weights of a kind, over two boxes of a width; the same object for the same arguments."""
    build, shape = NETWORKS[name]
    model, (lower, upper) = fill(build(), kind, seed), box(2, *shape, seed=seed, width=width)
    chosen = points(model, lower, upper, random=3, seed=seed)
    return Case(model, lower, upper, tuple(value(model, Exact.of(point)) for point in chosen))
