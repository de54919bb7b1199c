"""What is found once in a computation of bounds, however many of its steps ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_found: ContextVar[dict[Any, Any] | None] = ContextVar("found", default=None)


@contextmanager
def one_computation() -> Iterator[None]:
    """Let what is found by `once` inside the block serve until its end: parameters stay as they are there."""
    token = _found.set({})
    try:
        yield
    finally:
        _found.reset(token)


def once(key: object, find: Callable[[], T]) -> T:
    """Return what a function finds, which in one computation it is asked for but once.

    What was found without gradients serves only where none are wanted, too.

    Args:
        key: names what is found; compared as an object, which must live as long as the computation.
        find: finds it.
    """
    found = _found.get()
    if found is None:
        return find()
    name = (id(key), torch.is_grad_enabled())
    if name not in found:
        found[name] = find()
    result: T = found[name]
    return result
