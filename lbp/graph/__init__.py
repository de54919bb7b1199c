"""A model as a graph of bound nodes. Importing the package registers every layer."""

from lbp.graph import (
    activation,
    average_pool,
    batch_norm,
    conv,
    conv_transpose,
    dropout,
    elementwise,
    gather,
    join,
    linear,
    max_pool,
    one_dimension,
    padding,
    reduce,
    shape,
    slicing,
)
from lbp.graph.base import BoundNode, InputNode, Relaxations
from lbp.graph.lowering import build_network
from lbp.graph.network import Network, last_uses, pre_activations

LAYERS = (
    activation,
    average_pool,
    batch_norm,
    conv,
    conv_transpose,
    dropout,
    elementwise,
    gather,
    join,
    linear,
    max_pool,
    one_dimension,
    padding,
    reduce,
    shape,
    slicing,
)
"""Modules that hold the layers; each registers its own."""

__all__ = [
    "LAYERS",
    "BoundNode",
    "InputNode",
    "Network",
    "Relaxations",
    "build_network",
    "last_uses",
    "pre_activations",
]
