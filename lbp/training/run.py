"""A complete training run from its settings: data, network, training, checkpoint."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lbp import checkpoint
from lbp.data import Dataset, load
from lbp.errors import LbpError
from lbp.models import ModelSettings, build
from lbp.training.batches import split_off
from lbp.training.config import RunSettings, settings_for
from lbp.training.distributed import World, global_batch_norm
from lbp.training.initialization import initialize_for_ibp
from lbp.training.records import EpochRecord
from lbp.training.state import StateError, restore_state, save_state
from lbp.training.trainer import OnStep, Trainer


class RunPausedError(LbpError):
    """A run was told to stop before its last epoch; its state file continues it."""


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        model: the trained network, in evaluation mode.
        model_settings: its description.
        settings: of the run.
        history: one record per epoch.
        selection: how the network was chosen among the epochs, as JSON values: "by" ("validation", "test" or "last"),
            "epoch", and for the first two "examples" and the "score" that was smallest.
    """

    model: nn.Sequential
    model_settings: ModelSettings
    settings: RunSettings
    history: list[EpochRecord]
    selection: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """How the network was trained, as JSON values: the settings, the selection and the history."""
        return {
            **self.settings.model_dump(mode="json"),
            "selection": self.selection,
            "history": [asdict(record) for record in self.history],
        }

    def save(self, path: Path | str) -> None:
        """Writes the network and the record of its training as a checkpoint."""
        checkpoint.save(path, self.model, self.model_settings, training=self.record())


def run(
    settings: RunSettings,
    data_root: Path | str | None = None,
    on_step: OnStep | None = None,
    *,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    world: World | None = None,
    state: Path | None = None,
    goes_on: Callable[[], bool] = lambda: True,
    capture: bool = True,
) -> Run:
    """Loads the data, builds the network from the seed, and trains it.

    Args:
        settings: of the run.
        data_root: folder of the data files.
        on_step: called after every optimizer step.
        on_epoch: called after every epoch, and first with the epochs that a continued run has behind it.
        world: the device, and the processes that train together; one process on the CPU by default.
        state: file that keeps the state after every epoch; a run continues from it if it is there.
        goes_on: asked before every epoch after the first of this call; where it says no the run pauses.
        capture: as for `Trainer`.

    Raises:
        DataError, InvalidInputError, TrainingDivergedError: as `lbp.data.load`, `lbp.models.build` and `Trainer`.
        StateError: the state file belongs to a run with other settings or data, or not all processes find it.
        RunPausedError: `goes_on` said no.
    """
    world = world or World()
    data = load(settings.data.name, "train", data_root).first(settings.data.limit)
    data, held_out = _held_out(settings, data, data_root)
    model_settings = settings_for(settings.model, data, settings.data.crop)
    model = _initial_network(model_settings, settings).to(world.device)
    described = settings.model_dump(mode="json")
    if state is not None:
        described["content of the data"] = [part.fingerprint() for part in (data, held_out) if part is not None]
    # Whatever the training draws from the global random state, the caller's is left as it was.
    with torch.random.fork_rng(devices=[]), global_batch_norm(model, world):
        torch.manual_seed(settings.training.seed)
        trainer = Trainer(
            model,
            data,
            settings.training,
            held_out=held_out,
            input_size=model_settings.input_shape[1:],
            world=world,
            capture=capture,
        )
        if state is not None and state.is_file():
            restore_state(state, trainer, described)
        if len(set(world.gather(trainer.progress.epoch))) > 1:
            raise StateError(f"the processes do not find the same state in {state}; keep it where all can read it")
        if on_epoch is not None:
            for record in trainer.progress.history:
                on_epoch(record)
        begun = False
        while trainer.progress.epoch < settings.training.epochs:
            if begun and not goes_on():
                raise RunPausedError(
                    f"paused after {trainer.progress.epoch} of {settings.training.epochs} epochs; {state} continues"
                )
            begun = True
            record = trainer.run_epoch(on_step)
            if state is not None and world.leads:
                save_state(state, trainer, described)
            if on_epoch is not None:
                on_epoch(record)
    selection = _select(trainer, settings, held_out)
    return Run(model.eval(), model_settings, settings, trainer.progress.history, selection)


def _select(trainer: Trainer, settings: RunSettings, held_out: Dataset | None) -> dict[str, Any]:
    """Give the model the weights of the chosen epoch, and return what chose it."""
    choice = trainer.progress.choice
    if choice is None or held_out is None:
        return {"by": "last", "epoch": settings.training.epochs - 1}
    trainer.model.load_state_dict(choice.state)
    return {
        "by": settings.training.selection, "epoch": choice.epoch, "examples": len(held_out),
        "score": choice.rank[0],
    }  # fmt: skip


def _held_out(settings: RunSettings, data: Dataset, data_root: Path | str | None) -> tuple[Dataset, Dataset | None]:
    """Return the training set, and what chooses the network."""
    match settings.training.selection:
        case "validation":
            return split_off(data, settings.training.validation_share, settings.training.seed)
        case "test":
            return data, load(settings.data.name, "test", data_root)
        case "last":
            return data, None


def _initial_network(model_settings: ModelSettings, settings: RunSettings) -> nn.Sequential:
    # The global random state is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        model = build(model_settings)
        if settings.training.initialization == "ibp":
            initialize_for_ibp(model)
    return model
