"""Settings of a training run."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from lbp.settings import Settings, parse_number

Epochs = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Shape = Literal["linear", "smoothed"]


class Augmentation(Settings):
    """Random changes of the training images, drawn anew for every image and epoch.

    Attributes:
        flip: mirror half of the images left to right.
        padding: zeros around an image before a window of the network's input size is cut out at a random place.
    """

    flip: bool = False
    padding: int = Field(default=0, ge=0)


class TrainingSettings(Settings):
    """How to train; epochs count from 0, defaults follow Lyu et al. 2021 where they state a value.

    Attributes:
        loss: "ibp" trains on interval bounds, "crown-ibp" on a mixture of them and CROWN-IBP, "natural" on the clean
            cross-entropy alone.
        fusion: bound the loss itself, by one row, instead of every margin (Xu et al. 2020); for many classes.
        eps: final l_inf radius, in the data's own units; a text may hold a quotient such as "8/255".
        clip: valid range of the data; the input region is intersected with it. None: the whole ball.
        epochs, batch_size: length of the training; the batch size is that of all processes together.
        lr, lr_milestones, lr_factor: Adam's learning rate, multiplied by the factor at the start of these epochs.
        gradient_clip: largest l_2 norm of the gradient of all parameters; None leaves it as it is.
        warm_up_epochs: epochs of clean training; ParamRamp acts as LeakyReLU(eta) meanwhile.
        ramp_epochs, eps_shape: epochs over which eps then grows from 0, batch by batch.
        kappa_start, kappa_end: weight of the clean loss at eps 0 and at full eps.
        beta_start, beta_end: weight of the CROWN-IBP bounds, for "crown-ibp"; it follows eps.
        eta_start, eta_end, eta_shape: outer slope of ParamRamp and LeakyReLU; kept for `eta_keep_epochs`, then falling
            for `eta_fall_epochs`, batch by batch. Without `eta_start` the slope stays what it is, without `eta_end` at
            `eta_start`.
        r_noise: standard deviation of the noise on r, as a share of the layer's mean r; drawn once per step.
        initialization: of the weights, "default" (PyTorch's) or "ibp" (Shi et al. 2021).
        regularization: weight of the warm-up regularisers at eps 0, falling to 0 at full eps (Shi et al. 2021).
        regularization_tolerance: what they tolerate.
        augmentation: of the training images.
        selection: which epoch's network is kept, among those after the warm-up that are at full eps and at `eta_end`:
            the one with the smallest IBP-verified error on a "validation" split of the training set, on the "test" set
            (as the paper does), or the "last". Of equal ones the one with the smaller clean error is kept, and then the
            later one.
        validation_share: share of the training set held out for "validation".
        seed: of the initial weights, of the split, and of everything drawn in training.
    """

    loss: Literal["ibp", "crown-ibp", "natural"] = "ibp"
    fusion: bool = False
    eps: float = Field(ge=0.0)
    clip: tuple[float, float] | None = (0.0, 1.0)
    epochs: int = Field(gt=0)
    batch_size: int = Field(default=256, gt=0)
    lr: float = Field(default=5e-4, gt=0.0)
    lr_milestones: tuple[Epochs, ...] = ()
    lr_factor: float = Field(default=0.1, gt=0.0, le=1.0)
    gradient_clip: float | None = Field(default=None, gt=0.0)
    warm_up_epochs: Epochs = 0
    ramp_epochs: Epochs = 0
    eps_shape: Shape = "linear"
    kappa_start: Share = 1.0
    kappa_end: Share = 0.5
    beta_start: Share = 1.0
    beta_end: Share = 0.0
    eta_start: Share | None = None
    eta_end: Share | None = None
    eta_shape: Shape = "smoothed"
    eta_keep_epochs: Epochs = 0
    eta_fall_epochs: Epochs = 0
    r_noise: float = Field(default=0.0, ge=0.0)
    initialization: Literal["default", "ibp"] = "default"
    regularization: float = Field(default=0.0, ge=0.0)
    regularization_tolerance: float = Field(default=0.5, gt=0.0)
    augmentation: Augmentation = Augmentation()
    selection: Literal["validation", "test", "last"] = "validation"
    validation_share: float = Field(default=0.1, gt=0.0, lt=1.0)
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
        if self.eta_end is not None and self.eta_start is None:
            raise ValueError(f"eta_end = {self.eta_end} needs eta_start")
        falling = self.eta_end is not None and self.eta_end != self.eta_start
        if falling and self.eta_keep_epochs + self.eta_fall_epochs >= self.epochs:
            raise ValueError(
                f"eta is kept ({self.eta_keep_epochs}) and falls ({self.eta_fall_epochs}) for all of the {self.epochs} "
                "epochs or longer: it would not reach eta_end in training"
            )
        return self
