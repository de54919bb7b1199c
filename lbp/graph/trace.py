"""The model as a torch.fx graph, with the shape of every intermediate value."""

from __future__ import annotations

import inspect
import operator
import pickle
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from lbp.errors import InvalidInputError, UnsupportedLayerError
from lbp.graph.recorded import CLASSIFIED, CONVERTED, LOOKED_UP, TracedValue, ask, questions_about
from lbp.graph.structure import is_kept_whole
from lbp.graph.unchanged import kept_attributes, refused_change, unchanged_tensors, version_of
from lbp.nn import GlobalBatchNorm
from lbp.precision import full_precision

BATCH_SIZES = (2, 3)
"""Batch sizes of the two shape runs: what depends on the batch size differs between them."""

_TRACES = 5
"""Traces of a model during which Python's or NumPy's generator may move on before the model is refused."""

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
        overwrites: operations that change a value in place which a later operation reads again, with that value.
    """

    module: fx.GraphModule
    results: tuple[dict[fx.Node, Any], ...]
    of_batch: frozenset[fx.Node]
    overwrites: dict[fx.Node, fx.Node]


class BoundTracer(fx.Tracer):
    """Keeps PyTorch's own layers and lbp's whole and traces through every other module."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_kept_whole(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return TracedValue(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        ask(obj, CONVERTED)
        return super().to_bool(obj)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        ask(obj, CONVERTED)
        return super().iter(obj)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: dict[str, Any] | tuple[Any, ...] | None = None
    ) -> tuple[Any, list[Any]]:
        """Return what is traced, and its arguments: the model called with one input, as its users call it.

        torch.fx itself would trace the class's forward, past a `__call__` of the class, with a symbolic value for every
        parameter, so that one that is None by default would not be None.
        """
        first, *more = list(inspect.signature(root_fn).parameters.values())[1:]
        optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for parameter in more:
            if parameter.default is inspect.Parameter.empty and parameter.kind not in optional:
                raise UnsupportedLayerError(
                    f"the model takes a second input {parameter.name!r}; one input is supported"
                )
        x = self.create_proxy("placeholder", first.name, (), {})
        return (lambda root, x: root(x)), [self.root, x]


