"""Keeping reduced precision out of bounds, whatever the process-wide switches say."""

from __future__ import annotations

import functools
import os
import platform
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from lbp.errors import UnanalysedRoundingError

# The switches by which PyTorch lets a float32 product or convolution run in TF32 or bfloat16: `fp32_precision` of
# `torch.backends.cuda.matmul`, `.cudnn.conv`, `.mkldnn.matmul` and `.mkldnn.conv`, without the properties there, which
# cost ten times what they call.
_SWITCHES = (("cuda", "matmul"), ("cuda", "conv"), ("mkldnn", "matmul"), ("mkldnn", "conv"))
_read = [partial(torch._C._get_fp32_precision_getter, *switch) for switch in _SWITCHES]
_write = [partial(torch._C._set_fp32_precision_setter, *switch) for switch in _SWITCHES]

_AUTOCAST_DEVICES = ("cpu", "cuda")

_thread = threading.local()
_lock = threading.Lock()

P = ParamSpec("P")
R = TypeVar("R")

# Of the whole process: autograd runs the backward pass of a GPU in a thread of its own.
_free_convolutions = False

# The switches belong to the process. They return when the last thread leaves its block. A block that a signal (Ctrl-C,
# a deadline) keeps from its end is one as long as it lives.
_blocks: weakref.WeakSet[full_precision] = weakref.WeakSet()
_Switches = tuple[list[str], bool, bool]
_before: _Switches | None = None
"""What the switches said before the first block; None outside of blocks."""


@contextmanager
def free_convolutions() -> Iterator[None]:
    """Let `full_precision` inside the block, in every thread, leave the algorithm of a convolution to cuDNN.

    For training, whose bounds prove nothing and whose clean passes would wait for convolutions image by image. Operands
    stay float32, without TF32. Bounds that account for rounding are refused meanwhile.
    """
    global _free_convolutions
    before, _free_convolutions = _free_convolutions, True
    try:
        yield
    finally:
        _free_convolutions = before


