"""The model as a torch.fx graph, with the shape of every intermediate value."""

from __future__ import annotations

import operator
import pickle
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from lbp.errors import InvalidInputError, UnsupportedLayerError
from lbp.graph.recorded import CLASSIFIED, LOOKED_UP, builtins_of_tensors, questions_about
from lbp.graph.shape_run import (
    BATCH_SIZES,
    NoRandomNumbers,
    ShapeRun,
    asks_for_shape,
    holds_tensor,
    refused_random,
    running,
    tensors_in,
)
from lbp.graph.tracer import BoundTracer
from lbp.graph.unchanged import kept_attributes, refused_change, unchanged_tensors
from lbp.precision import full_precision

_TRACES = 5
"""Traces of a model during which Python's or NumPy's generator may move on before the model is refused."""


class TensorShape(tuple[int, ...]):
    """The shape of a tensor, and its format; a plain tuple is a value of its own.

    Attributes:
        dtype: of the tensor.
    """

    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> TensorShape:
        """Return the shape of a tensor."""
        shape = cls(tensor.shape)
        shape.dtype = tensor.dtype
        return shape


@dataclass(frozen=True)
class Trace:
    """A traced model.

    Attributes:
        module: the operations in order (`module.graph`), with every tensor and module that they refer to; those that
            the model does not have itself are tensors that its forward pass made of nothing but constants.
        results: per batch size of `BATCH_SIZES` and operation: a tensor's `TensorShape`, or any other value itself.
        of_batch: operations whose result is no tensor and follows from the batch size, also where it is the same for
            both of `BATCH_SIZES`, as that of `x.shape[0] // 4`.
        asked: values about whose shapes and formats the forward pass has got answers: see `BoundTracer.asked`.
        overwrites: operations that change a value in place which a later operation reads again, with that value.
    """

    module: fx.GraphModule
    results: tuple[dict[fx.Node, Any], ...]
    of_batch: frozenset[fx.Node]
    asked: frozenset[fx.Node]
    overwrites: dict[fx.Node, fx.Node]


@full_precision()  # autocast would give values other formats than bounds are computed in
def trace_model(model: nn.Module, example: Tensor) -> Trace:
    """Trace a model and run it on zeros shaped like the example to learn every shape.

    Args:
        model: any module that torch.fx can trace.
        example: [B, *shape]; only shape, dtype and device are used.

    Raises:
        UnsupportedLayerError: the model cannot be traced, computes something else than its trace, changes its own
            tensors when it runs, or draws random numbers.
        InvalidInputError: the model does not run on inputs of the example's shape with another batch size.
    """
    # Tensors made under inference mode have no versions, by which changes in place are seen.
    with torch.inference_mode(False), torch.no_grad(), unchanged_tensors(model):
        module, asked = _traced(model, example)
        runs = [_shape_run(module, model, example, batch) for batch in BATCH_SIZES]
        overwrites = _overwrites(module.graph, runs[0])
        if any(runs[0].mutations.values()):
            overwrites |= _overwrites_of_one_example(module, model, example)
        is_checked = _check_values(module, model, example)
    results = tuple({node: _summary(run.env[node]) for node in run.env} for run in runs)
    of_batch = _of_batch(module.graph, results, runs[0].varying)
    _check_questions(model, module.graph, results[0], None if not is_checked else of_batch)
    return Trace(module, results, of_batch, asked, overwrites)


def _traced(model: nn.Module, example: Tensor) -> tuple[fx.GraphModule, frozenset[fx.Node]]:
    """Trace a model during whose forward pass neither Python's nor NumPy's generator moved on.

    All threads share these generators and none says who draws. A trace during which they stood still holds no number
    of theirs, so that one is taken; whoever draws beside it rarely does so every time.

    Returns:
        the trace, and what the forward pass has asked about.
    """
    where = f"the forward pass of {type(model).__name__}"
    for _ in range(_TRACES):
        before = _random_states()
        traced = _traced_once(model, example, where)
        if _random_states() == before:
            return traced
    how = f"from Python's or NumPy's generator: {_TRACES} traces of {_TRACES}, if no other thread did"
    raise refused_random(where, how)


