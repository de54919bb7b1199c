"""From a traced model to the graph of bound nodes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn

from lbp.errors import UnsupportedLayerError
from lbp.graph.base import BoundNode, InputNode
from lbp.graph.batch_norm import fold_batch_norms
from lbp.graph.network import Network
from lbp.graph.registry import PARTS, BatchStatistics, Call, Guard, Known
from lbp.graph.shape_run import asks_for_shape, holds_tensor
from lbp.graph.structure import is_kept_whole
from lbp.graph.trace import TensorShape, Trace, reads_values, trace_model
from lbp.graph.values import Attribute, Expression, Literal, MethodCall, ModuleCall, Value


def build_network(model: nn.Module, example: Tensor, statistics: BatchStatistics) -> Network:
    """Trace a model and turn it into bound nodes.

    Args:
        model: the module; its parameters and buffers are read at every use of the graph.
        example: an input [B, *shape]; only shape, dtype and device are used.
        statistics: where the clean forward pass leaves the batch statistics of batch normalisation.

    Raises:
        UnsupportedLayerError: an operation without bounds, named by its path and type.
        InvalidInputError: the model does not run on inputs of that shape.
    """
    if is_kept_whole(model):
        model = nn.Sequential(model).train(model.training)
    return _Lowering(model, trace_model(model, example), statistics).run()


def check_trace(model: nn.Module, trace: Trace) -> None:
    """Refuse a trace that is not that of one function, in one format, for every batch size.

    Raises:
        UnsupportedLayerError: bounds do not follow an operation that made what the forward pass has asked about, or the
            result depends on an operation in another format than the input's.
    """
    _Lowering(model, trace, {}).lower(_ancestors(*trace.asked))
    _Lowering(model, trace, {}).check_formats()


class _Lowering:
    def __init__(self, model: nn.Module, trace: Trace, statistics: BatchStatistics) -> None:
        self.model = model
        self.trace = trace
        self.statistics = statistics
        self.nodes: dict[fx.Node, BoundNode] = {}
        self.parts: dict[fx.Node, tuple[BoundNode, ...]] = {}
        self.values: dict[fx.Node, Value] = {}
        self.guards: list[Guard] = []
        self.calls: Counter[str] = Counter()
        self.names: set[str] = set()

    def run(self) -> Network:
        output = self._output()
        # What the forward pass was told about shapes holds where bounds follow what made them.
        self.lower(_ancestors(output, *self.trace.asked))
        if output not in self.nodes:
            raise UnsupportedLayerError("the model's output does not depend on its input")
        root = fold_batch_norms(self.nodes[output])
        return Network(_topological(root), root, tuple(self.trace.results[0][output][1:]), self.guards)

    def lower(self, live: set[fx.Node]) -> None:
        for fx_node in self.trace.module.graph.nodes:
            self._check_overwrite(fx_node)
            if fx_node.op == "call_module":
                number = self.calls[str(fx_node.target)]
                self.calls[str(fx_node.target)] += 1
            else:
                number = 0
            if fx_node in live:
                self._lower(fx_node, number)

    def check_formats(self) -> None:
        """Refuse operations on the input, as far as the output needs them, in other formats than the input's."""
        graph = self.trace.module.graph
        live = _ancestors(*(node for node in graph.nodes if node.op == "output"))
        of_input: set[fx.Node] = set()
        for fx_node in graph.nodes:
            if fx_node.op == "placeholder":
                self.dtype = self.trace.results[0][fx_node].dtype
                of_input.add(fx_node)
            elif not of_input.isdisjoint(fx_node.all_input_nodes):
                of_input.add(fx_node)
                result = self.trace.results[0][fx_node]
                if fx_node in live and isinstance(result, TensorShape) and result.dtype.is_floating_point:
                    self._check_format(fx_node, self._call(fx_node, 0))

    def _output(self) -> fx.Node:
        result = next(node for node in self.trace.module.graph.nodes if node.op == "output").args[0]
        if not isinstance(result, fx.Node):
            # Lists and dictionaries are torch.fx's own in a trace.
            kind = type(result).__name__.removeprefix("immutable_")
            what = f"a {kind} of {len(result)}" if isinstance(result, tuple | list | dict) else repr(result)
            raise UnsupportedLayerError(
                f"the model must return a single tensor, it returns {what}; wrap it in a module that returns the one "
                "to bound"
            )
        return result

    def _check_overwrite(self, fx_node: fx.Node) -> None:
        if fx_node in self.trace.overwrites:
            raise self._call(fx_node, 0).refuse(
                f"changes {self.trace.overwrites[fx_node].name!r} in place, which is used again later; use the form "
                "that is not in place"
            )

    def _lower(self, fx_node: fx.Node, number: int) -> None:
        depends = any(source in self.nodes or self._is_shape(source) for source in fx_node.all_input_nodes)
        if fx_node.op == "placeholder":
            self._lower_input(fx_node)
        elif not depends:
            self.values[fx_node] = self._constant(fx_node)
        elif isinstance(self.trace.results[0][fx_node], TensorShape):
            call = self._call(fx_node, number)
            handler = call.handler()
            self._check_format(fx_node, call)
            self.nodes[fx_node] = handler(call)
        elif holds_tensor(self.trace.results[0][fx_node]):
            self.parts[fx_node] = self._several(self._call(fx_node, number), fx_node.target)
        elif reads_values(fx_node, self.trace.results[0]):
            raise self._call(fx_node, number).refuse(
                "makes numbers of values that depend on the input, which bounds would not follow"
            )

    def _several(self, call: Call, target: Any) -> tuple[BoundNode, ...]:
        if call.module is not None or target not in PARTS:
            raise call.refuse("returns several tensors")
        return PARTS[target](call)

    def _is_shape(self, fx_node: fx.Node) -> bool:
        """Whether a value is arithmetic on shapes: neither a tensor nor independent of the input."""
        return fx_node not in self.nodes and fx_node not in self.values

    def _check_format(self, fx_node: fx.Node, call: Call) -> None:
        if call.dtype != self.dtype:
            raise call.refuse(
                f"gives {call.dtype}, but the network's input is {self.dtype}, and bounds are computed in one format; "
                "convert what it combines, or the whole model, with .to()"
            )
        for source in fx_node.all_input_nodes:
            found = self.trace.results[0][source]
            # In place PyTorch computes with them as they are, and rounds the result alone.
            if isinstance(found, TensorShape) and _widens(found, self.dtype):
                raise call.refuse(
                    f"takes {source.name!r} of {found.dtype}, but the network's input is {self.dtype}, and bounds are "
                    "computed in one format; convert it, or the whole model, with .to()"
                )

    def _lower_input(self, fx_node: fx.Node) -> None:
        shape = self.trace.results[0][fx_node][1:]
        self.nodes[fx_node] = InputNode(self._unique(fx_node.name), tuple(shape))
        self.dtype = self.trace.results[0][fx_node].dtype

    def _constant(self, fx_node: fx.Node) -> Value:
        target = str(fx_node.target)
        if fx_node.op == "get_attr":
            made_by_trace = "." not in target and not hasattr(self.model, target)
            return Literal(getattr(self.trace.module, target)) if made_by_trace else Attribute(self.model, target)
        if self._is_fixed(fx_node):
            return Literal(self.trace.results[0][fx_node])
        args, kwargs = self._resolved(fx_node.args), self._resolved(fx_node.kwargs)
        if fx_node.op == "call_module":
            return Expression(ModuleCall(Attribute(self.model, target)), args, kwargs)
        if fx_node.op == "call_method":
            return Expression(MethodCall(target), args, kwargs)
        assert callable(fx_node.target)
        return Expression(fx_node.target, args, kwargs)

    def _is_fixed(self, fx_node: fx.Node) -> bool:
        """Whether a constant follows from shapes and formats of parameters alone, which a trace takes for fixed."""
        result = self.trace.results[0][fx_node]
        if isinstance(result, TensorShape) or holds_tensor(result) or reads_values(fx_node, self.trace.results[0]):
            return False
        return asks_for_shape(fx_node.op, fx_node.target, fx_node.args) or all(
            isinstance(self.values[source], Literal) for source in fx_node.all_input_nodes
        )

    def _resolved(self, argument: Any) -> Any:
        """Return arguments with the values of constants in place of their operations."""

        def resolve(part: Any) -> Any:
            return self.values[part] if isinstance(part, fx.Node) else part

        return fx.node.map_aggregate(argument, resolve)

    def _call(self, fx_node: fx.Node, number: int) -> Call:
        if fx_node.op == "call_module":
            name = str(fx_node.target) if number == 0 else f"{fx_node.target}:{number + 1}"
        else:
            name = fx_node.name
        unique = self._unique(name)
        known = Known(self.nodes, self.parts, self.values)
        return Call(self.trace, self.model, fx_node, unique, known, self.statistics, self.guards, number)

    def _unique(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self.names:
            count += 1
            candidate = f"{name}:{count}"
        self.names.add(candidate)
        return candidate


def _widens(shape: TensorShape, dtype: torch.dtype) -> bool:
    """Whether PyTorch computes in another format where a tensor meets those of a format; numbers it rounds first."""
    return len(shape) > 0 and torch.promote_types(shape.dtype, dtype) != dtype


def _ancestors(*results: fx.Node) -> set[fx.Node]:
    """Return the operations that results depend on."""
    found, queue = set(results), list(results)
    while queue:
        for source in queue.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                queue.append(source)
    return found


def _topological(output: BoundNode) -> list[BoundNode]:
    """Return the nodes below the output, inputs first."""
    order: list[BoundNode] = []
    done: set[BoundNode] = set()
    stack: list[tuple[BoundNode, bool]] = [(output, False)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            order.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack.extend((source, False) for source in reversed(node.inputs))
    return order
