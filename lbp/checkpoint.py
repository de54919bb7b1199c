"""Networks in files: safetensors for the weights, JSON in its metadata for everything else. Nothing is executed."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from lbp.errors import LbpError
from lbp.models import ModelSettings, build
from lbp.settings import validation_message

FORMAT_VERSION = 1
"""Version that this release writes, and the newest that it reads."""

_KEY = "lbp"


class CheckpointError(LbpError, ValueError):
    """A checkpoint cannot be read or does not fit its own description."""


@dataclass(frozen=True)
class Checkpoint:
    """A network with its description.

    Attributes:
        model: the network, in evaluation mode.
        settings: how to build it.
        training: how it was trained; JSON values, empty if not known.
    """

    model: nn.Sequential
    settings: ModelSettings
    training: dict[str, Any] = field(default_factory=dict)


def save(
    path: Path | str, model: nn.Module, settings: ModelSettings, training: Mapping[str, Any] | None = None
) -> None:
    """Writes a checkpoint, atomically: a reader sees the old file or the complete new one.

    Args:
        path: file to write; its folder is created.
        model: network built from `settings`.
        settings: its description.
        training: anything JSON can hold.

    Raises:
        CheckpointError: `model` is not the network that `settings` describe.
    """
    target = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _check_tensors(f"{target}: the model", tensors, _skeleton(settings))
    description = {
        "format_version": FORMAT_VERSION,
        "model": settings.model_dump(mode="json"),
        "training": dict(training or {}),
    }
    content = safetensors.torch.save(tensors, metadata={_KEY: json.dumps(description, sort_keys=True)})
    write_atomically(target, content)


def load(path: Path | str) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        CheckpointError: no such file, damaged, not an lbp checkpoint, written by a newer format, or tensors that do not
            fit the architecture it names.
    """
    source = Path(path)
    metadata, tensors = _read(source)
    description = _description(source, metadata)
    try:
        settings = ModelSettings.model_validate(description["model"])
        model = _skeleton(settings)
    except ValidationError as error:
        raise CheckpointError(f"{source}: bad description of the network: {validation_message(error)}") from error
    except (ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{source}: {error}") from error
    _check_tensors(str(source), tensors, model)
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{source}: {error}") from error
    return Checkpoint(model.eval(), settings, description["training"])


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that it is complete or absent, even if the machine stops; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files private; give the file the permissions that open() would.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(path: Path) -> None:
    """Removes what `write_atomically` leaves beside a file when it is killed; for who alone writes that file."""
    if path.parent.is_dir():
        for part in path.parent.iterdir():
            if part.name.startswith(f".{path.name}.") and part.is_file():
                part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _skeleton(settings: ModelSettings) -> nn.Sequential:
    """The network without memory for its weights: shapes are known before anything is allocated."""
    with torch.device("meta"):
        return build(settings)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            return metadata, {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _description(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if _KEY not in metadata:
        raise CheckpointError(f"{path}: a safetensors file, but not an lbp checkpoint (no {_KEY!r} in its metadata)")
    try:
        description = json.loads(metadata[_KEY])
        version = description["format_version"]
        complete = isinstance(version, int) and isinstance(description["training"], dict) and "model" in description
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged description in the metadata ({error})") from error
    if not complete:
        raise CheckpointError(f"{path}: damaged description in the metadata")
    if not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError(f"{path}: format version {version}, this release reads up to {FORMAT_VERSION}")
    return description  # type: ignore[no-any-return]


def _check_tensors(where: str, tensors: Mapping[str, Tensor], skeleton: nn.Module) -> None:
    expected = skeleton.state_dict()
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        lacks = f" lacks {', '.join(missing)};" if missing else ""
        unexpected = f" has unknown {', '.join(unknown)};" if unknown else ""
        raise CheckpointError(f"{where}{lacks}{unexpected} its tensors are not those of the architecture")
    floating = {tensor.dtype for name, tensor in tensors.items() if expected[name].is_floating_point()}
    if floating - {torch.float32} and floating - {torch.float64}:
        found = " and ".join(sorted(map(str, floating)))
        raise CheckpointError(f"{where} has weights of type {found}; expected float32 or float64 throughout")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{where}: {name} has shape {list(tensor.shape)}, the architecture needs {list(expected[name].shape)}"
            )
        if not expected[name].is_floating_point():
            if tensor.dtype != expected[name].dtype:
                raise CheckpointError(f"{where}: {name} has type {tensor.dtype}, expected {expected[name].dtype}")
        elif not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{where}: {name} has values that are NaN or infinite")
