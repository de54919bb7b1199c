"""Networks from their settings."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lbp.errors import InvalidInputError
from lbp.models.architectures import Architecture, Block, Conv, find_architecture
from lbp.models.blocks import BasicBlock
from lbp.models.settings import ActivationName, ActivationSettings, ModelSettings, Normalization
from lbp.nn import LeakyReLU, ParamRamp


class Normalize(nn.Module):
    """Input normalisation `(x - mean) / std` per channel, as a part of the network.

    Args:
        mean, std: one number per channel.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1))
        self.register_buffer("scale", 1.0 / torch.tensor(list(std)).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises images [B, C, H, W]."""
        return (x - self.mean) * self.scale


def build(
    name: str | ModelSettings,
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    activation: ActivationName | ActivationSettings = "relu",
    *,
    eta: float = 0.0,
    r: float = 1.0,
    normalization: Normalization | None = None,
) -> nn.Sequential:
    """Builds a network with PyTorch's default random initialisation.

    Args:
        name: a name of `ARCHITECTURES` in any spelling, or complete `ModelSettings` (then nothing else is given).
        input_shape: (channels, height, width).
        num_classes: number of outputs.
        activation: "relu", "leaky-relu", "ramp" with `eta` and `r`, or complete settings.
        eta: slope left of 0 and, for the ramp, right of r.
        r: initial bending point of the ramp.
        normalization: channel means and standard deviations to apply to the input.

    Returns:
        a Sequential whose children are named `normalize`, `conv1`, `bn1`, `act1`, ..., `block2`, ..., `flatten`,
        `fc1`, ..., `output`. It maps [B, *input_shape] to [B, num_classes].

    Raises:
        InvalidInputError: unknown name, bad value, or an input too small for the convolutions.
    """
    if isinstance(name, ModelSettings):
        settings = name
    elif input_shape is None or num_classes is None:
        raise InvalidInputError(
            "lbp.models.build needs input_shape and num_classes beside the name of the architecture"
        )
    else:
        if not isinstance(activation, ActivationSettings):
            activation = ActivationSettings(name=activation, eta=eta, r=r)
        settings = ModelSettings(
            architecture=name,
            input_shape=input_shape,
            num_classes=num_classes,
            activation=activation,
            normalization=normalization,
        )
    return _sequential(settings, find_architecture(settings.architecture)[1])


def _sequential(settings: ModelSettings, architecture: Architecture) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if settings.normalization is not None:
        parts["normalize"] = Normalize(settings.normalization.mean, settings.normalization.std)
    shape: tuple[int, ...] = settings.input_shape
    convolutions = 0
    for number, layer in enumerate(architecture.layers, start=1):
        channels = shape[0]
        if isinstance(layer, Block):
            shape = _block_output(layer, shape)
            activations = partial(_activation, settings.activation, shape)
            parts[f"block{number}"] = BasicBlock(channels, layer.channels, layer.stride, activations)
            convolutions = number
            continue
        if isinstance(layer, Conv):
            parts[f"conv{number}"] = nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride, layer.padding)
            shape = _conv_output(layer, shape, f"conv{number} of {settings.architecture}", settings.input_shape)
            convolutions = number
            if architecture.batch_norm:
                parts[f"bn{number}"] = nn.BatchNorm2d(layer.channels)
        else:
            shape = _flatten(parts, shape)
            parts[f"fc{number - convolutions}"] = nn.Linear(shape[0], layer.features)
            shape = (layer.features,)
            if architecture.batch_norm:
                parts[f"bn{number}"] = nn.BatchNorm1d(layer.features)
        parts[f"act{number}"] = _activation(settings.activation, shape)
    shape = _flatten(parts, shape)
    parts["output"] = nn.Linear(shape[0], settings.num_classes)
    return nn.Sequential(parts)


def _conv_output(
    layer: Conv, shape: tuple[int, ...], where: str, input_shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    height, width = ((size + 2 * layer.padding - layer.kernel) // layer.stride + 1 for size in shape[1:])
    if height < 1 or width < 1:
        raise InvalidInputError(
            f"{where}: an input of shape {input_shape} is too small, {shape[1:]} is left for its kernel"
        )
    return layer.channels, height, width


def _block_output(layer: Block, shape: tuple[int, ...]) -> tuple[int, int, int]:
    height, width = ((size - 1) // layer.stride + 1 for size in shape[1:])
    return layer.channels, height, width


def _flatten(parts: OrderedDict[str, nn.Module], shape: tuple[int, ...]) -> tuple[int]:
    if len(shape) == 1:
        return (shape[0],)
    parts["flatten"] = nn.Flatten()
    return (shape[0] * shape[1] * shape[2],)


def _activation(settings: ActivationSettings, shape: tuple[int, ...]) -> nn.Module:
    match settings.name:
        case "relu":
            return nn.ReLU()
        case "leaky-relu":
            return LeakyReLU(settings.eta)
        case "ramp":
            return ParamRamp(shape, settings.eta, settings.r)
