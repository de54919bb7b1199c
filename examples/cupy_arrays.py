"""Arrays of CuPy through an op of lbp and back, without a copy: DLPack. Where there is no GPU, arrays of NumPy.

    python examples/cupy_arrays.py

Both directions only pass a pointer on. On a GPU both libraries see to it that the streams of the two sides wait for
each other: no synchronisation is needed. Bounds have no gradient in CuPy, hence `torch.no_grad`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy
import torch

from lbp import ops


def array_library() -> ModuleType:
    """Return cupy where it is installed and finds a device, else numpy."""
    if torch.cuda.is_available():
        try:
            import cupy
        except ImportError:
            return numpy
        return cupy
    return numpy


def relax_backward(library: ModuleType, A: Any, l: Any, u: Any, **keywords: Any) -> tuple[Any, Any]:
    """Push coefficients through ReLU, ParamRamp or another activation; see `lbp.ops.relax_backward`.

    Args:
        library: cupy or numpy; any library whose arrays have DLPack serves.
        A: coefficients [K, B, S, n], an array of the library.
        l: lower bounds of the pre-activations [B, n], an array of the library.
        u: upper bounds, like l.
        keywords: those of `lbp.ops.relax_backward`.

    Returns:
        Coefficients [K, B, S, n] and constants [K, B, S] as arrays of the library, in the memory that the op wrote.
    """
    tensors = (torch.from_dlpack(array) for array in (A, l, u))
    with torch.no_grad():
        relaxed, constants = ops.relax_backward(*tensors, **keywords)
    return library.from_dlpack(relaxed), library.from_dlpack(constants)


def main() -> None:
    """Relax the identity of three neurons: one inactive, one unstable, one active."""
    library = array_library()
    A = library.ones((1, 1, 1, 3), dtype=library.float32)
    l, u = library.asarray([[-2.0, -1.0, 1.0]]), library.asarray([[-1.0, 3.0, 2.0]])
    relaxed, constants = relax_backward(library, A, l.astype(A.dtype), u.astype(A.dtype), sides="upper")
    print(f"{library.__name__}: slopes {relaxed[0, 0, 0]}, constant {constants[0, 0, 0]}")


if __name__ == "__main__":
    main()
