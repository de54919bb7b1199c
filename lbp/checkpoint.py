"""Networks in files: safetensors for the weights, JSON in its metadata for everything else. Nothing is executed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from lbp.checks import check_has_values
from lbp.errors import LbpError, reason_of
from lbp.files import write_atomically
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
        sha256: of the bytes that were read, in hexadecimal digits; empty for a network that comes from no file.
    """

    model: nn.Sequential
    settings: ModelSettings
    training: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""


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
        CheckpointError: `model` is not the network that `settings` describe, or `training` holds something else.
        OutputError: the file cannot be written.
    """
    target = Path(path)
    if not isinstance(model, nn.Module) or not isinstance(settings, ModelSettings):
        raise CheckpointError(
            f"{target}: a checkpoint takes a torch.nn.Module and its ModelSettings, got {type(model).__name__} and "
            f"{type(settings).__name__}"
        )
    for name, tensor in model.state_dict().items():
        check_has_values(f"{name} of the model", tensor)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _check_tensors(f"{target}: the model", tensors, _skeleton(settings))
    description = {
        "format_version": FORMAT_VERSION,
        "model": settings.model_dump(mode="json"),
        "training": training or {},
    }
    content = safetensors.torch.save(tensors, metadata={_KEY: _as_json(target, description)})
    write_atomically(target, content)


def _as_json(path: Path, description: Mapping[str, Any]) -> str:
    training = description["training"]
    if not isinstance(training, Mapping):
        raise CheckpointError(f"{path}: training must be a dictionary of JSON values, got {type(training).__name__}")
    try:
        return json.dumps({**description, "training": dict(training)}, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: training must hold nothing but JSON values ({error})") from error


def load(path: Path | str) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        CheckpointError: no such file, damaged, not an lbp checkpoint, written by a newer format, or tensors that do not
            fit the architecture it names.
    """
    source = Path(path)
    content = _content(source)
    try:
        metadata, tensors = read_safetensors(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{source}: not a readable safetensors file, as checkpoints are ({error})") from error
    description = _description(source, metadata)
    try:
        settings = ModelSettings.model_validate(description["model"])
        model = _skeleton(settings)
    except ValidationError as error:
        raise CheckpointError(f"{source}: bad description of the network: {validation_message(error)}") from error
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{source}: {error}") from error
    _check_tensors(str(source), tensors, model)
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{source}: {error}") from error
    return Checkpoint(model.eval(), settings, description["training"], hashlib.sha256(content).hexdigest())


def _skeleton(settings: ModelSettings) -> nn.Sequential:
    """The network without memory for its weights: shapes are known before anything is allocated."""
    with torch.device("meta"):
        return build(settings)


def read_safetensors(content: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, in memory of their own.

    Raises:
        safetensors.SafetensorError: damaged, or with tensors of a type that PyTorch does not have.
    """
    try:
        tensors = safetensors.torch.load(content)
    except (KeyError, TypeError, RuntimeError) as error:
        raise safetensors.SafetensorError(f"tensors of a type that PyTorch does not have: {error}") from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header.get("__metadata__") or {}, dict(sorted(tensors.items()))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({reason_of(error)})") from error


def _description(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if _KEY not in metadata:
        raise CheckpointError(f"{path}: a safetensors file, but not an lbp checkpoint (no {_KEY!r} in its metadata)")
    try:
        description = json.loads(metadata[_KEY])
        version = description["format_version"]
        complete = type(version) is int and isinstance(description["training"], dict) and "model" in description
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
