"""Reading the reports of steps without waiting for the device."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_LAG = 32
"""Most steps that may run ahead of the reading; a failed step is noticed at most so many steps later."""


@dataclass(frozen=True)
class _Pending:
    step: int
    values: Tensor
    ready: torch.cuda.Event | None


class Readback:
    """Hands over the report of every step, in order, as soon as the device has finished it.

    Args:
        deliver: takes the number of a step and the values of its report.
    """

    def __init__(self, deliver: Callable[[int, list[float]], None]) -> None:
        self._deliver = deliver
        self._pending: deque[_Pending] = deque()

    def add(self, step: int, report: Tensor) -> None:
        """Takes the report of a step; on the CPU it is delivered at once."""
        if report.device.type != "cuda":
            self._deliver(step, report.tolist())
            return
        host = torch.empty(report.shape, dtype=report.dtype, device="cpu", pin_memory=True)
        host.copy_(report, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append(_Pending(step, host, event))
        while self._pending and (len(self._pending) > _LAG or self._is_ready(self._pending[0])):
            self._next()

    def finish(self) -> None:
        """Waits for all reports and delivers them."""
        while self._pending:
            self._next()

    @staticmethod
    def _is_ready(pending: _Pending) -> bool:
        return pending.ready is None or bool(pending.ready.query())

    def _next(self) -> None:
        pending = self._pending.popleft()
        if pending.ready is not None:
            pending.ready.synchronize()
        self._deliver(pending.step, pending.values.tolist())
