"""The state of an unfinished run in a file, from which the run continues exactly.

Tensors are kept as safetensors, everything else as JSON in its metadata: reading executes nothing. A file is replaced
by a complete new one after every epoch, so that a run that is killed loses at most the epoch it was in.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lbp.checkpoint import read_safetensors
from lbp.errors import LbpError
from lbp.files import write_atomically
from lbp.training.records import read_history
from lbp.training.selection import Choice
from lbp.training.trainer import Progress, Trainer

FORMAT_VERSION = 2

_KEY = "lbp-run"

_LONG = 150
"""Characters of two values that differ, above which a message leaves them out."""


class StateError(LbpError, ValueError):
    """A state file cannot be read, or belongs to another run."""


def save_state(path: Path, trainer: Trainer, settings: Mapping[str, Any]) -> None:
    """Writes the state of a training between two epochs, atomically.

    Args:
        path: file to write.
        trainer: the training.
        settings: everything that decides its result, as JSON values.
    """
    progress = trainer.progress
    tensors = {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
    for index, state in enumerate(_optimizer_states(trainer)):
        tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
    choice = None
    if progress.choice is not None:
        tensors |= {f"choice.{name}": value for name, value in progress.choice.state.items()}
        choice = {"epoch": progress.choice.epoch, "rank": progress.choice.rank}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_initialized():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    description = {
        "format_version": FORMAT_VERSION,
        "settings": dict(settings),
        "history": [asdict(record) for record in progress.history],
        "choice": choice,
    }
    # Tensors that share memory (a choice that is the model itself, say) are written as copies.
    on_host = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_atomically(path, safetensors.torch.save(on_host, metadata={_KEY: json.dumps(description)}))


def restore_state(path: Path, trainer: Trainer, settings: Mapping[str, Any]) -> None:
    """Puts a new trainer where the saved one was.

    Args:
        path: of the file.
        trainer: of the same network, data and settings, which has run no epoch.
        settings: those that were saved.

    Raises:
        StateError: not a readable state, or that of a run with other settings, which are named.
    """
    description, tensors = _read(path)
    model, parameters = trainer.model, list(trainer.model.parameters())
    different = _differences(dict(settings), description["settings"])
    if different:
        raise StateError(
            f"{path} belongs to a run with other settings ({', '.join(different)}); restore them, or remove the file "
            "to start anew"
        )
    device = parameters[0].device
    try:
        states = [_adam_state(tensors, index, parameter) for index, parameter in enumerate(parameters)]
        trainer.progress = Progress(read_history(description["history"]), _choice(description, tensors, model))
        network = _below(tensors, "model.")
        _check_tensors("the network", network, model.state_dict())
        model.load_state_dict(network)
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_initialized():
            torch.cuda.set_rng_state(tensors["random.cuda"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StateError(
            f"{path}: the state does not fit the network of its settings ({error}); remove it to start anew"
        ) from error
    for parameter, state in zip(parameters, states, strict=True):
        if state:
            trainer.step.optimizer.state[parameter] = {name: value.to(device) for name, value in state.items()}


def _optimizer_states(trainer: Trainer) -> list[dict[str, Tensor]]:
    """Return Adam's tensors per parameter; empty for one that took part in no step yet."""
    return [dict(trainer.step.optimizer.state.get(parameter, {})) for parameter in trainer.model.parameters()]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        metadata, tensors = read_safetensors(path.read_bytes())
        description = json.loads(metadata[_KEY])
        version = description["format_version"]
        missing = [name for name in ("settings", "history", "choice") if name not in description]
        if missing:
            raise KeyError(", ".join(missing))
    except (OSError, KeyError, ValueError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        raise StateError(f"{path}: not the state of an lbp run ({error}); remove it to start anew") from error
    if version != FORMAT_VERSION:
        raise StateError(f"{path}: state of format version {version}, this release reads {FORMAT_VERSION}")
    return description, tensors


def _choice(description: Mapping[str, Any], tensors: Mapping[str, Tensor], model: nn.Module) -> Choice | None:
    """Return the network chosen so far."""
    choice = description["choice"]
    if choice is None:
        return None
    epoch, rank = choice["epoch"], choice["rank"]
    if type(epoch) is not int or not (len(rank) == 2 and all(isinstance(error, int | float) for error in rank)):
        raise TypeError(f"the network chosen so far is of epoch {epoch!r}, with the errors {rank!r}")
    weights = _below(tensors, "choice.")
    _check_tensors("the network chosen so far", weights, model.state_dict())
    device = next(model.parameters()).device
    return Choice(epoch, (rank[0], rank[1]), {name: value.to(device) for name, value in weights.items()})


def _adam_state(tensors: Mapping[str, Tensor], index: int, parameter: Tensor) -> dict[str, Tensor]:
    """Return Adam's tensors for a parameter; empty for one that took part in no step yet."""
    state = _below(tensors, f"adam.{index}.")
    if state:
        wanted = {"step": torch.tensor(0.0, dtype=torch.float32), "exp_avg": parameter, "exp_avg_sq": parameter}
        _check_tensors(f"Adam for parameter {index}", state, wanted)
    return state


def _check_tensors(what: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not of the names, shapes and types of others."""
    kinds, others = ({name: (value.shape, value.dtype) for name, value in each.items()} for each in (found, wanted))
    different = sorted(name for name in kinds.keys() | others.keys() if kinds.get(name) != others.get(name))
    if different:
        raise ValueError(f"{what} lacks {', '.join(different)}, or has them of another shape or type")


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _differences(now: Any, before: Any, where: str = "") -> list[str]:
    """Return the names of settings that differ, with both values unless they are long."""
    if isinstance(now, dict) and isinstance(before, dict):
        keys = sorted(now.keys() | before.keys())
        return [text for key in keys for text in _differences(now.get(key), before.get(key), f"{where}.{key}")]
    if now == before:
        return []
    name, values = where.removeprefix("."), f"{now!r} now, {before!r} in the file"
    return [name if len(values) > _LONG else f"{name}: {values}"]
