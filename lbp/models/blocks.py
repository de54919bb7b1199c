"""Residual blocks (He et al. 2016; Zagoruyko and Komodakis 2016)."""

from collections.abc import Callable

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to the input, with an activation after each.

    Where the shape changes, a 1x1 convolution with batch normalisation takes the input to the new shape.

    Args:
        channels_in, channels: before and after the block.
        stride: of the first convolution.
        activations: makes the two activations.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, activations: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = activations()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride), nn.BatchNorm2d(channels))
        self.act2 = activations()

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block to images [B, channels_in, H, W]."""
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        result: Tensor = self.act2(y + self.shortcut(x))
        return result


def residual_successors(model: nn.Module) -> set[nn.Module]:
    """Linear and Conv2d layers whose input is the sum of a residual block, at most with an activation between."""
    found: set[nn.Module] = set()
    after_sum = False
    for part in model.children():
        if isinstance(part, BasicBlock):
            if after_sum:
                found.add(part.conv1)
                found.update(layer for layer in part.shortcut.modules() if isinstance(layer, nn.Conv2d))
            after_sum = True
        elif isinstance(part, nn.Linear | nn.Conv2d):
            if after_sum:
                found.add(part)
            after_sum = False
    return found
