"""Pools and means."""

from __future__ import annotations

import math

from torch import nn

from lbp.onnx_import.modules import Permute, Reshape, ScaleShift
from lbp.onnx_import.registry import OnnxCall, for_operators
from lbp.onnx_import.windows import Window, window_of


@for_operators("AveragePool")
def _average_pool(call: OnnxCall) -> nn.Module:
    window = _image_window(call)
    if max(window.dilation) > 1:
        raise call.refuse(f"has dilations {list(window.dilation)}; 1 is supported")
    counts_padding = bool(call.attribute("count_include_pad", 0))
    if not window.is_symmetric and not counts_padding:
        raise call.refuse("has padding that differs between the ends and does not count in the mean")
    pool = nn.AvgPool2d(
        window.kernel,  # type: ignore[arg-type]
        window.stride,  # type: ignore[arg-type]
        window.symmetric_padding(),  # type: ignore[arg-type]
        count_include_pad=counts_padding,
    )
    return window.padded(pool)


@for_operators("MaxPool")
def _max_pool(call: OnnxCall) -> nn.Module:
    window = _image_window(call)
    if not window.is_symmetric:
        raise call.refuse("has padding that differs between the two ends of the image")
    if any(2 * pad > kernel for pad, kernel in zip(window.before, window.kernel, strict=True)):
        raise call.refuse("has padding of more than half its window")
    return nn.MaxPool2d(window.kernel, window.stride, window.before, window.dilation)


@for_operators("GlobalAveragePool")
def _global_average_pool(call: OnnxCall) -> nn.Module:
    return _mean(call, list(range(2, len(call.shape()))), keep=True)


@for_operators("GlobalMaxPool")
def _global_max_pool(call: OnnxCall) -> nn.Module:
    shape = call.shape()
    if len(shape) != 4:
        raise call.refuse("is supported on images [B, C, H, W]")
    return nn.MaxPool2d(shape[2:])


@for_operators("ReduceMean")
def _reduce_mean(call: OnnxCall) -> nn.Module:
    return _mean(call, _reduced(call), keep=bool(call.attribute("keepdims", 1)))


@for_operators("ReduceSum")
def _reduce_sum(call: OnnxCall) -> nn.Module:
    axes = _reduced(call)
    count = math.prod(call.shape()[axis] for axis in axes)
    mean = _mean(call, axes, keep=bool(call.attribute("keepdims", 1)))
    return nn.Sequential(mean, ScaleShift(call.number(count)))


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


def _mean(call: OnnxCall, axes: list[int], *, keep: bool) -> nn.Module:
    """Return the mean over some dimensions: these moved last, and pooled as an image of height 1."""
    shape = call.shape()
    kept = [axis for axis in range(1, len(shape)) if axis not in axes]
    rows = math.prod(shape[axis] for axis in kept)
    count = math.prod(shape[axis] for axis in axes)
    result = [1 if axis in axes else shape[axis] for axis in range(1, len(shape)) if keep or axis not in axes]
    return nn.Sequential(
        Permute((0, *kept, *sorted(axes))), Reshape((rows, 1, count)), nn.AdaptiveAvgPool2d(1), Reshape(tuple(result))
    )


def _image_window(call: OnnxCall) -> Window:
    if len(call.shape()) != 4:
        raise call.refuse("is supported on images [B, C, H, W]")
    window = window_of(call, call.attribute("kernel_shape", []))
    if call.attribute("ceil_mode", 0) and window.outputs() != window.outputs(ceil=True):
        raise call.refuse("has ceil_mode with windows over the edge of the image")
    return window
