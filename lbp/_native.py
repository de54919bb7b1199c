"""Loading the library of kernels, and saying what to do where it is missing."""

from __future__ import annotations

from pathlib import Path

import torch

from lbp._jit import Jit

LIBRARY = Path(__file__).with_name("liblbp.so")


class NativeLibraryMissingError(ImportError):
    """The kernels were not built, or were built for another torch."""


def load() -> str | None:
    """Load the library of kernels and register its ops.

    Returns:
        None, or a sentence that says why the library is not there.
    """
    if not LIBRARY.exists():
        return (
            f"the compiled library {LIBRARY.name} is missing from {LIBRARY.parent}; build it with "
            "`pip install --no-build-isolation -e .` in the source tree, or install a wheel of lbp"
        )
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        return (
            f"the compiled library {LIBRARY.name} does not load beside torch {torch.__version__} ({error}); rebuild it"
        )
    return None


missing: str | None = load()
"""Why the kernels cannot be used, or None when they are loaded."""

JUST_IN_TIME = "just in time"

cuda_build: str = torch.ops.lbp.cuda_build() if missing is None else "none"
"""What the library has for CUDA devices: kernels "ahead of time for ..." some architectures, `JUST_IN_TIME`, "none"."""

jit: Jit | None = Jit(LIBRARY) if cuda_build == JUST_IN_TIME else None
"""What compiles the CUDA kernels, where the library does not hold them."""


def instruction_set() -> str:
    """Return whose instructions the CPU kernels use, "none" without kernels, or why those asked for cannot be used."""
    if missing is not None:
        return "none"
    try:
        return str(torch.ops.lbp.cpu_capability())
    except RuntimeError as error:  # LBP_CPU_CAPABILITY asks for one that is not there
        return str(error).split("\n")[0]


def require() -> None:
    """Check that the kernels are there.

    Raises:
        NativeLibraryMissingError: they are not. ``lbp.backend("reference")`` needs none.
    """
    if missing is not None:
        raise NativeLibraryMissingError(f"lbp: {missing}; `lbp.backend('reference')` computes without it, slower")
