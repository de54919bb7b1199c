"""How the C library hands out host memory."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""

_KEPT = 2**30
_MAPPED = (2**28, 2**25)
"""Arrays from these sizes on go back to the system at once; older releases of glibc take no more than the second."""

_VARIABLES = tuple(f"MALLOC_{name}_" for name in ("MMAP_MAX", "MMAP_THRESHOLD", "TOP_PAD", "TRIM_THRESHOLD"))
_TUNABLES = tuple(f"glibc.malloc.{name}=" for name in ("mmap_max", "mmap_threshold", "top_pad", "trim_threshold"))


def keep_freed_memory() -> bool:
    """Let this process keep freed host memory for its next arrays, instead of giving it back to the system.

    Every call makes arrays of the same sizes again. glibc's malloc returns most of them to the system when they are
    freed, which then hands out the same memory anew, zeroed, page by page: on a CPU up to a quarter of the time of
    CROWN-IBP. Afterwards up to 1 GiB at the end of the heap stays with the process, and what lies free between arrays
    in use; arrays from 256 MiB on are returned as before. It is the whole process that keeps its memory, which is why a
    program has to ask for it. The commands of `lbp` do.

    Returns:
        whether malloc does so now because of this call: False where the C library is not glibc, and where
        the environment sets how it trims (`MALLOC_TRIM_THRESHOLD_` and its like, or `GLIBC_TUNABLES`), which stays.
    """
    mallopt = libc_function("mallopt")
    if mallopt is None or libc_function("gnu_get_libc_version") is None or _chosen_by_environment():
        return False
    # The first accepted size turns off that malloc adapts both sizes to what is freed.
    mapped = any(mallopt(_MMAP_THRESHOLD, size) for size in _MAPPED)
    return mapped and bool(mallopt(_TRIM_THRESHOLD, _KEPT))


def release_freed_memory() -> None:
    """Give freed memory back to the system, where the C library can."""
    trim = libc_function("malloc_trim")
    if trim is not None:
        trim(0)


def libc_function(name: str) -> Callable[..., int] | None:
    """Return a function of the C library, None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def _chosen_by_environment() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return any(name in os.environ for name in _VARIABLES) or any(name in tunables for name in _TUNABLES)
