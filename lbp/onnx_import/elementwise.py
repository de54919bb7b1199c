"""Arithmetic with constants, and sums of branches."""

from __future__ import annotations

from torch import nn

from lbp.onnx_import.activations import broadcast_constant
from lbp.onnx_import.modules import Combine, Divide, ScaleShift
from lbp.onnx_import.registry import OnnxCall, for_operators


@for_operators("Add", "Sum")
def _add(call: OnnxCall) -> nn.Module:
    if len(call.node.input) != 2:
        raise call.refuse(f"adds {len(call.node.input)} values; two are supported")
    constant = _constant_side(call)
    return Combine() if constant is None else ScaleShift(shift=broadcast_constant(call, constant))


@for_operators("Sub")
def _sub(call: OnnxCall) -> nn.Module:
    constant = _constant_side(call)
    if constant is None:
        return Combine(-1.0)
    value = broadcast_constant(call, constant)
    return ScaleShift(shift=-value) if constant == 1 else ScaleShift(call.number(-1.0), value)


@for_operators("Mul")
def _mul(call: OnnxCall) -> nn.Module:
    constant = _constant_side(call)
    if constant is None:
        raise call.refuse(
            "multiplies two values that both depend on the network's input; bounds of products are missing"
        )
    return ScaleShift(broadcast_constant(call, constant))


@for_operators("Div")
def _div(call: OnnxCall) -> nn.Module:
    if call.is_bound(1):
        raise call.refuse("divides by a value that depends on the network's input")
    divisor = broadcast_constant(call, 1)
    if bool((divisor == 0).any()):
        raise call.refuse("divides by zero")
    return Divide(divisor)


@for_operators("Neg")
def _neg(call: OnnxCall) -> nn.Module:
    return ScaleShift(call.number(-1.0))


def _constant_side(call: OnnxCall) -> int | None:
    """Return which of the two inputs is constant, None if neither is."""
    if call.attribute("axis") is not None:
        raise call.refuse("aligns its inputs by the attribute axis of versions before 7; convert the file to opset 7")
    ranks = {len(call.shape(index)) for index in (0, 1) if call.is_bound(index)}
    if len(ranks) > 1:
        raise call.refuse("combines values of different numbers of dimensions, which would align a batch with another")
    return next((index for index in (0, 1) if not call.is_bound(index)), None)
