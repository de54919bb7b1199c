"""A time limit that also ends what is in progress."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

_LONGEST = 1e9
"""Seconds for which an alarm is set at most: 30 years, where the clock of the system has no number for more."""


class OutOfTimeError(BaseException):
    """The time limit has passed.

    No `Exception`, as `KeyboardInterrupt` and `asyncio.CancelledError` are none: an alarm may ring inside of any code,
    also that of other packages, and must not be taken for an error of that code.
    """


class Deadline:
    """A point in time.

    Args:
        seconds: from now; None: never.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._start = time.monotonic()
        self._end = math.inf if seconds is None else self._start + seconds

    @property
    def elapsed(self) -> float:
        """Seconds since the deadline was made."""
        return time.monotonic() - self._start

    @property
    def remaining(self) -> float:
        """Seconds left, 0 when the time has passed, infinity where there is no limit."""
        return max(self._end - time.monotonic(), 0.0)

    def check(self) -> None:
        """Do nothing while there is time.

        Raises:
            OutOfTimeError: the time has passed.
        """
        if self.remaining == 0:
            raise OutOfTimeError(f"no result within {self._end - self._start:g} seconds")

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise `OutOfTimeError` inside the block when the time passes, between two operations on tensors.

        An alarm may ring while `torch.no_grad` is being entered or left, so the block's end puts the gradient mode
        back itself.

        Python delivers alarms to the main thread alone; in another one, and where an alarm is set already, only
        `check` ends the work.
        """
        alone = threading.current_thread() is threading.main_thread() and signal.getitimer(signal.ITIMER_REAL)[0] == 0
        if not alone or math.isinf(self._end):
            yield
            return
        self.check()
        gradients = torch.is_grad_enabled()
        previous = signal.signal(signal.SIGALRM, self._ring)
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, min(max(self.remaining, 1e-6), _LONGEST))
                yield
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)  # may still ring here
        finally:
            signal.signal(signal.SIGALRM, previous)
            torch.set_grad_enabled(gradients)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError(f"no result within {self._end - self._start:g} seconds")
