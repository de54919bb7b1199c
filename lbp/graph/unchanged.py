"""What a trace leaves as it was: it runs the model's own code, which may keep what it computes."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lbp.errors import UnsupportedLayerError


@contextmanager
def kept_attributes(model: nn.Module) -> Iterator[None]:
    """Give a model what it had before the block: attributes and entries, of all objects that belong to it."""
    holders = list(_holders(model))
    kept = [(holder, _entries(holder)) for holder in holders]
    try:
        yield
    finally:
        for holder, before in kept:
            present = _entries(holder)
            if len(present) != len(before) or any(a is not b for a, b in zip(present, before, strict=True)):
                _put_back(holder, before)


_Holder = dict[Any, Any] | list[Any] | set[Any] | deque[Any]
_HOLDERS = (dict, list, set, deque)
"""What a forward pass can leave something in; the attributes of an object are a dictionary."""

_SHARED = sys.stdlib_module_names - {"collections", "types"}
"""Packages whose objects, such as loggers, queues and threads, others may change at the same time."""


def _holders(model: nn.Module) -> Iterator[_Holder]:
    """Yield all that can be changed of a model and of what its attributes lead to, each once."""
    # Held, so that no other takes their addresses.
    seen: dict[int, Any] = {}
    stack: list[Any] = [model, *model.modules()]
    while stack:
        value = stack.pop()
        if id(value) in seen or isinstance(value, str | bytes | int | float | type | ModuleType | FunctionType | None):
            continue
        seen[id(value)] = value
        if isinstance(value, _HOLDERS):
            yield value
        if isinstance(value, dict | list | set | frozenset | tuple | deque):
            stack.extend(value.values() if isinstance(value, dict) else value)
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict) and type(value).__module__.partition(".")[0] not in _SHARED:
            stack.append(attributes)
        if isinstance(value, nn.Module):
            shared = (entry for base in type(value).__mro__ for entry in vars(base).values())
            stack.extend(entry for entry in shared if isinstance(entry, _HOLDERS))


def _entries(holder: _Holder) -> list[Any]:
    """Return what a holder has; of a dictionary keys and values in turn."""
    return list(chain.from_iterable(holder.items())) if isinstance(holder, dict) else list(holder)


def _put_back(holder: _Holder, entries: list[Any]) -> None:
    holder.clear()
    if isinstance(holder, dict):
        holder.update(zip(entries[::2], entries[1::2], strict=True))
    elif isinstance(holder, set):
        holder.update(entries)
    else:
        holder.extend(entries)


@contextmanager
def unchanged_tensors(model: nn.Module) -> Iterator[None]:
    """Refuse a model if its tensors change inside the block."""
    before = {name: (tensor, writes_to(tensor)) for name, tensor in _tensors(model)}
    yield
    for name, tensor in _tensors(model):
        if before.get(name, (None, 0))[0] is tensor and before[name][1] != writes_to(tensor):
            raise refused_change(model, name, tensor)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters, buffers and tensors in plain attributes, with their names."""
    for path, module in model.named_modules():
        for name, value in chain(module._parameters.items(), module._buffers.items(), vars(module).items()):
            if isinstance(value, Tensor) and not is_lazy(value):
                yield f"{path}.{name}" if path else name, value


def refused_change(model: nn.Module, name: str, tensor: Tensor) -> UnsupportedLayerError:
    """Return the error about a forward pass that changes a tensor of the model."""
    return UnsupportedLayerError(
        f"the forward pass of {type(model).__name__} changes the model's tensor {name!r}, of shape "
        f"{list(tensor.shape)}, in place: a network that changes as it runs has no bounds. Call eval() if that stops it"
    )


def writes_to(value: Any) -> int:
    """Return how often a tensor has been written to, as far as that is counted; 0 for anything else."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0
