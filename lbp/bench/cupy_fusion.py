"""The relaxation of ReLU as one CuPy elementwise kernel: what a user without kernels of their own would fuse."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

_BODY = """
    T slope, intercept;
    if (a >= 0) {
        slope = l >= 0 ? T(1) : (u > 0 && u >= -l ? T(1) : T(0));
        intercept = 0;
    } else {
        slope = l >= 0 ? T(1) : (u <= 0 ? T(0) : u / (u - l));
        intercept = l >= 0 || u <= 0 ? T(0) : -l * slope;
    }
    relaxed = a * slope;
    constant = a * intercept;
"""


def is_available() -> bool:
    """Says whether CuPy is installed."""
    return importlib.util.find_spec("cupy") is not None


def relax_backward(A: Tensor, l: Tensor, u: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """Returns a call that relaxes the lower side of A [1, B, S, n] through ReLU, adaptive lines: a fused pass, a sum.

    The lines are not rounded outward. The tensors live on a GPU.
    """
    import cupy

    kernel = cupy.ElementwiseKernel("T a, T l, T u", "T relaxed, T constant", _BODY, "relax_relu")
    a, low, high = (cupy.from_dlpack(tensor.detach()) for tensor in (A, l.unsqueeze(1), u.unsqueeze(1)))

    def call() -> tuple[Any, Any]:
        stream = cupy.cuda.Stream.from_external(torch.cuda.current_stream(A.device))
        with cupy.cuda.Device(A.device.index), stream:
            relaxed, constants = kernel(a, low, high)
            return from_dlpack(relaxed), from_dlpack(constants.sum(-1, dtype=cupy.float64))

    return call
