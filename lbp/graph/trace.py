"""The model as a torch.fx graph, with the shape of every intermediate value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from lbp.errors import InvalidInputError, UnsupportedLayerError
from lbp.nn import GlobalBatchNorm, LeakyReLU, ParamRamp

BATCH_SIZES = (2, 3)
"""Batch sizes of the two shape runs: what depends on the batch size differs between them."""

_OWN_LEAVES = (GlobalBatchNorm, LeakyReLU, ParamRamp)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, GlobalBatchNorm)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_DROPOUT_FUNCTIONS = {
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
}


class TensorShape(tuple[int, ...]):
    """The shape of a tensor; a plain tuple is a value of its own."""


@dataclass(frozen=True)
class Trace:
    """A traced model.

    Attributes:
        graph: the operations in order.
        results: per batch size of `BATCH_SIZES` and operation: a tensor's `TensorShape`, or any other value itself.
        overwrites: operations that change a value in place which a later operation reads again, with that value.
    """

    graph: fx.Graph
    results: tuple[dict[fx.Node, Any], ...]
    overwrites: dict[fx.Node, fx.Node]


class BoundTracer(fx.Tracer):
    """Keeps PyTorch's own layers and lbp's whole and traces through every other module."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _OWN_LEAVES) or super().is_leaf_module(m, module_qualified_name)


class _ShapeRun(fx.Interpreter):
    """Runs the trace once, without the effects of a training step: no running statistics, no random numbers."""

    def __init__(self, module: fx.GraphModule) -> None:
        # Every value stays alive, so that equal storage means an alias and not memory used again.
        super().__init__(module, garbage_collect_values=False)
        self.mutations: dict[fx.Node, list[fx.Node]] = {}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        if isinstance(module, _BATCH_NORMS):
            return args[0].clone()
        return args[0] if isinstance(module, _DROPOUTS) else super().call_module(target, args, kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is functional.batch_norm:
            return args[0].clone()
        return args[0] if target in _DROPOUT_FUNCTIONS else super().call_function(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        versions = {arg: _version(self.env[arg]) for arg in n.all_input_nodes}
        result = super().run_node(n)
        self.mutations[n] = [arg for arg, version in versions.items() if _version(self.env[arg]) != version]
        return result


def _version(value: Any) -> int:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def trace_model(model: nn.Module, example: Tensor) -> Trace:
    """Trace a model and run it on zeros shaped like the example to learn every shape.

    Args:
        model: any module that torch.fx can trace.
        example: [B, *shape]; only shape, dtype and device are used.

    Raises:
        UnsupportedLayerError: the model cannot be traced, or changes a buffer when it runs.
        InvalidInputError: the model does not run on inputs of the example's shape with another batch size.
    """
    before = {name: _version(buffer) for name, buffer in model.named_buffers() if not is_lazy(buffer)}
    try:
        graph = BoundTracer().trace(model)
    except Exception as error:
        # Tracing runs the model's own code, which may fail in any way on symbolic values.
        raise UnsupportedLayerError(
            f"torch.fx cannot trace {type(model).__name__}: {error}. The forward pass must not branch on values of "
            "tensors; move such code out of the model"
        ) from error
    for name, buffer in model.named_buffers():
        if _version(buffer) != before.get(name, _version(buffer)):
            raise UnsupportedLayerError(
                f"the forward pass of {type(model).__name__} changes the buffer {name!r}, of shape "
                f"{list(buffer.shape)}, in place (tracing just did): a network that changes as it runs has no bounds"
            )
    module = fx.GraphModule(model, graph)
    runs = [_shape_run(module, model, example, batch) for batch in BATCH_SIZES]
    results = tuple({node: _summary(run.env[node]) for node in run.env} for run in runs)
    return Trace(graph, results, _overwrites(graph, runs[0]))


def _shape_run(module: fx.GraphModule, model: nn.Module, example: Tensor, batch: int) -> _ShapeRun:
    run = _ShapeRun(module)
    x = torch.zeros(batch, *example.shape[1:], dtype=example.dtype, device=example.device)
    try:
        with torch.no_grad():
            run.run(x)
    except UnsupportedLayerError:
        raise
    except Exception as error:
        raise InvalidInputError(
            f"{type(model).__name__} does not run on an input of shape {list(x.shape)}, {x.dtype}, on {x.device} (the "
            f"shape of global_input, with batch size {batch}; the batch size must be free): {error}"
        ) from error
    return run


def _summary(value: Any) -> Any:
    return TensorShape(value.shape) if isinstance(value, Tensor) else value


def _overwrites(graph: fx.Graph, run: _ShapeRun) -> dict[fx.Node, fx.Node]:
    """Find in-place operations whose old value is read again later, directly or through a view."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    storages = {
        node: value.untyped_storage().data_ptr() for node, value in run.env.items() if isinstance(value, Tensor)
    }
    found: dict[fx.Node, fx.Node] = {}
    for node, changed in run.mutations.items():
        touched = {storages[arg] for arg in changed if arg in storages}
        for other, storage in storages.items():
            earlier = storage in touched and position[other] < position[node]
            if earlier and any(position[user] > position[node] for user in other.users):
                found[node] = other
    return found
