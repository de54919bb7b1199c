"""Pools, sums and means."""

from __future__ import annotations

from typing import Any

from torch import nn

from lbp.onnx_import.modules import Reduce
from lbp.onnx_import.registry import OnnxCall, for_operators
from lbp.onnx_import.windows import Window, window_of


@for_operators("AveragePool")
def _average_pool(call: OnnxCall) -> nn.Module:
    window = _pooling_window(call)
    if max(window.dilation) > 1:
        raise call.refuse(f"has dilations {list(window.dilation)}; 1 is supported")
    counts_padding = bool(call.attribute("count_include_pad", 0))
    if not window.is_symmetric and not counts_padding:
        raise call.refuse("has padding that differs between the ends and does not count in the mean")
    kind: Any = nn.AvgPool1d if len(window.kernel) == 1 else nn.AvgPool2d
    pool: nn.Module = kind(window.kernel, window.stride, window.symmetric_padding(), count_include_pad=counts_padding)
    return window.padded(pool)


@for_operators("MaxPool")
def _max_pool(call: OnnxCall) -> nn.Module:
    window = _pooling_window(call)
    if not window.is_symmetric:
        raise call.refuse("has padding that differs between the two ends of the image")
    if any(2 * pad > kernel for pad, kernel in zip(window.before, window.kernel, strict=True)):
        raise call.refuse("has padding of more than half its window")
    kind: type[nn.Module] = nn.MaxPool1d if len(window.kernel) == 1 else nn.MaxPool2d
    return kind(window.kernel, window.stride, window.before, window.dilation)


@for_operators("GlobalAveragePool")
def _global_average_pool(call: OnnxCall) -> nn.Module:
    return _over(list(range(2, len(call.shape()))), mean=True, keep=True)


@for_operators("GlobalMaxPool")
def _global_max_pool(call: OnnxCall) -> nn.Module:
    shape = call.shape()
    if len(shape) != 4:
        raise call.refuse("is supported on images [B, C, H, W]")
    return nn.MaxPool2d(shape[2:])


@for_operators("ReduceMean")
def _reduce_mean(call: OnnxCall) -> nn.Module:
    return _over(_reduced(call), mean=True, keep=bool(call.attribute("keepdims", 1)))


@for_operators("ReduceSum")
def _reduce_sum(call: OnnxCall) -> nn.Module:
    return _over(_reduced(call), mean=False, keep=bool(call.attribute("keepdims", 1)))


def _reduced(call: OnnxCall) -> list[int]:
    given = call.integers("axes", 1)
    if not given:
        if call.attribute("noop_with_empty_axes", 0):
            return []
        raise call.refuse("reduces over all dimensions, the batch included")
    axes = call.axes(given)
    if 0 in axes:
        raise call.refuse("reduces over the batch dimension")
    return axes


def _over(axes: list[int], *, mean: bool, keep: bool) -> nn.Module:
    # PyTorch takes no dimensions for all of them.
    return Reduce(tuple(axes), mean=mean, keep=keep) if axes else nn.Identity()


def _pooling_window(call: OnnxCall) -> Window:
    if len(call.shape()) not in (3, 4):
        raise call.refuse("is supported on images [B, C, H, W] and lines [B, C, L]")
    window = window_of(call, call.attribute("kernel_shape", []))
    if call.attribute("ceil_mode", 0) and window.outputs() != window.outputs(ceil=True):
        raise call.refuse("has ceil_mode with windows over the edge of the image")
    return window
