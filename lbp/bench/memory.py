"""Peak memory of a call."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch

from lbp.bench.timing import Call
from lbp.host_memory import release_freed_memory

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def peak_bytes(call: Call, device: torch.device, *, collect: bool = True) -> tuple[Any, int | None]:
    """Runs a call and returns its result and how many bytes the memory in use rose above that before the call.

    On a GPU the allocator counts; on Linux the resident memory of the process, which the kernel keeps; elsewhere None.

    Args:
        call: to run.
        device: where it runs.
        collect: whether Python's garbage is collected first, which takes longer than a small call.
    """
    if collect:
        gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        torch.cuda.synchronize(device)
        return result, torch.cuda.max_memory_allocated(device) - before
    if not _CLEAR.exists():
        return call(), None
    release_freed_memory()  # what is kept would hide the call's need
    _CLEAR.write_text(_RESET_PEAK)
    before = _status("VmRSS")
    result = call()
    return result, max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    """Returns a field of the process's status in bytes."""
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