def _traced_once(model: nn.Module, example: Tensor, where: str) -> tuple[fx.GraphModule, frozenset[fx.Node]]:
    tracer = BoundTracer(example)
    try:
        # What the forward pass and torch.fx leave on the model is symbolic, or made for this trace.
        with kept_attributes(model):
            with NoRandomNumbers(where), builtins_of_tensors():
                graph = tracer.trace(model)
            if tracer.uses_autocast:
                raise UnsupportedLayerError(
                    f"{where} computes under autocast, in a format of fewer bits than its parameters have; bounds are "
                    "those of a network in one format: move autocast out of the model"
                )
            return fx.GraphModule(model, graph, type(model).__name__), frozenset(tracer.asked)
    except (InvalidInputError, UnsupportedLayerError):
        raise
    except Exception as error:
        # Tracing runs the model's own code, which may fail in any way on symbolic values.
        why = str(error) or type(error).__name__
        if isinstance(error, KeyError):
            why = f"it looks up {error}, which has no entry"
        elif isinstance(error, AssertionError):
            why = f"an assertion fails ({str(error) or 'without text'})"
        elif isinstance(error, NameError) and "installed as a submodule" in why:
            why = (
                "it calls a module that is no attribute of the model, as nn.ReLU()(x); make the module in __init__, or "
                "use torch.nn.functional"
            )
        raise UnsupportedLayerError(
            f"torch.fx cannot trace {type(model).__name__}: {why}. The forward pass must not branch on values of "
            "tensors or on the batch size; move such code out of the model"
        ) from error


def _random_states() -> tuple[Any, ...]:
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002 - it may be what the model draws from
    return random.getstate(), pickle.dumps(legacy)


def _shape_run(module: fx.GraphModule, model: nn.Module, example: Tensor, batch: int) -> ShapeRun:
    run = ShapeRun(module, module.graph, example, batch)
    run.advance()
    storages, touched = _storages(run), _touched(run)
    for node, storage in storages.items():
        if node.op == "get_attr" and not all(storage.isdisjoint(changed) for changed in touched.values()):
            raise refused_change(model, str(node.target), run.env[node])
    return run


def _check_values(module: fx.GraphModule, model: nn.Module, example: Tensor) -> bool:
    """Refuse a model that computes something else than its trace.

    Python code can tell a traced value from a tensor: `type(x)`, `x.grad is None`, an exception that it
    catches. A model in training mode is not run: it would leave statistics and random numbers behind.

    Returns:
        whether the model was run.
    """
    if example.is_meta or any(part.training for part in model.modules()):
        return False
    shape, generator = (BATCH_SIZES[0], *example.shape[1:]), torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=example.dtype, device="cpu").to(example.device)
    with running(model, x):
        traced = fx.Interpreter(module).run(x.clone())
        with kept_attributes(model):
            own = model(x)
        agree = not isinstance(traced, Tensor) or _agree(traced, own)
        with kept_attributes(model):
            is_random = not agree and isinstance(own, Tensor) and not _agree(own, model(x))
    if is_random:
        how = "two runs on the same input differ; functional.dropout does so without training=self.training"
        raise refused_random(f"the forward pass of {type(model).__name__}", how)
    if not agree:
        raise UnsupportedLayerError(
            f"{type(model).__name__} computes something else than what torch.fx has traced: its forward pass treats "
            "symbolic values in another way than tensors, as `is`, type() and except do; move "
            "such code out of the model"
        )
    return True


def _check_questions(
    model: nn.Module, graph: fx.Graph, results: dict[fx.Node, Any], of_batch: frozenset[fx.Node] | None
) -> None:
    """Refuse a model whose forward pass has asked what its trace may have answered in another way.

    Args:
        model: for the message.
        graph: of the trace.
        results: of its operations.
        of_batch: what follows from the batch size; of any other number it is known that the model computes the same as
            its trace, such as one that keeps what it computes for every size. None: that is not known.
    """
    of_values: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "output":
            continue
        result, is_tensor = results[node], isinstance(results[node], TensorShape) or holds_tensor(results[node])
        if not is_tensor and (reads_values(node, results) or not of_values.isdisjoint(node.all_input_nodes)):
            of_values.add(node)
        for question in questions_about(node):
            if is_tensor and (question == LOOKED_UP or (question == CLASSIFIED and of_batch is not None)):
                continue  # a tensor is found by its identity, and its type is always the same
            if is_tensor or node in of_values:
                what = question.format(f"the value {node.name!r}")
                raise UnsupportedLayerError(
                    f"the forward pass of {type(model).__name__} {what}, which a trace takes for the same at all "
                    "inputs; move such code out of the model"
                )
            if of_batch is None or node in of_batch:
                follows = "" if of_batch is None else ", which follows from the batch size"
                mode = ", or call eval() if that is no batch size" if of_batch is None else ""
                what = question.format(f"{result!r} ({node.name!r}){follows}")
                raise UnsupportedLayerError(
                    f"the forward pass of {type(model).__name__} {what}. A trace, which is for all batch sizes, has no "
                    f"answer to that; ask for the other sizes, as x.shape[1:]{mode}"
                )


