"""What a network answers at points, where a verdict is claimed from it."""

import torch
from torch import Tensor, nn

from lbp.precision import full_precision


def answers(network: nn.Module, points: Tensor) -> Tensor:
    """The outputs of a network at points, without a gradient, in the precision of its dtype.

    Clean predictions and counterexamples are claimed from these, so that they speak of the same network as bounds do:
    TF32, bfloat16, autocast and the algorithms of cuDNN are off, whatever the switches say (`lbp.precision`). The steps
    of an attack are not taken here: they claim nothing, and leave convolutions as fast as the switches allow.
    """
    with full_precision(), torch.no_grad():
        output: Tensor = network(points)
    return output
