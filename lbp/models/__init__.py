"""Networks of Lyu et al. 2021 by name, with any of the activations that the bounds know."""

from lbp.models.architectures import ARCHITECTURES, Architecture, Block, Conv, Linear, find_architecture
from lbp.models.blocks import BasicBlock, residual_successors
from lbp.models.build import Normalize, build
from lbp.models.settings import ActivationSettings, ModelSettings, Normalization

__all__ = [
    "ARCHITECTURES",
    "ActivationSettings",
    "Architecture",
    "BasicBlock",
    "Block",
    "Conv",
    "Linear",
    "ModelSettings",
    "Normalization",
    "Normalize",
    "build",
    "find_architecture",
    "residual_successors",
]
