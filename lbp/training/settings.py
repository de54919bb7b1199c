"""Settings of a training run."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from lbp.settings import Settings, parse_number

Epochs = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class TrainingSettings(Settings):
    """How to train; epochs count from 0, defaults follow Lyu et al. 2021 where they state a value.

    Attributes:
        loss: "ibp" trains on interval bounds, "natural" on the clean cross-entropy alone.
        eps: final l_inf radius, in the data's own units; a text may hold a quotient such as "8/255".
        clip: valid range of the data; the input region is intersected with it.
        epochs, batch_size: length of the training.
        lr, lr_milestones, lr_factor: Adam's learning rate, multiplied by the factor at the start of these epochs.
        warm_up_epochs: epochs of clean training; ParamRamp acts as LeakyReLU(eta) meanwhile.
        ramp_epochs: epochs over which eps then grows linearly from 0, batch by batch.
        kappa_start, kappa_end: weight of the clean loss at eps 0 and at full eps.
        eta_start, eta_end: outer slope of ParamRamp; kept for `eta_keep_epochs`, then falling for `eta_fall_epochs`.
        seed: of the initial weights and of the order of the batches.
    """

    loss: Literal["ibp", "natural"] = "ibp"
    eps: float = Field(ge=0.0)
    clip: tuple[float, float] | None = (0.0, 1.0)
    epochs: int = Field(gt=0)
    batch_size: int = Field(default=256, gt=0)
    lr: float = Field(default=5e-4, gt=0.0)
    lr_milestones: tuple[Epochs, ...] = ()
    lr_factor: float = Field(default=0.1, gt=0.0, le=1.0)
    warm_up_epochs: Epochs = 0
    ramp_epochs: Epochs = 0
    kappa_start: Share = 1.0
    kappa_end: Share = 0.5
    eta_start: Share = 0.01
    eta_end: Share = 0.0
    eta_keep_epochs: Epochs = 0
    eta_fall_epochs: Epochs = 0
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("eps", mode="before")
    @classmethod
    def _quotient(cls, value: object) -> object:
        return parse_number(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip must be (low, high) with low < high, got {self.clip}")
        if self.warm_up_epochs + self.ramp_epochs > self.epochs:
            raise ValueError(
                f"the warm-up ({self.warm_up_epochs}) and the ramp of eps ({self.ramp_epochs}) take more than the "
                f"{self.epochs} epochs"
            )
        return self
