"""The training loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from lbp.data import Dataset
from lbp.errors import InvalidInputError
from lbp.nn import GlobalBatchNorm
from lbp.precision import free_convolutions, full_precision
from lbp.training.batches import Batches, EpochPlan
from lbp.training.distributed import World
from lbp.training.divergence import TrainingDivergedError, locate
from lbp.training.objective import Parts
from lbp.training.readback import Readback
from lbp.training.records import EpochRecord, StepRecord, summarize
from lbp.training.schedules import candidates_from, controls_at
from lbp.training.selection import Choice, held_out_errors, rank_of, snapshot
from lbp.training.settings import TrainingSettings
from lbp.training.step import TrainingStep
from lbp.training.warm_up import end_warm_up, param_ramps, start_warm_up

OnStep = Callable[[StepRecord], None]


@dataclass
class Progress:
    """How far a training is, beside the network and the optimizer.

    Attributes:
        history: one record per finished epoch.
        choice: the network chosen so far; None before the first candidate, and where the last one is kept.
    """

    history: list[EpochRecord] = field(default_factory=list)
    choice: Choice | None = None

    @property
    def epoch(self) -> int:
        """The next epoch."""
        return len(self.history)


class Trainer:
    """A training, epoch by epoch.

    ParamRamps act as LeakyReLU(eta) during the warm-up; at its end r becomes every neuron's mean post-activation over
    the training set, and is trained from then on by the same optimizer.

    Args:
        model: network from images [B, C, H, W] to logits, on the world's device; in training mode afterwards until the
            caller changes it.
        data: training set, of images at least as large as the network's input.
        settings: the schedule.
        held_out: examples that choose the network among the epochs; None keeps the last one.
        input_size: (height, width) that the network takes; that of the images by default.
        world: the processes that train together.
        capture: whether steps become CUDA graphs, where one process trains on a GPU.

    Attributes:
        model, step: the network, and what updates it.
        progress: how far the training is.

    Raises:
        InvalidInputError: another kind of object, a model without a parameter to train or with a warm-up that would
            never end, or a last batch too small for the network or the number of processes; of either data set: no
            examples, labels that are not one class per image, images that are not [N, C, H, W], of another type than
            the weights, with NaN or infinity, or outside of `settings.clip`.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        settings: TrainingSettings,
        *,
        held_out: Dataset | None = None,
        input_size: tuple[int, int] | None = None,
        world: World | None = None,
        capture: bool = True,
    ) -> None:
        _check_kinds(model, data, settings, held_out)
        self._world = world or World(device=data.images.device)
        self._settings = settings
        _check(model, data, settings, self._world)
        if held_out is not None:
            _check_held_out(model, held_out, data, settings)
        height, width = input_size or data.images.shape[2:]
        self._clean = data.cropped(height, width)
        self._held_out = None if held_out is None else self._world.share_of(held_out.cropped(height, width))
        self._batches = Batches(
            data, (height, width), settings.augmentation, settings.batch_size, settings.seed, self._world.device
        )
        self._total_steps = self._batches.steps_per_epoch * settings.epochs
        self.model = model.train()
        if settings.warm_up_epochs > 0:
            start_warm_up(model)
        else:
            _check_warm_up_is_over(model)
        example = self._clean.images[:1].to(self._world.device)
        self.step = TrainingStep(model, example, data.num_classes, settings, self._world, capture=capture)
        self.progress = Progress()

    def run_epoch(self, on_step: OnStep | None = None) -> EpochRecord:
        """Trains one epoch.

        Args:
            on_step: called with the record of every step, in order; on a GPU a few steps late.

        Raises:
            InvalidInputError: called where PyTorch keeps no gradients.
            TrainingDivergedError: the loss or its gradient became NaN or infinite; names epoch, step and layer.
        """
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            raise InvalidInputError("training needs gradients: leave torch.no_grad() and torch.inference_mode()")
        started = time.perf_counter()
        epoch, settings, per_epoch = self.progress.epoch, self._settings, self._batches.steps_per_epoch
        first = epoch * per_epoch
        if epoch == settings.warm_up_epochs > 0:
            end_warm_up(self.model, self._clean.images, world=self._world)
            self.step.start_phase()
        self.model.train()
        plan = self._batches.plan(epoch)
        records: list[StepRecord] = []

        def deliver(step: int, values: list[float]) -> None:
            record = self._record(step, values, plan)
            records.append(record)
            if on_step is not None:
                on_step(record)

        readback = Readback(deliver)
        for step in range(first, first + per_epoch):
            controls = controls_at(settings, step, per_epoch)
            images, labels = self._batches.batch(plan, step - first)
            readback.add(step, self.step(images, labels, controls, step))
        readback.finish()
        errors = self._choose(epoch)
        record = summarize(records, time.perf_counter() - started, errors)
        self.progress.history.append(record)
        return record

    def _choose(self, epoch: int) -> tuple[float, float] | None:
        """Measure the network on the held-out set, and keep it if none before was better."""
        if self._held_out is None or epoch < candidates_from(self._settings):
            return None
        errors = held_out_errors(self.step.objective.bounded, self.model, self._held_out, self._settings, self._world)
        rank, choice = rank_of(self._settings, errors), self.progress.choice
        # Of networks that are equal in both errors the one that was trained longer is kept, as in the paper's code.
        if choice is None or rank <= choice.rank:
            self.progress.choice = Choice(epoch, rank, snapshot(self.model))
        return errors

    def _record(self, step: int, values: list[float], plan: EpochPlan) -> StepRecord:
        loss, wrong, unverified, failed = values
        per_epoch = self._batches.steps_per_epoch
        controls = controls_at(self._settings, step, per_epoch)
        if failed:
            raise TrainingDivergedError(self._explain(step, loss, plan))
        index = step % per_epoch
        examples = min(self._batches.batch_size, len(self._batches) - index * self._batches.batch_size)
        return StepRecord(
            step // per_epoch, step, self._total_steps, examples, loss / examples, round(wrong),
            round(unverified) if controls.certified else None, controls.eps,
        )  # fmt: skip

    def _explain(self, step: int, loss: float, plan: EpochPlan) -> str:
        per_epoch = self._batches.steps_per_epoch
        controls = controls_at(self._settings, step, per_epoch)
        what = (
            f"the loss is {loss}"
            if not torch.isfinite(torch.tensor(loss, device="cpu"))
            else "the gradient is not finite"
        )
        # Every process runs the whole batch again, so that all of them find the same.
        images, labels = self._batches.batch(plan, step % per_epoch)
        values = (controls.eps, controls.kappa, controls.beta, controls.regularization)
        weights = torch.tensor(values, device=images.device)
        with free_convolutions(), full_precision():
            where = locate(self.step.objective, images, labels, weights, Parts.of(controls))
        return (
            f"{what} in epoch {step // per_epoch}, step {step}: {where} (eps {controls.eps:g}, learning rate "
            f"{controls.lr:g}); try a smaller learning rate, gradient_clip or a longer ramp of eps"
        )


