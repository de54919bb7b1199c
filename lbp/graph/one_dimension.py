"""Convolution and pooling along one dimension: those of an image of one row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lbp.graph.average_pool import make_adaptive_average_pool, make_average_pool
from lbp.graph.base import BoundNode
from lbp.graph.conv import make_conv2d, padded_source
from lbp.graph.max_pool import function_options, make_max_pool
from lbp.graph.registry import REQUIRED, Call, for_functions, for_modules
from lbp.graph.shape import ReshapeNode
from lbp.graph.values import Expression, Value


def _row(call: Call, source: BoundNode) -> BoundNode:
    """Return a layer [C, L] as an image [C, 1, L]."""
    if len(source.shape) != 2:
        raise call.refuse(f"takes an input of shape [B, C, L], its input has shape {list(source.shape)} per example")
    channels, length = source.shape
    return ReshapeNode(f"{call.name}/row", source, (channels, 1, length))


def _row_shape(call: Call) -> tuple[int, ...]:
    channels, length = call.shape
    return channels, 1, length


def _of_image(call: Call, image: BoundNode) -> BoundNode:
    """Return the result [C, L] of a layer of images of one row."""
    return ReshapeNode(call.name, image, call.shape)


def _across(value: Any, of_rows: int) -> Any:
    """Return an option of a layer of one dimension as that of an image: a number for rows, and the given one."""
    if value is None or isinstance(value, str):
        return value
    return (of_rows, value if isinstance(value, int) else value[0])


def _convolved(call: Call, source: BoundNode, weight: Value, bias: Value, options: dict[str, Any]) -> BoundNode:
    least = {"stride": 1, "padding": 0, "dilation": 1}
    of_image = options | {name: _across(options[name], low) for name, low in least.items()}
    kernel, name = Expression(_as_kernel, (weight,)), f"{call.name}/image"
    return _of_image(call, make_conv2d(call, name, _row(call, source), _row_shape(call), kernel, bias, of_image))


def _as_kernel(weight: Tensor) -> Tensor:
    return weight.unsqueeze(2)


@for_modules(nn.Conv1d)
def _conv1d_module(call: Call) -> BoundNode:
    source, options = padded_source(call, call.node(call.operand()))
    return _convolved(call, source, call.attribute("weight"), call.attribute("bias"), options)


@for_functions(functional.conv1d, torch.conv1d)
def _conv1d_function(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, weight=REQUIRED, bias=None, stride=1, padding=0, dilation=1, groups=1)
    options = {name: call.static(args[name]) for name in ("stride", "padding", "dilation", "groups")}
    return _convolved(call, call.node(args["input"]), call.value(args["weight"]), call.value(args["bias"]), options)


_WINDOW = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}


def _on_image(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a pooling layer of one dimension as those of an image."""
    given = {name: value if value not in ([], ()) else None for name, value in options.items()}
    return given | {name: _across(given[name], of_rows) for name, of_rows in _WINDOW.items() if name in given}


def _averaged(call: Call, operand: Any, options: dict[str, Any]) -> BoundNode:
    given, image = _on_image(options) | {"divisor_override": None}, _row(call, call.node(operand))
    return _of_image(call, make_average_pool(f"{call.name}/image", image, _row_shape(call), given))


@for_modules(nn.AvgPool1d)
def _average_pool_module(call: Call) -> BoundNode:
    keys = ("kernel_size", "stride", "padding", "count_include_pad")
    return _averaged(call, call.operand(), {key: getattr(call.module, key) for key in keys})


@for_functions(functional.avg_pool1d)
def _average_pool_function(call: Call) -> BoundNode:
    args = call.bind(
        input=REQUIRED, kernel_size=REQUIRED, stride=None, padding=0, ceil_mode=False, count_include_pad=True
    )
    operand = args.pop("input")
    return _averaged(call, operand, {key: call.static(value) for key, value in args.items()})


@for_modules(nn.AdaptiveAvgPool1d)
@for_functions(functional.adaptive_avg_pool1d)
def _adaptive_average_pool(call: Call) -> BoundNode:
    image = _row(call, call.node(call.operand()))
    return _of_image(call, make_adaptive_average_pool(f"{call.name}/image", image, _row_shape(call)))


def _largest(call: Call, operand: Any, options: dict[str, Any]) -> BoundNode:
    image, given = _row(call, call.node(operand)), _on_image(options)
    return _of_image(call, make_max_pool(call, f"{call.name}/image", image, _row_shape(call), given))


@for_modules(nn.MaxPool1d)
def _max_pool_module(call: Call) -> BoundNode:
    keys = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    return _largest(call, call.operand(), {key: getattr(call.module, key) for key in keys})


@for_functions(functional.max_pool1d, torch.max_pool1d)
def _max_pool_function(call: Call) -> BoundNode:
    return _largest(call, *function_options(call))
