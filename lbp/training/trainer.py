"""The training loop on data in memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lbp.bounded import BoundedModule
from lbp.data import Dataset
from lbp.errors import InvalidInputError, LbpError
from lbp.perturbations import PerturbationLpNorm
from lbp.training.losses import certified_loss
from lbp.training.schedules import eps_at, eta_at, kappa_at, learning_rate_at
from lbp.training.settings import TrainingSettings
from lbp.training.warm_up import end_warm_up, param_ramps, start_warm_up
from lbp.verification import margin_bounds


class TrainingDivergedError(LbpError, ArithmeticError):
    """The loss is NaN or infinite."""


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step.

    Attributes:
        epoch, step: counted from 0; steps run through the whole training.
        total_steps: of the whole training.
        examples: in the batch.
        loss: value of the loss.
        clean_errors: misclassified examples.
        verified_errors: examples that the training bounds do not verify; None while training naturally.
        eps: radius of the step.
    """

    epoch: int
    step: int
    total_steps: int
    examples: int
    loss: float
    clean_errors: int
    verified_errors: int | None
    eps: float


@dataclass(frozen=True)
class EpochRecord:
    """Means over one epoch; errors are shares, measured while training.

    Attributes:
        epoch: counted from 0.
        loss: mean loss.
        clean_error: share misclassified.
        verified_error: share not verified at the radius of its step; None while training naturally.
        eps: radius of the last step.
        seconds: wall-clock time.
    """

    epoch: int
    loss: float
    clean_error: float
    verified_error: float | None
    eps: float
    seconds: float


def train(
    model: nn.Module,
    data: Dataset,
    settings: TrainingSettings,
    on_step: Callable[[StepRecord], None] | None = None,
) -> list[EpochRecord]:
    """Trains a network in place.

    ParamRamps act as LeakyReLU(eta) during the warm-up; at its end r becomes every neuron's mean post-activation over
    `data`, and is trained from then on by the same optimizer. The order of batches depends on `settings.seed` alone.

    Args:
        model: network from images [B, C, H, W] to logits; in training mode afterwards until the caller changes it.
        data: training set, on the model's device.
        settings: the schedule.
        on_step: called after every step, for progress displays.

    Returns:
        one record per epoch.

    Raises:
        InvalidInputError: empty data.
        TrainingDivergedError: the loss became NaN or infinite; names epoch and step.
    """
    if len(data) == 0:
        raise InvalidInputError("training needs data, the data set is empty")
    generator = torch.Generator().manual_seed(settings.seed)
    steps_per_epoch = -(-len(data) // settings.batch_size)
    bounded = BoundedModule(model, data.images[:1])
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    if settings.warm_up_epochs > 0:
        start_warm_up(model)
    model.train()

    records = []
    for epoch in range(settings.epochs):
        started = time.perf_counter()
        if epoch == settings.warm_up_epochs > 0:
            end_warm_up(model, data.images)
        _set_eta(model, eta_at(settings, epoch))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(settings, epoch)
        order = torch.randperm(len(data), generator=generator).to(data.images.device)
        steps = []
        for index, chosen in enumerate(order.split(settings.batch_size)):
            step = epoch * steps_per_epoch + index
            record = _step(
                bounded, optimizer, data.images[chosen], data.labels[chosen], data.num_classes, settings,
                epoch=epoch, step=step, steps_per_epoch=steps_per_epoch,
            )  # fmt: skip
            steps.append(record)
            if on_step is not None:
                on_step(record)
        records.append(_summary(epoch, steps, time.perf_counter() - started))
    return records


def _step(
    bounded: BoundedModule,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    settings: TrainingSettings,
    *,
    epoch: int,
    step: int,
    steps_per_epoch: int,
) -> StepRecord:
    # Every step uses the radius that the schedule reaches at its end, so that the ramp has no step of radius 0.
    certified = settings.loss == "ibp" and epoch >= settings.warm_up_epochs
    eps = eps_at(settings, (step + 1) / steps_per_epoch) if certified else 0.0
    optimizer.zero_grad(set_to_none=True)
    logits = bounded(images)
    verified_errors = None
    if certified:
        ball = PerturbationLpNorm(eps=eps, clip=settings.clip)
        lower = margin_bounds(bounded, images, labels, num_classes=num_classes, perturbation=ball, method="IBP")
        loss = certified_loss(logits, labels, lower, kappa_at(settings, eps))
        verified_errors = len(labels) - int((lower > 0).all(dim=1).sum())
    else:
        loss = F.cross_entropy(logits, labels)
    value = loss.item()
    record = StepRecord(
        epoch, step, steps_per_epoch * settings.epochs, len(labels), value,
        int((logits.argmax(1) != labels).sum()), verified_errors, eps,
    )  # fmt: skip
    if not torch.isfinite(loss):
        raise TrainingDivergedError(
            f"the loss is {value} in epoch {epoch}, step {step} (eps {eps:g}, learning rate "
            f"{optimizer.param_groups[0]['lr']:g}); try a smaller learning rate or a longer ramp of eps"
        )
    loss.backward()
    optimizer.step()
    return record


def _set_eta(model: nn.Module, eta: float) -> None:
    for _, module in param_ramps(model):
        module.set_eta(eta)


def _summary(epoch: int, steps: list[StepRecord], seconds: float) -> EpochRecord:
    examples = sum(record.examples for record in steps)
    counts = [record.verified_errors for record in steps]
    return EpochRecord(
        epoch=epoch,
        loss=sum(record.loss * record.examples for record in steps) / examples,
        clean_error=sum(record.clean_errors for record in steps) / examples,
        verified_error=None if None in counts else sum(count or 0 for count in counts) / examples,
        eps=steps[-1].eps,
        seconds=seconds,
    )
