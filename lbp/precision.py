"""Keeping reduced precision out of bounds, whatever the process-wide switches say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# The switches by which PyTorch lets a float32 product or convolution run in TF32 or bfloat16.
_SWITCHES = (
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,  # type: ignore[attr-defined]
    torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
    torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
)

_state = threading.local()


@contextmanager
def full_precision() -> Iterator[None]:
    """Run library products and convolutions in the precision of their operands.

    Inside the block TF32 and bfloat16 shortcuts for float32 operands (``torch.set_float32_matmul_precision``, the
    ``fp32_precision`` switches of cuBLAS, cuDNN and oneDNN) and autocast are off; the previous state returns
    afterwards. A bound computed with ten bits of mantissa is not a bound. Blocks may be nested: the outermost one
    does the work.

    cuDNN is off as a whole. It may choose Winograd's or Fourier's algorithm for a float32 convolution, whose errors are
    relative to the largest entry of a tile instead of the terms of the sum, and has no switch against it. PyTorch's own
    convolutions on a GPU are matrix products.
    """
    if getattr(_state, "active", False):
        yield
        return
    previous = [switch.fp32_precision for switch in _SWITCHES]
    cudnn = torch.backends.cudnn.enabled
    _state.active = True
    torch.backends.cudnn.enabled = False
    for switch in _SWITCHES:
        switch.fp32_precision = "ieee"
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        _state.active = False
        torch.backends.cudnn.enabled = cudnn
        for switch, precision in zip(_SWITCHES, previous, strict=True):
            switch.fp32_precision = precision
