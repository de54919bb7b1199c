"""How much of a call's time its matrix products and convolutions take."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from lbp.bench.timing import Call

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's notes about itself

_MATRIX_PRODUCTS = {"aten::mm": (0, 1), "aten::addmm": (1, 2), "aten::bmm": (0, 1), "aten::baddbmm": (1, 2)}
_CONVOLUTIONS = ("aten::convolution", "aten::convolution_backward")


@dataclass(frozen=True)
class Products:
    """The matrix products and convolutions of one call.

    Attributes:
        seconds: that they take together.
        operations: that they do; a multiply-add counts as two.
    """

    seconds: float
    operations: int


def measure_products(call: Call, device: torch.device) -> Products:
    """Runs a call once under the profiler and adds up its library products; own kernels are not among them."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities, record_shapes=True) as record:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    seconds, operations = 0.0, 0
    for event in record.events() or ():
        if event.name in _MATRIX_PRODUCTS or event.name in _CONVOLUTIONS:
            microseconds = event.device_time_total if device.type == "cuda" else event.cpu_time_total
            seconds += microseconds / 1e6
            operations += _operations(event)
    return Products(seconds, operations)


def _operations(event: Any) -> int:
    shapes = event.input_shapes
    if event.name in _MATRIX_PRODUCTS:
        left, right = (shapes[i] for i in _MATRIX_PRODUCTS[event.name])
        return 2 * math.prod(map(int, left)) * int(right[-1])
    if event.name == "aten::convolution":
        return 2 * _convolution(shapes[0], shapes[1], event.concrete_inputs)
    # The gradient of a convolution: a product for each of input and weight that is wanted.
    output, data, weight = shapes[:3]
    wanted: Sequence[bool] = event.concrete_inputs[10]
    return 2 * sum(wanted[:2]) * _places(output, data, weight, bool(event.concrete_inputs[7]))


def _convolution(data: Sequence[int], weight: Sequence[int], arguments: Sequence[Any]) -> int:
    """Multiply-adds: of a convolution, every output times the kernel; of a transposed one, every input."""
    stride, padding, dilation, transposed = arguments[3], arguments[4], arguments[5], arguments[6]
    if transposed:
        return math.prod(data) * math.prod(weight[1:])
    sizes: list[int] = [
        (size + 2 * pad - step * (kernel - 1) - 1) // jump + 1
        for size, kernel, jump, pad, step in zip(data[2:], weight[2:], stride, padding, dilation, strict=True)
    ]
    return int(data[0]) * math.prod(weight) * math.prod(sizes)


def _places(output: Sequence[int], data: Sequence[int], weight: Sequence[int], transposed: bool) -> int:
    return math.prod(data) * math.prod(weight[1:]) if transposed else math.prod(output) * math.prod(weight[1:])