class _NoRandomNumbers(TorchDispatchMode):
    """Refuses operations that draw random numbers.

    Args:
        where: what is run, for messages.
    """

    def __init__(self, where: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._where = where

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
            raise _random(self._where, f"by {func}")
        return func(*args, **(kwargs or {}))


def _random(where: str, how: str) -> UnsupportedLayerError:
    return UnsupportedLayerError(
        f"{where} draws random numbers ({how}), which do not depend on the input: a random network has no bounds. Call "
        "eval() if that turns them off, or draw them once and keep them in a buffer"
    )


class _ShapeRun(fx.Interpreter):
    """Runs the trace once, without the effects of a training step: no running statistics, no random numbers."""

    def __init__(self, module: fx.GraphModule) -> None:
        # Every value stays alive, so that equal storage means an alias and not memory used again.
        super().__init__(module, garbage_collect_values=False)
        self.mutations: dict[fx.Node, list[fx.Node]] = {}
        self._of_input: set[fx.Node] = set()
        self._on_input = False

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = super().get_attr(target, args, kwargs)
        # What the forward pass changes in place is a copy here.
        return value.clone() if isinstance(value, Tensor) else value

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        if isinstance(module, _BATCH_NORMS):
            if module.training and not self._on_input:
                raise UnsupportedLayerError(
                    f"layer {target!r} normalises a constant by its own statistics in training mode, which changes the "
                    "running ones whenever bounds are computed; call eval() on it"
                )
            return args[0].clone()
        if isinstance(module, _DROPOUTS) and self._on_input:
            return args[0]
        return super().call_module(target, args, kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._on_input and target is functional.batch_norm:
            return args[0].clone()
        if self._on_input and target in _DROPOUT_FUNCTIONS:
            return args[0]
        return super().call_function(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        versions = {arg: version_of(self.env[arg]) for arg in n.all_input_nodes}
        self._on_input = n.op == "placeholder" or not self._of_input.isdisjoint(n.all_input_nodes)
        if self._on_input:
            self._of_input.add(n)
            result = super().run_node(n)
        else:
            with _NoRandomNumbers(f"{n.name!r} ({n.op} {n.target})"):
                result = super().run_node(n)
        self.mutations[n] = [arg for arg, version in versions.items() if version_of(self.env[arg]) != version]
        return result


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
        module = _traced(model)
        runs = [_shape_run(module, model, example, batch) for batch in BATCH_SIZES]
        is_checked = _check_values(module, model, example)
    results = tuple({node: _summary(run.env[node]) for node in run.env} for run in runs)
    of_batch = _of_batch(module.graph, results)
    _check_questions(model, module.graph, results[0], None if not is_checked else of_batch)
    return Trace(module, results, of_batch, _overwrites(module.graph, runs[0]))


def _traced(model: nn.Module) -> fx.GraphModule:
    """Trace a model during whose forward pass neither Python's nor NumPy's generator moved on.

    All threads share these generators and none says who draws. A trace during which they stood still holds no number
    of theirs, so that one is taken; whoever draws beside it rarely does so every time.
    """
    where = f"the forward pass of {type(model).__name__}"
    for _ in range(_TRACES):
        before = _random_states()
        module = _traced_once(model, where)
        if _random_states() == before:
            return module
    raise _random(where, f"from Python's or NumPy's generator: {_TRACES} traces of {_TRACES}, if no other thread did")


def _traced_once(model: nn.Module, where: str) -> fx.GraphModule:
    try:
        # What the forward pass and torch.fx leave on the model is symbolic, or made for this trace.
        with kept_attributes(model):
            with _NoRandomNumbers(where):
                graph = BoundTracer().trace(model)
            return fx.GraphModule(model, graph)
    except UnsupportedLayerError:
        raise
    except Exception as error:
        # Tracing runs the model's own code, which may fail in any way on symbolic values.
        why = f"it looks up {error}, which has no entry" if isinstance(error, KeyError) else error
        raise UnsupportedLayerError(
            f"torch.fx cannot trace {type(model).__name__}: {why}. The forward pass must not branch on values of "
            "tensors, nor look their sizes up; move such code out of the model"
        ) from error


def _random_states() -> tuple[Any, ...]:
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002 - it may be what the model draws from
    return random.getstate(), pickle.dumps(legacy)


def _shape_run(module: fx.GraphModule, model: nn.Module, example: Tensor, batch: int) -> _ShapeRun:
    run = _ShapeRun(module)
    x = torch.zeros(batch, *example.shape[1:], dtype=example.dtype, device=example.device)
    with _running(model, x):
        run.run(x)
    storages, touched = _storages(run), _touched(run)
    for node, storage in storages.items():
        if node.op == "get_attr" and any(storage in changed for changed in touched.values()):
            raise refused_change(model, str(node.target), run.env[node])
    return run


def _check_values(module: fx.GraphModule, model: nn.Module, example: Tensor) -> bool:
    """Refuse a model that computes something else than its trace.

    Python code can tell a traced value from a tensor: `isinstance(x, Tensor)`, `x.grad is None`, an exception that it
    catches. A model in training mode is not run: it would leave statistics and random numbers behind.

    Returns:
        whether the model was run.
    """
    if example.is_meta or any(part.training for part in model.modules()):
        return False
    shape, generator = (BATCH_SIZES[0], *example.shape[1:]), torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=example.dtype, device="cpu").to(example.device)
    with _running(model, x):
        traced = fx.Interpreter(module).run(x.clone())
        with kept_attributes(model):
            own = model(x)
    if isinstance(traced, Tensor) and not _agree(traced, own):
        raise UnsupportedLayerError(
            f"{type(model).__name__} computes something else than what torch.fx has traced: its forward pass treats "
            "symbolic values in another way than tensors, as isinstance(x, torch.Tensor), `is` and except do; move "
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
            if is_tensor and question in (LOOKED_UP, CLASSIFIED):
                continue  # a tensor is found by its identity, and its type is always the same
            if is_tensor or node in of_values:
                what = question.format(f"the value {node.name!r}")
                raise UnsupportedLayerError(
                    f"the forward pass of {type(model).__name__} {what}, which a trace takes for the same at all "
                    "inputs; move such code out of the model"
                )
            if of_batch is None or node in of_batch:
                follows = "" if of_batch is None else ", which follows from the batch size"
                mode = " or call eval(), if that is no batch size" if of_batch is None else ""
                what = question.format(f"{result!r} ({node.name!r}){follows}")
                raise UnsupportedLayerError(
                    f"the forward pass of {type(model).__name__} {what}. A trace, which is for all batch sizes, has no "
                    f"answer to that; do such things with sizes and formats in __init__{mode}"
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


@contextmanager
def _running(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Say of what fails inside the block that the model does not run on an input."""
    try:
        yield
    except UnsupportedLayerError:
        raise
    except Exception as error:
        reason = str(error).partition("\n\nWhile executing")[0]  # which torch.fx adds, about the trace
        raise InvalidInputError(
            f"{type(model).__name__} does not run on an input of shape {list(x.shape)}, {x.dtype}, on {x.device} (the "
            f"shape of global_input, with batch size {len(x)}; the batch size must be free): {reason}"
        ) from error


def _summary(value: Any) -> Any:
    return TensorShape.of(value) if isinstance(value, Tensor) else value


def holds_tensor(result: Any) -> bool:
    """Whether a result is several values, one of them a tensor."""
    return isinstance(result, tuple | list) and any(isinstance(part, Tensor) for part in result)


_FUNCTIONS_OF_SHAPES = {torch.numel, torch.is_floating_point, torch.is_complex}
_METHODS_OF_SHAPES = {
    *("size", "dim", "ndimension", "numel", "nelement", "element_size"),
    *("is_floating_point", "is_complex", "get_device"),
}
_ATTRIBUTES_OF_SHAPES = {
    *("shape", "ndim", "itemsize", "nbytes", "dtype", "device", "layout"),
    *("is_cpu", "is_cuda", "is_meta", "is_mps", "is_quantized", "is_sparse", "is_xpu"),
}


def asks_for_shape(node: fx.Node) -> bool:
    """Whether the result, where it is no tensor, follows from the shapes, formats and devices of tensors."""
    if node.op == "call_function":
        of_attribute = node.target is getattr and node.args[1] in _ATTRIBUTES_OF_SHAPES
        return of_attribute or node.target in _FUNCTIONS_OF_SHAPES
    return node.op == "call_method" and node.target in _METHODS_OF_SHAPES


def reads_values(node: fx.Node, results: Mapping[fx.Node, Any]) -> bool:
    """Whether an operation, whose result is no tensor, asks a tensor for more than its shape and format.

    Args:
        node: the operation.
        results: of all operations, as in `Trace`.
    """
    of_tensors = any(isinstance(results[source], TensorShape) for source in node.all_input_nodes)
    return of_tensors and not asks_for_shape(node)


def _of_batch(graph: fx.Graph, results: tuple[dict[fx.Node, Any], ...]) -> frozenset[fx.Node]:
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
        if differs or any(source in found for source in sources):
            found.add(node)
    return frozenset(found)


def _differ(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray):
        return not np.array_equal(first, second)
    return bool(first != second)


def _storages(run: _ShapeRun) -> dict[fx.Node, int]:
    """Return what tells the memory of every tensor of a run from that of others."""
    return {node: value.untyped_storage().data_ptr() for node, value in run.env.items() if isinstance(value, Tensor)}


def _touched(run: _ShapeRun) -> dict[fx.Node, set[int]]:
    """Return what memory the operations change that change any."""
    storages = _storages(run)
    return {node: {storages[arg] for arg in changed} for node, changed in run.mutations.items() if changed}


def _overwrites(graph: fx.Graph, run: _ShapeRun) -> dict[fx.Node, fx.Node]:
    """Find in-place operations whose old value is read again later, directly or through a view."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    storages = _storages(run)
    found: dict[fx.Node, fx.Node] = {}
    for node, touched in _touched(run).items():
        for other, storage in storages.items():
            earlier = storage in touched and position[other] < position[node]
            if earlier and any(position[user] > position[node] for user in other.users):
                found[node] = other
    return found
