"""Quantities that do not depend on the network's input, read from the model at every use.

A weight may be a parameter, or an expression over parameters, buffers and numbers: `F.linear(x, self.w * self.gain)`,
`(x - self.mean[None, :, None, None]) / self.std`. Reading late keeps bounds and gradients tied to the live model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn


class Value(ABC):
    """Something that can be read without the network's input."""

    @abstractmethod
    def read(self) -> Any:
        """Return the present value."""


@dataclass(frozen=True)
class Literal(Value):
    """A fixed value."""

    value: Any

    def read(self) -> Any:
        return self.value


@dataclass(frozen=True)
class Attribute(Value):
    """An attribute of the model, such as the parameter "features.0.weight"."""

    root: nn.Module
    path: str

    def read(self) -> Any:
        value: Any = self.root
        for part in self.path.split("."):
            value = getattr(value, part)
        return value


@dataclass(frozen=True)
class Expression(Value):
    """A function of other values; they may stand inside lists, tuples, dictionaries and slices."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> Any:
        return self.function(*_read_inside(self.args), **_read_inside(dict(self.kwargs)))


@dataclass(frozen=True)
class MethodCall:
    """Calls the method of that name on its first argument."""

    name: str

    def __call__(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(target, self.name)(*args, **kwargs)


@dataclass(frozen=True)
class ModuleCall:
    """Calls the module at a path of the model."""

    module: Value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.read()(*args, **kwargs)


def _read_inside(item: Any) -> Any:
    if isinstance(item, Value):
        return item.read()
    if isinstance(item, tuple | list):
        return type(item)(_read_inside(part) for part in item)
    if isinstance(item, dict):
        return {key: _read_inside(part) for key, part in item.items()}
    if isinstance(item, slice):
        return slice(_read_inside(item.start), _read_inside(item.stop), _read_inside(item.step))
    return item
