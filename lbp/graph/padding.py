"""Padding by zeros and by pixels of the image, and images enlarged to the nearest pixel."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.nn import functional

from lbp.graph.base import BoundNode
from lbp.graph.gather import gathered, moved
from lbp.graph.registry import REQUIRED, Call, for_functions, for_modules
from lbp.graph.shape import ZeroPadNode


@for_modules(nn.ConstantPad1d, nn.ConstantPad2d, nn.ZeroPad1d, nn.ZeroPad2d)
def _padding_module(call: Call) -> BoundNode:
    module: Any = call.module
    return _padded(call, call.operand(), tuple(module.padding), module.value)


@for_modules(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d)
@for_modules(nn.CircularPad1d, nn.CircularPad2d)
def _padding_by_pixels(call: Call) -> BoundNode:
    return moved(call)


@for_functions(functional.pad)
def _padding_function(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, pad=REQUIRED, mode="constant", value=None)
    if call.static(args["mode"]) != "constant":
        return moved(call)
    return _padded(call, args["input"], tuple(call.static(args["pad"])), call.static(args["value"]))


def _padded(call: Call, operand: Any, amounts: tuple[int, ...], value: Any) -> BoundNode:
    """Return the node of padding by a constant; the amounts before and after the last dimension come first."""
    if value:
        raise call.refuse(f"fills with {value}; zeros are supported")
    # Padding and cropping by as many examples as there are leaves nothing but zeros.
    if any(amounts[2 * (call.rank_of(operand) - 1) :]):
        raise call.refuse("pads the batch dimension")
    source, shape = call.node(operand), call.shape
    if len(source.shape) == 3 and len(amounts) <= 6 and min(amounts[4:], default=0) >= 0:
        left, right, top, bottom, front, behind = (*amounts, *[0] * (6 - len(amounts)))
        return ZeroPadNode(call.name, source, (left, right, top, bottom), (front, behind))
    node = gathered(call, call.name, source, partial(functional.pad, pad=amounts), call.shape_of_two(operand))
    assert node.shape == shape
    return node


@for_modules(nn.Upsample, nn.UpsamplingNearest2d)
def _enlarged_by_module(call: Call) -> BoundNode:
    module: Any = call.module
    return _enlarged(call, call.operand(), module.mode, module.scale_factor)


@for_functions(functional.interpolate)
def _enlarged_by_function(call: Call) -> BoundNode:
    args = call.bind(
        input=REQUIRED,
        size=None,
        scale_factor=None,
        mode="nearest",
        align_corners=None,
        recompute_scale_factor=None,
        antialias=False,
    )
    return _enlarged(call, args["input"], call.static(args["mode"]), call.static(args["scale_factor"]))


def _enlarged(call: Call, operand: Any, mode: str, scale: Any) -> BoundNode:
    if mode != "nearest":
        raise call.refuse(f"has mode={mode!r}; 'nearest' is supported")
    before, after = (shape[1:] for shape in (call.node(operand).shape, call.shape))
    # By a factor of 2.3, three pixels become six, and which is the nearest one differs between devices.
    factors = scale if isinstance(scale, tuple | list) else (scale,)
    if any(factor is not None and factor % 1 for factor in factors):
        raise call.refuse(f"has scale_factor={scale}; 2, 4, 8, ... are supported")
    # So does, where the ratio is rounded, the nearest pixel of whole multiples.
    if any(new % old or (new // old).bit_count() != 1 for old, new in zip(before, after, strict=True)):
        raise call.refuse(f"resizes images of {list(before)} to {list(after)}; 2, 4, 8, ... times as much is supported")
    return moved(call)
