"""Why a run failed, in the few words of a row's note."""

from __future__ import annotations

import torch


def failure_note(error: Exception) -> str:
    """Returns "out of memory", or the error's type and the beginning of what it says."""
    words = f"{type(error).__name__}: {error}".split("\n")[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or ("alloc" in words and "memory" in words):
        return "out of memory"
    return words[:120]