def train(
    model: nn.Module,
    data: Dataset,
    settings: TrainingSettings,
    on_step: OnStep | None = None,
    *,
    held_out: Dataset | None = None,
) -> list[EpochRecord]:
    """Trains a network in place, for all epochs of its settings, on the device of the data.

    Args:
        model: network from images [B, C, H, W] to logits; in training mode afterwards until the caller changes it.
        data: training set, on the model's device.
        settings: the schedule.
        on_step: called after every step, for progress displays.
        held_out: examples that choose among the epochs; the model is left as it was after the chosen one. By default,
            whatever the settings' selection, it is left as it is after the last.

    Returns:
        one record per epoch.

    Raises:
        InvalidInputError, TrainingDivergedError: as `Trainer`.
    """
    trainer = Trainer(model, data, settings, held_out=held_out)
    while trainer.progress.epoch < settings.epochs:
        trainer.run_epoch(on_step)
    if trainer.progress.choice is not None:
        model.load_state_dict(trainer.progress.choice.state)
    return trainer.progress.history


def _check_kinds(model: object, data: object, settings: object, held_out: object) -> None:
    """Refuses what cannot be trained or trained on, such as a DataLoader: batches are drawn here, from the seed."""
    wanted = [("model", model, nn.Module), ("data", data, Dataset), ("settings", settings, TrainingSettings)]
    if held_out is not None:
        wanted.append(("held_out", held_out, Dataset))
    for name, value, kind in wanted:
        if not isinstance(value, kind):
            raise InvalidInputError(f"{name} must be a {kind.__module__}.{kind.__name__}, got {type(value).__name__}")