class full_precision:
    """Run library products and convolutions in the precision of their operands: a context, or a decorator.

    Inside the block TF32 and bfloat16 shortcuts for float32 operands (``torch.set_float32_matmul_precision``, the
    ``fp32_precision`` switches of cuBLAS, cuDNN and oneDNN) and autocast are off; the previous state returns
    afterwards. A bound computed with ten bits of mantissa is not a bound. Blocks may be nested, the outermost one does
    the work; and of several threads the last one to leave turns the switches back.

    cuDNN and NNPACK are off as a whole. They may choose Winograd's or Fourier's algorithm for a float32 convolution,
    whose errors are relative to the largest entry of a tile instead of the terms of the sum, and have no switch against
    it. PyTorch's own convolutions are matrix products, and it asks oneDNN for direct ones. `free_convolutions` leaves
    cuDNN on.
    """

    def __enter__(self) -> None:
        around: weakref.ref[full_precision] | None = getattr(_thread, "block", None)
        self._outermost = around is None or around() is None
        if not self._outermost:
            return
        _switch_off(self)
        self._autocasts = _autocasts() if torch._C._is_any_autocast_enabled() else ()
        for autocast in self._autocasts:
            autocast.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._outermost:
            return
        for autocast in reversed(self._autocasts):
            autocast.__exit__(kind, error, trace)
        _restore(self)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function with such a block around every call."""

        @functools.wraps(function)
        def run(*arguments: P.args, **named: P.kwargs) -> R:
            with full_precision():
                return function(*arguments, **named)

        return run


def _autocasts() -> list[torch.autocast]:
    return [torch.autocast(device, enabled=False) for device in _AUTOCAST_DEVICES if torch.is_autocast_enabled(device)]


def _switches() -> _Switches:
    return [read() for read in _read], torch._C._get_cudnn_enabled(), torch._C._get_nnpack_enabled()


def _switch_off(block: full_precision) -> None:
    """Turn every shortcut off, and keep what the switches said."""
    global _before
    with _lock:
        # A block that was lost has left the switches off, and what they said before; unless they were set since.
        is_lost = _before is not None and not _blocks and _switches() == (["ieee"] * len(_read), False, False)
        if not (_blocks or is_lost):
            _before = _switches()
        assert _before is not None
        torch._C._set_cudnn_enabled(_before[1] and _free_convolutions)
        torch._C._set_nnpack_enabled(False)
        for write in _write:
            write("ieee")
        _blocks.add(block)
    _thread.block = weakref.ref(block)


def _restore(block: full_precision) -> None:
    """Turn the switches back if no other thread is inside."""
    global _before
    _thread.block = None
    with _lock:
        _blocks.discard(block)
        if _blocks or _before is None:
            return
        precisions, cudnn, nnpack = _before
        torch._C._set_cudnn_enabled(cudnn)
        torch._C._set_nnpack_enabled(nnpack)
        for read, write, precision in zip(_read, _write, precisions, strict=True):
            # PyTorch does not say whether a value was inherited. One that inheriting gives is, so that a later
            # change of the switch above reaches it.
            write("none")
            if read() != precision:
                write(precision)
        _before = None


# Variables of the environment that let products be less than IEEE arithmetic behind every switch of PyTorch: the device
# whose libraries read them, the values that leave products as they are, and what the others do.
_VARIABLES = (
    ("ONEDNN_DEFAULT_FPMATH_MODE", "cpu", ("", "strict"), "lets oneDNN round operands to fewer bits"),
    ("DNNL_DEFAULT_FPMATH_MODE", "cpu", ("", "strict"), "lets oneDNN round operands to fewer bits"),
    ("CUBLAS_EMULATE_SINGLE_PRECISION", "cuda", ("", "0"), "lets cuBLAS put products together from bfloat16 ones"),
    ("CUBLAS_EMULATE_DOUBLE_PRECISION", "cuda", ("", "0"), "lets cuBLAS put products together from integer ones"),
    ("NVIDIA_TF32_OVERRIDE", "cuda", ("", "0"), "may let NVIDIA's libraries round operands to TF32"),
    ("LBP_CUDA_TENSOR_CORES", "cuda", ("", "0"), "runs products on tensor cores, whose sums nobody has specified"),
)

# Libraries read them once, early: what they said then counts as well.
_AT_IMPORT = {name: os.environ.get(name, "") for name, *_ in _VARIABLES}


_FAR_BELOW_ONE = 2.0**-55
"""Less than a half of the distance from 1 to either of its neighbours; a variable, which Python adds at run time."""


def check_products(device: torch.device) -> None:
    """Check that nothing in the environment keeps products and sums from being those of IEEE arithmetic.

    Raises:
        UnanalysedRoundingError: a variable does, `free_convolutions`, or the rounding mode of this thread.
    """
    if not (1.0 + _FAR_BELOW_ONE == 1.0 == 1.0 - _FAR_BELOW_ONE):
        raise UnanalysedRoundingError(
            "rounding: this thread does not round to nearest; some library has left it with another rounding mode "
            "(fesetround)"
        )
    if _free_convolutions and device.type == "cuda":
        raise UnanalysedRoundingError(
            "rounding: convolutions are left to cuDNN while a training step runs, and nobody has analysed its "
            "algorithms; compute these bounds outside of it, or use rounding='nearest'"
        )
    for name, kind, harmless, effect in _VARIABLES:
        for found in (_AT_IMPORT[name], os.environ.get(name, "")):
            if kind == device.type and found.lower() not in harmless:
                raise UnanalysedRoundingError(
                    f"rounding: the environment has {name}={found}, which {effect}; start without it, or use "
                    "rounding='nearest', whose bounds may be wrong by rounding"
                )


X86_64 = ("x86_64", "AMD64")


def check_convolution(name: str, weight: Tensor, stride: tuple[int, int], dilation: tuple[int, int]) -> None:
    """Check that PyTorch does not convolve by Winograd's algorithm where cuDNN, NNPACK and oneDNN are kept from it.

    On ARM and RISC-V it has an implementation of its own, without a switch, for float32 kernels of 3x3 taps on single
    channels (depthwise convolutions, and the first one of a grey image). Of all processors only x86-64 is known to be
    free of it.

    Args:
        name: of the layer.
        weight: [C_out, C_in / groups, kh, kw].
        stride: of the convolution.
        dilation: of the convolution.

    Raises:
        UnanalysedRoundingError: it may.
    """
    machine = platform.machine()
    if machine in X86_64 or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return
    if tuple(weight.shape[1:]) == (1, 3, 3) and stride == dilation == (1, 1):
        raise UnanalysedRoundingError(
            f"rounding: PyTorch may compute the convolution {name!r}, 3x3 on single channels in float32, by Winograd's "
            f"algorithm on this processor ({machine}), whose errors are not analysed; use float64, or "
            "rounding='nearest', whose bounds may be wrong by rounding"
        )
