"""Transposed convolutions: convolutions of the image with zeros between its pixels, with the kernel turned around."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lbp.graph.average_pool import image_source
from lbp.graph.base import BoundNode
from lbp.graph.conv import Conv2dNode, Geometry, pair
from lbp.graph.gather import gathered
from lbp.graph.registry import REQUIRED, Call, for_functions, for_modules
from lbp.graph.values import Expression, Literal, Value

_OPTIONS = ("stride", "padding", "output_padding", "groups", "dilation")


def _transposed(call: Call, operand: Any, weight: Value, bias: Value, options: dict[str, Any]) -> BoundNode:
    source, kernel = image_source(call, operand), tuple(weight.read().shape[-2:])
    stride, padding, dilation = (pair(options[name]) for name in ("stride", "padding", "dilation"))
    before = [dilation[i] * (kernel[i] - 1) - padding[i] for i in range(2)]
    # What stands after the image follows from the size of the result, which is given by output_padding or output_size.
    lengths = [call.shape[1 + i] + dilation[i] * (kernel[i] - 1) for i in range(2)]

    def stretched(image: Tensor) -> Tensor:
        examples, channels, *sizes = image.shape
        height, width = ((size - 1) * step + 1 for size, step in zip(sizes, stride, strict=True))
        wide = image.new_zeros(examples, channels, height, width)
        wide[..., :: stride[0], :: stride[1]] = image
        after = [lengths[0] - height - before[0], lengths[1] - width - before[1]]
        return functional.pad(wide, (before[1], after[1], before[0], after[0]))

    image = gathered(call, f"{call.name}/stretched", source, stretched, (2, *source.shape))
    turned = Expression(_turned, (weight, Literal(options["groups"])))
    geometry = Geometry(dilation=dilation, groups=options["groups"])
    return Conv2dNode(call.name, image, call.shape, turned, bias, geometry)


def _turned(weight: Tensor, groups: int) -> Tensor:
    """Return a kernel [C_in, C_out / groups, ...] of a transposed convolution as one [C_out, C_in / groups, ...]."""
    inputs, outputs, *kernel = weight.shape
    turned = weight.reshape(groups, inputs // groups, outputs, *kernel).transpose(1, 2)
    return turned.flatten(0, 1).flip(-2, -1)


@for_modules(nn.ConvTranspose2d)
def _module(call: Call) -> BoundNode:
    options = {name: getattr(call.module, name) for name in _OPTIONS}
    return _transposed(call, call.operand(), call.attribute("weight"), call.attribute("bias"), options)


@for_functions(functional.conv_transpose2d, torch.conv_transpose2d)
def _function(call: Call) -> BoundNode:
    args = call.bind(
        input=REQUIRED, weight=REQUIRED, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
    )
    options = {name: call.static(args[name]) for name in _OPTIONS}
    return _transposed(call, args["input"], call.value(args["weight"]), call.value(args["bias"]), options)
