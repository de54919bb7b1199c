"""What the forward pass of a module reads from outside of the module.

A trace takes for constant whatever is no parameter, buffer or input: also numbers and tensors in global variables, in
variables that a function closes over, and in attributes of objects, classes and Python modules.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Iterator, Sequence, Set
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

_FOREIGN = sys.stdlib_module_names | {"lbp", "numpy", "torch"}
"""Packages whose functions and classes keep nothing of a user's that a forward pass would read."""

_NOT_IN_FORWARD = {"__init__", "__new__", "__init_subclass__", "__repr__", "__str__", "__setstate__", "__getstate__"}
"""Methods that Python calls by itself, but not where a value is used."""


def read_by(modules: Sequence[nn.Module], own: Set[nn.Module]) -> Iterator[Any]:
    """Yield every value outside of modules that their forward pass may read.

    Followed are the names that the code of the pass mentions: global variables, variables closed over, attributes, and
    functions, whose code is followed likewise. So more is found than is read, but neither what code reaches by a name
    that it makes up as it runs, nor what extension modules keep.

    Args:
        modules: of one class, which has the forward pass; what they have themselves is yielded, too, but no parameters
            and buffers.
        own: modules that are known otherwise.

    Yields:
        tensors, arrays, plain values, the length of every list, tuple and dictionary, and all objects on the way.
    """
    if any(_classes(modules[0])):
        yield from _Search(own).run(modules)


class _Search:
    def __init__(self, own: Set[nn.Module]) -> None:
        self._own = own
        self._names: dict[str, None] = {}
        self._objects: list[Any] = []
        self._seen: dict[int, Any] = {}  # held, so that no other takes its address
        self._queue: deque[Any] = deque()

    def run(self, modules: Sequence[nn.Module]) -> Iterator[Any]:
        for module in modules:
            self._take_object(module)
        self._queue.append(type(modules[0]).forward)
        while self._queue:
            value = self._queue.popleft()
            if isinstance(value, list | tuple | dict | set | frozenset):
                yield len(value)
                if self._is_new(value):
                    self._queue.extend((*value.keys(), *value.values()) if isinstance(value, dict) else value)
                continue
            if not isinstance(value, nn.Module):
                yield value
            if self._is_new(value):
                yield from self._follow(value)

    def _is_new(self, value: Any) -> bool:
        new = id(value) not in self._seen
        self._seen[id(value)] = value
        return new

    def _follow(self, value: Any) -> Iterator[Any]:
        match value:
            case FunctionType():
                self._take_function(value)
            case MethodType() | staticmethod() | classmethod():
                self._queue.extend((value.__func__, getattr(value, "__self__", None)))
            case property():
                self._queue.append(value.fget)
            case functools.partial():
                self._queue.extend((value.func, value.args, value.keywords))
            case functools.cached_property():
                self._queue.append(value.func)
            case nn.Module():
                if value not in self._own:
                    yield from (*value.parameters(), *value.buffers())
            case bool() | int() | float() | complex() | str() | bytes() | None | np.generic() | np.ndarray() | Tensor():
                pass
            case _:
                self._take_object(value)

    def _take_function(self, function: FunctionType) -> None:
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            self._queue.append(wrapped)
        if _is_foreign(function):
            return
        names = _names_in(function.__code__)
        self._queue.extend(function.__globals__[name] for name in names if name in function.__globals__)
        for cell in function.__closure__ or ():
            try:
                self._queue.append(cell.cell_contents)
            except ValueError:  # not assigned yet
                continue
        self._queue.extend((function.__defaults__, function.__kwdefaults__))
        new = dict.fromkeys(name for name in names if name not in self._names)
        self._names |= new
        for value in self._objects:
            self._look_up(value, new)

    def _take_object(self, value: Any) -> None:
        if not (isinstance(value, ModuleType | type) and _is_foreign(value)):
            self._objects.append(value)
            self._look_up(value, self._names)
            if not isinstance(value, ModuleType):
                for base in _classes(value):
                    methods = (method for name, method in vars(base).items() if _is_implicit(name))
                    self._queue.extend(method for method in methods if isinstance(method, FunctionType))

    def _look_up(self, value: Any, names: dict[str, None]) -> None:
        has = getattr(value, "__dict__", {})
        self._queue.extend(has[name] for name in names if name in has)
        if isinstance(value, ModuleType):
            return
        for base in _classes(value):
            known = vars(base)
            for name in names:
                if name not in known:
                    continue
                slot = isinstance(known[name], MemberDescriptorType)
                self._queue.append(getattr(value, name, None) if slot else known[name])


def _classes(value: Any) -> Iterator[type]:
    """Yield the classes of a value in which a user's code may be."""
    kind = value if isinstance(value, type) else type(value)
    return (base for base in kind.__mro__ if not _is_foreign(base))


def _is_implicit(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and name not in _NOT_IN_FORWARD


def _is_foreign(value: Any) -> bool:
    name = value.__name__ if isinstance(value, ModuleType) else value.__module__
    return str(name).partition(".")[0] in _FOREIGN


@functools.lru_cache(maxsize=4096)
def _names_in(code: CodeType) -> tuple[str, ...]:
    """Return the names that code mentions as global variables or attributes, functions inside of it included."""
    inner = (name for part in code.co_consts if isinstance(part, CodeType) for name in _names_in(part))
    return tuple(dict.fromkeys((*code.co_names, *inner)))
