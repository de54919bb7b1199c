"""Activations: everything that is piecewise linear with slopes in [0, 1]."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from lbp.onnx_import.modules import AtLeast, AtMost, ScaleShift
from lbp.onnx_import.registry import OnnxCall, for_operators


@for_operators("Relu")
def _relu(call: OnnxCall) -> nn.Module:
    return nn.ReLU()


@for_operators("LeakyRelu")
def _leaky_relu(call: OnnxCall) -> nn.Module:
    return _leaky(call, float(call.attribute("alpha", 0.01)))


@for_operators("PRelu")
def _parametric_relu(call: OnnxCall) -> nn.Module:
    slopes = call.tensor(1).unique()
    if len(slopes) != 1:
        raise call.refuse(f"has {len(slopes)} different slopes; one slope for all neurons is supported")
    return _leaky(call, float(slopes))


def _leaky(call: OnnxCall, slope: float) -> nn.Module:
    if not 0 <= slope <= 1:
        raise call.refuse(f"has the slope {slope}; slopes in [0, 1] are supported")
    return nn.LeakyReLU(slope)


@for_operators("Clip")
def _clip(call: OnnxCall) -> nn.Module:
    low, high = _limit(call, "min", 1), _limit(call, "max", 2)
    if low == 0 and high is None:
        return nn.ReLU()
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if not low < high:
        raise call.refuse(f"clips to [{low}, {high}]; the upper limit must be larger than the lower one")
    return nn.Hardtanh(low, high)


def _limit(call: OnnxCall, name: str, index: int) -> float | None:
    """Return one limit of Clip; None where it is left out or no number in use reaches it."""
    given = call.attribute(name)
    value = call.constant(index) if given is None else np.asarray(given)
    if value is None:
        return None
    if value.size != 1:
        raise call.refuse(f"has the limits {value.tolist()}; one number for all neurons is supported")
    limit, unlimited = float(value.item()), torch.finfo(call.dtype).max
    if limit <= -unlimited if name == "min" else limit >= unlimited:
        return None
    if given is None:
        call.floats(index)  # refuses a limit that is no number of the network's format
    return limit


@for_operators("Max")
def _max(call: OnnxCall) -> nn.Module:
    limit = _only_constant(call)
    return nn.ReLU() if bool((limit == 0).all()) else AtLeast(limit)


@for_operators("Min")
def _min(call: OnnxCall) -> nn.Module:
    return AtMost(_only_constant(call))


def _only_constant(call: OnnxCall) -> Tensor:
    """Return the constant of an operator on one value and one constant."""
    if len(call.node.input) != 2 or len(call.sources) != 1:
        raise call.refuse("takes several values of the network; one and a constant are supported")
    return broadcast_constant(call, 0 if call.is_bound(1) else 1)


@for_operators("HardSigmoid")
def _hard_sigmoid(call: OnnxCall) -> nn.Module:
    slope, offset = (call.number(call.attribute(*given)) for given in (("alpha", 0.2), ("beta", 0.5)))
    return nn.Sequential(ScaleShift(slope, offset), nn.Hardtanh(0.0, 1.0))


def broadcast_constant(call: OnnxCall, index: int) -> Tensor:
    """Return a constant that broadcasts to the other input without changing its shape or treating examples apart."""
    constant = call.tensor(index)
    shape = call.shape(1 - index)
    if len(constant.shape) > len(shape) or (len(constant.shape) == len(shape) and constant.shape[0] != 1):
        raise call.refuse(f"combines it with a constant of shape {list(constant.shape)}, which has a batch of its own")
    return constant
