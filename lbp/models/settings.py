"""What has to be known to build a network again: the settings that a checkpoint stores."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lbp.models.architectures import find_architecture
from lbp.settings import Settings

ActivationName = Literal["relu", "leaky-relu", "ramp"]
PositiveInt = Annotated[int, Field(gt=0)]


class ActivationSettings(Settings):
    """An activation and its initial settings.

    Attributes:
        name: "relu", "leaky-relu" or "ramp" (ParamRamp).
        eta: slope left of 0 and, for the ramp, right of r; in [0, 1]; 0 for ReLU.
        r: initial bending point of the ramp.
    """

    name: ActivationName = "relu"
    eta: float = Field(default=0.0, ge=0.0, le=1.0)
    r: float = Field(default=1.0, gt=0.0)

    @field_validator("name", mode="before")
    @classmethod
    def _spelling(cls, name: Any) -> Any:
        if not isinstance(name, str):
            return name
        plain = name.lower().replace("_", "-").replace(" ", "-")
        return {"leakyrelu": "leaky-relu", "paramramp": "ramp", "param-ramp": "ramp"}.get(plain, plain)

    @model_validator(mode="after")
    def _relu_has_no_slope(self) -> Self:
        if self.name == "relu" and self.eta != 0.0:
            raise ValueError(f"ReLU has no eta, got eta={self.eta}; choose leaky-relu or ramp")
        return self


class Normalization(Settings):
    """Channel means and standard deviations that the network applies to its input in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0.0)], ...]

    @model_validator(mode="after")
    def _same_channels(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"normalisation has {len(self.mean)} means and {len(self.std)} standard deviations")
        return self


class ModelSettings(Settings):
    """A network: architecture, shapes, activation and input normalisation.

    Attributes:
        architecture: a name of `lbp.models.ARCHITECTURES`, in any spelling; stored as written there.
        input_shape: (channels, height, width).
        num_classes: outputs of the last linear layer, at least 2.
        activation: used after every hidden layer.
        normalization: applied inside the network, so that its input region is in the data's own [0, 1] range.
    """

    architecture: str
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    num_classes: int = Field(ge=2)
    activation: ActivationSettings = ActivationSettings()
    normalization: Normalization | None = None

    @field_validator("architecture")
    @classmethod
    def _known(cls, name: str) -> str:
        return find_architecture(name)[0]

    @model_validator(mode="after")
    def _normalization_fits(self) -> Self:
        if self.normalization is not None and len(self.normalization.mean) != self.input_shape[0]:
            raise ValueError(
                f"normalisation has {len(self.normalization.mean)} channels, the input has {self.input_shape[0]}"
            )
        return self
