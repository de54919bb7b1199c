"""Initial weights for training on interval bounds (Shi et al. 2021)."""

import math

import torch
from torch import nn

from lbp.models import residual_successors


@torch.no_grad()
def initialize_for_ibp(model: nn.Module) -> None:
    """Draws weights with which the width of intervals neither grows nor shrinks from layer to layer, in place.

    Every Linear and Conv2d but the last layer: N(0, std), std = sqrt(2 pi) / fan_in; weights that follow a residual
    addition are halved, as the two intervals that meet there add up. Biases and the last layer stay as they are.

    Args:
        model: its layers in the order in which they are applied; the last one gives the logits.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    halved = residual_successors(model)
    for layer in layers[:-1]:
        fan_in = layer.weight[0].numel()
        layer.weight.normal_(0.0, math.sqrt(2 * math.pi) / fan_in)
        if layer in halved:
            layer.weight.mul_(0.5)
