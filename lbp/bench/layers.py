"""The layers of the paper's networks, from which the ops' shapes are taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lbp.models import build

NETWORKS = {"DM-Small": (1, 28, 28), "DM-Medium": (1, 28, 28), "DM-Large": (3, 32, 32)}
"""Architectures and the images they see in the paper."""


@dataclass(frozen=True)
class AffineLayer:
    """A Linear or Conv2d layer at its place in a network, with random weights.

    Attributes:
        name: network and layer.
        module: the layer.
        input_shape, output_shape: without the batch dimension.
    """

    name: str
    module: nn.Linear | nn.Conv2d
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def is_output(self) -> bool:
        """Whether no activation follows."""
        return self.name.endswith(" output")


def affine_layers(network: str) -> list[AffineLayer]:
    """Returns the affine layers of an architecture in order."""
    image = NETWORKS[network]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(network, image, 10)
    layers: list[AffineLayer] = []

    def note(name: str, module: nn.Linear | nn.Conv2d, data: Tensor, output: Tensor) -> None:
        layers.append(AffineLayer(f"{network} {name}", module, tuple(data.shape[1:]), tuple(output.shape[1:])))

    value = torch.zeros(1, *image)
    with torch.no_grad():
        for name, module in model.named_children():
            output = module(value)
            if isinstance(module, nn.Linear | nn.Conv2d):
                note(name, module, value, output)
            value = output
    return layers