def _agree(traced: Tensor, own: Any) -> bool:
    """Whether two outputs of the same operations are the same; some devices add up in another order every time."""
    if not isinstance(own, Tensor) or (own.shape, own.dtype) != (traced.shape, traced.dtype):
        return False
    if own.numel() == 0:
        return True
    traced, own = traced.double(), own.double()
    largest = float(own.abs().nan_to_num(0.0, 0.0, 0.0).amax())
    return bool(torch.isclose(traced, own, rtol=0, atol=1e-3 * largest, equal_nan=True).all())


def _summary(value: Any) -> Any:
    return TensorShape.of(value) if isinstance(value, Tensor) else value


def reads_values(node: fx.Node, results: Mapping[fx.Node, Any]) -> bool:
    """Whether an operation, whose result is no tensor, asks a tensor for more than its shape and format.

    Args:
        node: the operation.
        results: of all operations, as in `Trace`.
    """
    of_tensors = any(isinstance(results[source], TensorShape) for source in node.all_input_nodes)
    return of_tensors and not asks_for_shape(node.op, node.target, node.args)


def _of_batch(graph: fx.Graph, results: tuple[dict[fx.Node, Any], ...], varying: set[fx.Node]) -> frozenset[fx.Node]:
    """Find what follows from the batch size and is no tensor, of which shapes tell; see `Trace`."""
    first, second = results
    found: set[fx.Node] = set()
    computed: set[fx.Node] = set()  # from what is found, such as a tuple of which no entry is the batch size itself
    for node in graph.nodes:
        if node.op == "output" or isinstance(first[node], TensorShape):
            continue
        sources = node.all_input_nodes
        if node.op == "call_function" and node.target is operator.getitem and sources[0] not in computed:
            # An entry of a shape tells itself whether it is the batch size.
            sources = sources[1:]
        elif any(source in found for source in sources):
            computed.add(node)
        differs = not holds_tensor(first[node]) and _differ(first[node], second[node])
        if differs or node in varying or any(source in found for source in sources):
            found.add(node)
    return frozenset(found)


def _differ(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray):
        return not np.array_equal(first, second)
    return bool(first != second)


def _storages(run: ShapeRun) -> dict[fx.Node, frozenset[int]]:
    """Return what tells the memory of every tensor of a run from that of others; several of a node that has several."""
    return {
        node: frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors_in(value))
        for node, value in run.env.items()
    }


def _touched(run: ShapeRun) -> dict[fx.Node, frozenset[int]]:
    """Return what memory the operations change that change any."""
    storages = _storages(run)
    nothing: frozenset[int] = frozenset()
    return {
        node: nothing.union(*(storages[arg] for arg in changed)) for node, changed in run.mutations.items() if changed
    }


def _overwrites(graph: fx.Graph, run: ShapeRun) -> dict[fx.Node, fx.Node]:
    """Find in-place operations whose old value is read again later, directly or through a view."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    storages = _storages(run)
    found: dict[fx.Node, fx.Node] = {}
    for node, touched in _touched(run).items():
        for other, storage in storages.items():
            earlier = not storage.isdisjoint(touched) and position[other] < position[node]
            if earlier and any(position[user] > position[node] for user in other.users):
                found[node] = other
    return found


def _overwrites_of_one_example(module: fx.GraphModule, model: nn.Module, example: Tensor) -> dict[fx.Node, fx.Node]:
    """Find in-place operations as `_overwrites` does, in a batch of one example.

    Some channels of one example lie in memory as they must for `contiguous()`, which is then no copy.
    """
    try:
        return _overwrites(module.graph, _shape_run(module, model, example, 1))
    except InvalidInputError:
        return {}  # the model takes no batch of one example
