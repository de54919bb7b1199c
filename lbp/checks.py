"""Checks of values and shapes where users hand in tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lbp.errors import InvalidInputError

Check = tuple[Tensor, Callable[[], str]]
"""A 0-dim boolean that is true where a value is bad, and the sentence that says so."""


_state = threading.local()


@contextmanager
def trusted_values() -> Iterator[None]:
    """Look at no values inside the block, so that no device has to stop for it.

    For loops that have checked their data once, and in which NaN is found by other means, as in training. Shapes,
    dtypes and devices are still checked.
    """
    before = getattr(_state, "trusted", False)
    _state.trusted = True
    try:
        yield
    finally:
        _state.trusted = before


def raise_if_any(checks: Sequence[Check]) -> None:
    """Raise for the first bad value; all conditions travel in one transfer from the device.

    Nothing is checked inside `trusted_values`, nor while a CUDA graph is being captured.

    Raises:
        InvalidInputError: a condition holds.
    """
    if not checks or _unread():
        return
    conditions = [condition.detach() for condition, _ in checks]
    if any(condition.device.type != "cpu" for condition in conditions):
        conditions = list(torch.stack([condition.to(conditions[0].device) for condition in conditions]).cpu())
    for is_bad, (_, message) in zip(map(bool, conditions), checks, strict=True):
        if is_bad:
            raise InvalidInputError(message())


def known_to_hold(condition: Tensor) -> bool:
    """Whether a 0-dim condition is true and may be looked at without stopping a device."""
    return condition.device.type == "cpu" and not _unread() and bool(condition)


def _unread() -> bool:
    """Whether no value is to be looked at: in `trusted_values`, and while a CUDA graph is being captured."""
    capturing = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
    return getattr(_state, "trusted", False) or capturing


def not_finite(name: str, values: Tensor) -> Check:
    """Return the check that a tensor holds neither NaN nor infinity."""

    def message() -> str:
        bad = ~torch.isfinite(values)
        where = int(bad.flatten().nonzero()[0])
        return (
            f"{name} of shape {list(values.shape)} has {int(bad.sum())} entries that are NaN or infinite, the first "
            f"({float(values.detach().flatten()[where])}) at flat index {where}"
        )

    # 0 times a number is 0, unless it is NaN or infinite.
    return (values.detach() * 0).sum() != 0, message


def check_same_kind(name: str, values: Any, like: Tensor, like_name: str) -> None:
    """Check that a value is a tensor with the dtype and device of another.

    Raises:
        InvalidInputError: it is not.
    """
    if not isinstance(values, Tensor):
        raise InvalidInputError(f"{name} must be a tensor, got {type(values).__name__}")
    if values.dtype != like.dtype or values.device != like.device:
        raise InvalidInputError(
            f"{name} is {values.dtype} on {values.device}, but {like_name} is {like.dtype} on {like.device}; convert "
            "one with .to()"
        )


def check_has_values(name: str, values: Tensor) -> None:
    """Check that a tensor is not one of PyTorch's device "meta".

    Raises:
        InvalidInputError: it is.
    """
    if values.is_meta:
        raise InvalidInputError(f"{name} is on the device meta, which keeps no values; make it on another device")


def single_tensor(argument: Any, name: str) -> Tensor:
    """Return the tensor of an argument that is a tensor or a tuple of one.

    Raises:
        InvalidInputError: anything else.
    """
    if isinstance(argument, tuple | list):
        if len(argument) != 1:
            raise InvalidInputError(f"{name} must hold one tensor, got {len(argument)}")
        argument = argument[0]
    if not isinstance(argument, Tensor):
        raise InvalidInputError(f"{name} must be a tensor or a tuple of one, got {type(argument).__name__}")
    return argument


def checked_specification(C: Tensor, like: Tensor, n_out: int, name: str) -> Tensor:
    """Return a specification as [B, S, n_out] after checking it.

    Args:
        C: [B, S, *output shape] or [1, S, *output shape].
        like: the input, for batch size, dtype and device.
        n_out: number of outputs.
        name: of the output node, for messages.

    Raises:
        InvalidInputError: another shape, dtype or device, or NaN or infinity.
    """
    check_same_kind("C", C, like, "the input x")
    batch = like.shape[0]
    if C.dim() < 3 or C.shape[0] not in (1, batch) or C.shape[2:].numel() != n_out:
        raise InvalidInputError(
            f"C must have shape [{batch}, S, {n_out}] (batch, rows, outputs of {name!r}), got {list(C.shape)}"
        )
    raise_if_any([not_finite("C", C)])
    return C.flatten(2)


def checked_bounds(
    argument: str, name: str, bounds: Sequence[Tensor], like: Tensor, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Return given bounds (lower, upper) of a layer after checking them.

    Raises:
        InvalidInputError: not a pair of tensors [B, *shape], NaN, or lower above upper.
    """
    what = f"{argument}[{name!r}]"
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise InvalidInputError(f"{what} must be a pair (lower, upper), got {type(bounds).__name__}")
    expected = (like.shape[0], *shape)
    for side, values in zip(("lower", "upper"), bounds, strict=True):
        check_same_kind(f"{what} ({side})", values, like, "the input x")
        if values.shape != expected:
            raise InvalidInputError(f"{what} ({side}) must have shape {list(expected)}, got {list(values.shape)}")
    lower, upper = bounds
    raise_if_any(
        [
            ((lower.isnan() | upper.isnan()).any(), lambda: f"{what} has NaN entries"),
            (
                (lower > upper).any(),
                lambda: f"{what}: {int((lower > upper).sum())} lower bounds are above the upper ones",
            ),
        ]
    )
    return lower, upper
