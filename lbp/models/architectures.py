"""The table of network architectures (Lyu et al. 2021; CNN-7+BN and WideResNet: Shi et al. 2021)."""

import re
from dataclasses import dataclass

from lbp.errors import InvalidInputError


@dataclass(frozen=True)
class Conv:
    """A 2d convolution, followed by the activation: output channels, kernel size, stride, padding."""

    channels: int
    kernel: int
    stride: int
    padding: int


@dataclass(frozen=True)
class Block:
    """A residual block of two 3x3 convolutions: output channels, stride of the first."""

    channels: int
    stride: int


@dataclass(frozen=True)
class Linear:
    """A fully connected layer, followed by the activation."""

    features: int


@dataclass(frozen=True)
class Architecture:
    """Hidden layers of a network; a linear layer to the classes follows them.

    Attributes:
        layers: convolutions and residual blocks first, then fully connected layers.
        batch_norm: batch normalisation between every layer and its activation.
    """

    layers: tuple[Conv | Block | Linear, ...]
    batch_norm: bool = False


# The paddings of DM-Small and DM-Medium are those of the paper's code.
ARCHITECTURES: dict[str, Architecture] = {
    "DM-Small": Architecture((Conv(16, 4, 2, 2), Conv(32, 4, 1, 2), Linear(100))),
    "DM-Medium": Architecture(
        (Conv(32, 3, 1, 1), Conv(32, 4, 2, 2), Conv(64, 3, 1, 1), Conv(64, 4, 2, 2), Linear(512), Linear(512))
    ),
    "DM-Large": Architecture(
        (Conv(64, 3, 1, 1), Conv(64, 3, 1, 1), Conv(128, 3, 2, 1), Conv(128, 3, 1, 1), Conv(128, 3, 1, 1), Linear(512))
    ),
    "Small CIFAR": Architecture((Conv(64, 3, 1, 1), Conv(64, 3, 2, 1), Linear(512))),
    "Small MNIST": Architecture(
        (Conv(16, 3, 1, 1), Conv(16, 4, 2, 1), Conv(32, 3, 1, 1), Conv(32, 4, 2, 1), Linear(512), Linear(512))
    ),
    "CNN-7+BN": Architecture(
        (Conv(64, 3, 1, 1), Conv(64, 3, 1, 1), Conv(128, 3, 2, 1), Conv(128, 3, 1, 1), Conv(128, 3, 2, 1), Linear(512)),
        batch_norm=True,
    ),
    "WideResNet": Architecture(
        (Conv(16, 3, 1, 1), Block(160, 1), Block(320, 2), Block(640, 2), Linear(512)), batch_norm=True
    ),
}
"""Every architecture by its name in the literature."""


def find_architecture(name: str) -> tuple[str, Architecture]:
    """Finds an architecture by name; case, spaces and punctuation do not matter.

    Returns:
        the name as written in `ARCHITECTURES`, and the architecture.

    Raises:
        InvalidInputError: no architecture has this name.
    """
    key = _plain(name)
    for known, architecture in ARCHITECTURES.items():
        if key == _plain(known):
            return known, architecture
    raise InvalidInputError(f"unknown architecture {name!r}; choose one of {', '.join(ARCHITECTURES)}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
