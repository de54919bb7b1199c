"""Repeated timing of alternatives in turn, so that whatever else the machine does slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field

Call = Callable[[], Any]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]

EXACT = ConfigDict(extra="forbid")
"""What is read from a file has no other fields."""


@dataclass(frozen=True)
class Timing:
    """The seconds that repeats of a call took.

    Attributes:
        median: of the repeats.
        low, high: first and third quartile.
        repeats: how many.
    """

    median: Positive
    low: Positive
    high: Positive
    repeats: Count

    __pydantic_config__: ClassVar[ConfigDict] = EXACT

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Summarises the seconds of single repeats."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0], 1)
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, low, high, len(seconds))


def seconds_of(call: Call, device: torch.device) -> float:
    """Returns the seconds of one call; on a GPU by events on the current stream, until the last kernel has ended."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def device_seconds(call: Call, device: torch.device) -> float:
    """Returns the seconds that the kernels of one call take on a GPU that has them at hand.

    A GPU is kept busy while the host prepares and enqueues the call, so that its time is not the host's. Elsewhere
    these are `seconds_of` the call.
    """
    if device.type != "cuda":
        return seconds_of(call, device)
    torch.cuda.synchronize(device)
    begin = time.perf_counter()
    call()
    enqueued = time.perf_counter() - begin
    torch.cuda.synchronize(device)
    torch.cuda._sleep(int(_CYCLES_PER_SECOND * (1.5 * enqueued + 1e-4)))
    return seconds_of(call, device)


_CYCLES_PER_SECOND = 2e9
"""Of the fastest GPU, about: on a slower one the wait is longer."""


SHORT = 0.05
"""Seconds that the rounds of short calls take on a CPU."""


def time_in_turn(
    calls: Mapping[str, Call], device: torch.device, *, repeats: int = 9, budget: float = 2.0
) -> dict[str, Timing]:
    """Times calls in turn, on a GPU their kernels alone: one untimed round, then rounds of one call each.

    Args:
        calls: by name.
        device: where they run.
        repeats: most rounds; on a CPU, where what else runs may double the time of a short call, nine times as many
            while they have taken less than `SHORT` seconds in all.
        budget: seconds after which no further round begins, once three are done.

    Returns:
        the timing of each call.
    """
    for call in calls.values():
        device_seconds(call, device)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    begin, short = time.perf_counter(), SHORT if device.type == "cpu" else 0.0
    for number in range(9 * repeats):
        spent = time.perf_counter() - begin
        if (number >= 3 and spent > budget) or (number >= repeats and spent >= short):
            break
        for name, call in calls.items():
            seconds[name].append(device_seconds(call, device))
    return {name: Timing.of(values) for name, values in seconds.items()}
