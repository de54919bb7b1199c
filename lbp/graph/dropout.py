"""Dropout: the identity in evaluation, refused where it would drop something."""

from __future__ import annotations

from torch import nn
from torch.nn import functional

from lbp.errors import UnsupportedLayerError
from lbp.graph.base import BoundNode
from lbp.graph.registry import REQUIRED, Call, for_functions, for_modules
from lbp.graph.values import Expression, Literal


def _refuse_active(training: bool, p: float, where: str) -> None:
    if training and p > 0:
        raise UnsupportedLayerError(
            f"{where} is in training mode with p={p}: a random network has no bounds. Call eval() on it, or set p to 0"
        )


@for_modules(nn.Dropout, nn.Dropout1d, nn.Dropout2d)
def _dropout_module(call: Call) -> BoundNode:
    active = (call.attribute("training"), call.attribute("p"), Literal(call.describe()))
    call.guards.append(Expression(_refuse_active, active).read)
    return call.node(call.operand())


@for_functions(functional.dropout, functional.dropout1d, functional.dropout2d)
def _dropout_function(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, p=0.5, training=True, inplace=False)
    active = (Literal(call.static(args["training"])), call.value(args["p"]), Literal(call.describe()))
    call.guards.append(Expression(_refuse_active, active).read)
    return call.node(args["input"])