def _check_warm_up_is_over(model: nn.Module) -> None:
    """Refuses activations that would act as LeakyReLU to the end."""
    for name, module in param_ramps(model):
        if module.warm_up:
            raise InvalidInputError(
                f"{name} is a ParamRamp in its warm-up, which warm_up_epochs = 0 never ends: set warm_up_epochs, or "
                "call its end_warm_up(r)"
            )


def _check(model: nn.Module, data: Dataset, settings: TrainingSettings, world: World) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InvalidInputError("the model has no parameter to train: none at all, or none that requires a gradient")
    _check_labels(data, "training")
    _check_images(model, data, settings, "training", settings.augmentation.padding)
    last = len(data) % settings.batch_size or settings.batch_size
    needed = world.size
    if any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | GlobalBatchNorm) for module in model.modules()):
        needed = max(2, world.size)
    if last < needed:
        raise InvalidInputError(
            f"the last batch of an epoch has {last} of {len(data)} examples; batch normalisation and "
            f"{world.size} processes need at least {needed}: change batch_size or the number of examples"
        )


def _check_labels(data: Dataset, use: str) -> None:
    images, labels = data.images, data.labels
    if labels.numel() == 0 or len(images) == 0:
        raise InvalidInputError(f"{use} needs data, the data set {data.name} is empty")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise InvalidInputError(
            f"{data.name}: labels must be int64 of shape [{len(images)}], one per image, got {labels.dtype} of shape "
            f"{list(labels.shape)}"
        )
    lowest, highest = (int(end) for end in torch.aminmax(labels))
    if lowest < 0 or highest >= data.num_classes:
        raise InvalidInputError(
            f"{data.name}: labels run from {lowest} to {highest}, expected 0 to {data.num_classes - 1}"
        )


def _check_held_out(model: nn.Module, held_out: Dataset, data: Dataset, settings: TrainingSettings) -> None:
    """Refuses what the first measurement would fail on, many epochs later."""
    _check_labels(held_out, "choosing among the epochs")
    _check_images(model, held_out, settings, "held-out", padding=0)
    if held_out.num_classes != data.num_classes or held_out.images.shape[1] != data.images.shape[1]:
        raise InvalidInputError(
            f"the held-out images have {held_out.num_classes} classes and {held_out.images.shape[1]} channels, those "
            f"of the training {data.num_classes} and {data.images.shape[1]}"
        )


def _check_images(model: nn.Module, data: Dataset, settings: TrainingSettings, use: str, padding: int) -> None:
    if data.images.dim() != 4:
        raise InvalidInputError(f"{data.name}: images must be [N, C, H, W], got shape {list(data.images.shape)}")
    weights = next(model.parameters(), data.images)
    if data.images.dtype != weights.dtype:
        raise InvalidInputError(
            f"{data.name}: images are {data.images.dtype}, the model's weights are {weights.dtype}; convert one"
        )
    if not bool(torch.isfinite(data.images).all()):
        raise InvalidInputError(f"{data.name}: the {use} images hold NaN or infinity")
    if settings.clip is None:
        return
    lowest, highest = (float(end) for end in torch.aminmax(data.images))
    if padding > 0:
        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    low, high = settings.clip
    if lowest < low or highest > high:
        border = " (with the zeros around them)" if padding > 0 else ""
        raise InvalidInputError(
            f"{data.name}: {use} images{border} have values from {lowest:g} to {highest:g}, outside of the valid range "
            f"clip = ({low:g}, {high:g}); set training.clip to the range of the data, or to none"
        )
