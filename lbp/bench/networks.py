"""The networks of the methods' measurements, with random weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

import lbp.nn
from lbp.models import build

Activation = Literal["ReLU", "ParamRamp"]

R, ETA = 1.0, 0.01
"""Bending point and outer slope of ParamRamp in all measurements."""


@dataclass(frozen=True)
class Network:
    """A network by name, or a chain of convolutions by its sizes.

    Attributes:
        name: of `NETWORKS`, or "chain".
        activation: after every hidden layer.
        image: channels, height and width.
        width: channels of a chain's convolutions.
        depth: convolutions of a chain.
    """

    name: str
    activation: Activation
    image: tuple[int, int, int]
    width: int = 0
    depth: int = 0

    @property
    def eps(self) -> float:
        """Radius of the region: the paper's for images of that kind."""
        return 0.1 if self.image[0] == 1 else 8 / 255

    def model(self) -> nn.Module:
        """Returns the network in evaluation mode; He's weights, the same in every process."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _MAKERS.get(self.name, _architecture)(self)
            for module in model.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)
            return model.eval()

    def images(self, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns random images [batch, *image] in [0, 1] and labels."""
        generator = torch.Generator().manual_seed(1)
        images = torch.rand(batch, *self.image, generator=generator)
        return images.to(device), (torch.arange(batch) % 10).to(device)


NETWORKS = {
    "DM-Small": (1, 28, 28),
    "DM-Medium": (1, 28, 28),
    "DM-Large": (3, 32, 32),
    "Small MNIST": (1, 28, 28),
    "Small MNIST 8x8": (1, 8, 8),
    "ResNet": (3, 32, 32),
    "CNN-7+BN": (3, 32, 32),
}
"""Networks of the methods' grid and the images they see."""


def named(name: str, activation: Activation) -> Network:
    """Returns a network of the grid."""
    return Network(name, activation, NETWORKS[name])


def neurons(network: Network) -> int:
    """Returns the number of hidden neurons."""
    count = 0
    model = network.model()

    def add(_: nn.Module, __: object, output: Tensor) -> None:
        nonlocal count
        count += output[0].numel()

    for module in model.modules():
        if isinstance(module, nn.ReLU | lbp.nn.ParamRamp):
            module.register_forward_hook(add)
    with torch.no_grad():
        model(torch.zeros(1, *network.image))
    return count


def _architecture(network: Network) -> nn.Module:
    activation: Literal["relu", "ramp"] = "relu" if network.activation == "ReLU" else "ramp"
    eta = 0.0 if network.activation == "ReLU" else ETA
    return build(network.name.removesuffix(" 8x8"), network.image, 10, activation, eta=eta, r=R)


def _activation(network: Network, *shape: int) -> nn.Module:
    return nn.ReLU() if network.activation == "ReLU" else lbp.nn.ParamRamp(shape, eta=ETA, r=R)


class _Block(nn.Module):
    """Two convolutions around a shortcut, which is a convolution where the size changes."""

    def __init__(self, network: Network, inputs: int, outputs: int, stride: int, size: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.between = _activation(network, outputs, size, size)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)
        self.after = _activation(network, outputs, size, size)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.after(self.second(self.between(self.first(x))) + self.shortcut(x))
        return result


def residual_network(network: Network, stem: int, blocks: Sequence[tuple[int, int]]) -> nn.Module:
    """Returns a strided convolution, residual blocks and two linear layers, as the residual networks of VNN-COMP are.

    Args:
        network: whose activation and images it has.
        stem: channels of the convolution.
        blocks: channels and stride of every block.
    """
    channels, size = stem, -(-network.image[1] // 2)
    layers: list[nn.Module] = [nn.Conv2d(network.image[0], stem, 3, 2, 1), _activation(network, stem, size, size)]
    for outputs, stride in blocks:
        size = -(-size // stride)
        layers.append(_Block(network, channels, outputs, stride, size))
        channels = outputs
    hidden = [nn.Flatten(), nn.Linear(channels * size**2, 100), _activation(network, 100)]
    return nn.Sequential(*layers, *hidden, nn.Linear(100, 10))


def _chain(network: Network) -> nn.Module:
    channels, height, width = network.image
    layers: list[nn.Module] = []
    for _ in range(network.depth):
        layers += [nn.Conv2d(channels, network.width, 3, 1, 1), _activation(network, network.width, height, width)]
        channels = network.width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(math.prod((channels, height, width)), 10))


def _resnet(network: Network) -> nn.Module:
    return residual_network(network, 8, ((16, 2), (16, 1)))


_MAKERS = {"ResNet": _resnet, "chain": _chain}
