"""Which operation of a trace becomes which bound node.

Every layer file registers a function from a `Call` to a `BoundNode`, under the module types, functions and method
names that it covers. An operation without an entry is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from lbp.errors import UnsupportedLayerError
from lbp.graph.base import BoundNode
from lbp.graph.shape_run import BATCH_SIZES
from lbp.graph.structure import is_kept_whole
from lbp.graph.trace import TensorShape, Trace
from lbp.graph.values import Attribute, Literal, Value

BatchStatistics = dict[nn.Module, list[tuple[Tensor, Tensor]]]
"""Mean and variance [C] of the input of batch normalisation layers, one entry per call of the module."""

Guard = Callable[[], None]
"""Raises when the graph must not be used in the model's present mode."""

Handler = Callable[["Call"], BoundNode]
PartsHandler = Callable[["Call"], tuple[BoundNode, ...]]

MODULES: dict[type[nn.Module], Handler] = {}
FUNCTIONS: dict[Callable[..., Any] | str, Handler] = {}

PARTS: dict[Callable[..., Any] | str, PartsHandler] = {}
"""Functions and tensor methods that return several tensors."""

REQUIRED = object()
"""Default of an argument that has none, for `Call.bind`."""

SUPPORTED = (
    "Linear, products with constant matrices, Conv1d, Conv2d, ConvTranspose2d, BatchNorm1d, BatchNorm2d, ReLU, "
    "LeakyReLU, ParamRamp, ReLU6, Hardtanh, clamp, MaxPool, AvgPool, AdaptiveAvgPool (1d, 2d), mean and sum, padding, "
    "Upsample to the nearest pixel, PixelShuffle, Flatten, reshape, permute, expand, repeat, flip, roll, constant "
    "indices, chunk, split, unbind, stack, concatenation, Dropout, Identity, addition and subtraction, multiplication "
    "and division by a constant"
)


def for_modules(*types: type[nn.Module]) -> Callable[[Handler], Handler]:
    """Register a handler for module types (exactly these, not their subclasses)."""

    def register(handler: Handler) -> Handler:
        MODULES.update(dict.fromkeys(types, handler))
        return handler

    return register


def for_functions(*targets: Callable[..., Any] | str) -> Callable[[Handler], Handler]:
    """Register a handler for functions, and for tensor methods by their name."""

    def register(handler: Handler) -> Handler:
        FUNCTIONS.update(dict.fromkeys(targets, handler))
        return handler

    return register


def giving_parts(*targets: Callable[..., Any] | str) -> Callable[[PartsHandler], PartsHandler]:
    """Register a handler for functions, and tensor methods by their name, that return several tensors."""

    def register(handler: PartsHandler) -> PartsHandler:
        PARTS.update(dict.fromkeys(targets, handler))
        return handler

    return register


class Known(NamedTuple):
    """What the operations before a call have become, as far as the output needs them.

    Attributes:
        nodes: of tensors that depend on the input.
        parts: of several such tensors that one operation returned.
        values: of constants.
    """

    nodes: Mapping[fx.Node, BoundNode]
    parts: Mapping[fx.Node, tuple[BoundNode, ...]]
    values: Mapping[fx.Node, Value]


class Call:
    """One operation of the trace, with its arguments resolved for the layer that handles it.

    Attributes:
        name: of the node to be made.
        model: the whole model.
        module: the module that is called, None for functions and methods.
        statistics: batch statistics of the latest clean forward pass.
        guards: conditions to check before every use of the graph; a handler may append to them.
        number: how many calls of the same module came before this one.
    """

    def __init__(
        self,
        trace: Trace,
        model: nn.Module,
        fx_node: fx.Node,
        name: str,
        known: Known,
        statistics: BatchStatistics,
        guards: list[Guard],
        number: int,
    ) -> None:
        self._trace = trace
        self.model = model
        self._fx_node = fx_node
        self._nodes, self._parts, self._values = known
        self.name = name
        self.statistics = statistics
        self.guards = guards
        self.number = number
        self.module: nn.Module | None = None
        if fx_node.op == "call_module":
            self.module = model.get_submodule(str(fx_node.target))

    @property
    def path(self) -> str:
        """Path of the called module in the model."""
        return str(self._fx_node.target)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result without the batch dimension, (1,) where nothing else is left."""
        shapes = [results[self._fx_node] for results in self._trace.results]
        return self._per_sample(shapes)

    @property
    def dtype(self) -> torch.dtype:
        """Format of the result."""
        dtype: torch.dtype = self._trace.results[0][self._fx_node].dtype
        return dtype

    def rank_of(self, argument: Any) -> int:
        """Return the number of dimensions of a tensor argument, with the batch: 1 where its node's shape is (1,)."""
        return len(self._trace.results[0][argument])

    def shapes_of_parts(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the tensors that the operation returns; see `shape`."""
        results = [results[self._fx_node] for results in self._trace.results]
        if len({len(parts) for parts in results}) > 1:
            raise self.refuse("returns another number of tensors for another batch size")
        return tuple(self._per_sample([TensorShape.of(part) for part in parts]) for parts in zip(*results, strict=True))

    def shape_of_two(self, argument: Any) -> tuple[int, ...]:
        """Return the shape of a tensor argument for two examples."""
        return tuple(self._trace.results[BATCH_SIZES.index(2)][argument])

    def is_bound(self, argument: Any) -> bool:
        """Whether an argument is a tensor that depends on the network's input."""
        return isinstance(argument, fx.Node) and argument in self._nodes

    def node(self, argument: Any) -> BoundNode:
        """Return the bound node of an argument that must depend on the network's input."""
        if not self.is_bound(argument):
            raise self.refuse(f"takes {argument!r} where a value that depends on the input is expected")
        return self._nodes[argument]

    def has_parts(self, argument: Any) -> bool:
        """Whether an argument is several tensors that depend on the network's input, which one operation returned."""
        return isinstance(argument, fx.Node) and argument in self._parts

    def parts(self, argument: Any) -> tuple[BoundNode, ...]:
        """Return the bound nodes of several tensors, one argument or a list of them."""
        return self._parts[argument] if self.has_parts(argument) else tuple(self.node(part) for part in argument)

    def value(self, argument: Any) -> Value:
        """Return an argument that must not depend on the network's input, as something to read at every use."""
        if isinstance(argument, fx.Node):
            if argument in self._values:
                return self._values[argument]
            if self.is_bound(argument):
                raise self.refuse(f"has an argument {argument.name!r} that depends on the input; it must be a constant")
            return Literal(self.static(argument))
        return Literal(argument)

    def attribute(self, name: str) -> Value:
        """Return an attribute of the called module, read at every use."""
        return Attribute(self.model, f"{self.path}.{name}" if self.path else name)

    def static(self, argument: Any) -> Any:
        """Return an argument as a plain Python value, the same for every batch size."""
        if isinstance(argument, tuple | list):
            return type(argument)(self.static(part) for part in argument)
        if not isinstance(argument, fx.Node):
            return argument
        if argument in self._values:
            value = self._values[argument]
            if not isinstance(value, Literal) or isinstance(value.value, Tensor):
                raise self.refuse(
                    f"takes {argument.name!r}, computed from the model's tensors, where bounds need a number that "
                    "stays as it is; keep the number in a plain attribute"
                )
            return value.value
        if self.is_bound(argument) or argument in self._trace.of_batch:
            raise self.refuse(f"has an argument {argument.name!r} that depends on the input or on the batch size")
        return self._trace.results[0][argument]

    def applied_to(self, value: Tensor) -> Any:
        """Return what the operation gives for another tensor in place of its first argument.

        All other arguments must be numbers, shapes and tensors that stay as they are.
        """
        operand = self.operand()
        args = self.fixed(self._fx_node.args, {operand: value})
        kwargs = self.fixed(dict(self._fx_node.kwargs), {operand: value})
        function: Any = self.module if self.module is not None else self._fx_node.target
        if isinstance(function, str):
            return getattr(value, function)(*args[1:], **kwargs)
        return function(*args, **kwargs)

    def fixed(self, argument: Any, given: Mapping[fx.Node, Any] | None = None) -> Any:
        """Return arguments with numbers, shapes and tensors that stay as they are in place of operations.

        Args:
            argument: any, or a nest of tuples, lists, dictionaries and slices of them.
            given: what stands for some operations.
        """

        def present(part: Any) -> Any:
            if not isinstance(part, fx.Node):
                return part
            if given is not None and part in given:
                return given[part]
            indices = self._indices(self._values.get(part))
            return self.static(part) if indices is None else indices

        return fx.node.map_aggregate(argument, present)

    def _indices(self, value: Value | None) -> Tensor | None:
        """Return a constant that is a tensor and stays as it is: see `lbp.graph.structure`."""
        if isinstance(value, Literal):
            return value.value.cpu() if isinstance(value.value, Tensor) else None
        if not isinstance(value, Attribute) or is_kept_whole(self.model.get_submodule(value.path.rpartition(".")[0])):
            return None
        present = value.read()
        is_fixed = isinstance(present, Tensor) and not (present.is_floating_point() or present.is_complex())
        return present.cpu() if is_fixed else None

    def bind(self, **parameters: Any) -> dict[str, Any]:
        """Match the call's arguments to parameter names; defaults as given, `REQUIRED` where there is none."""
        names = list(parameters)
        args = self._fx_node.args
        if len(args) > len(names):
            raise self.refuse(f"is called with {len(args)} positional arguments, at most {len(names)} are understood")
        bound = dict(parameters)
        bound.update(zip(names, args, strict=False))
        for key, argument in self._fx_node.kwargs.items():
            if key not in parameters:
                raise self.refuse(f"is called with the argument {key!r}, which is not understood")
            bound[key] = argument
        missing = [name for name, value in bound.items() if value is REQUIRED]
        if missing:
            raise self.refuse(f"is called without {', '.join(missing)}")
        return bound

    def operand(self) -> Any:
        """Return the first argument, whatever follows it."""
        if self._fx_node.args:
            return self._fx_node.args[0]
        if "input" in self._fx_node.kwargs:
            return self._fx_node.kwargs["input"]
        raise self.refuse("is called without an input")

    def arguments(self) -> tuple[Any, ...]:
        """Return the positional arguments."""
        return tuple(self._fx_node.args)

    def refuse(self, reason: str) -> UnsupportedLayerError:
        """Return the error to raise when this call cannot be bounded."""
        return UnsupportedLayerError(f"{self.describe()} {reason}. Supported: {SUPPORTED}")

    def describe(self) -> str:
        """Return the kind, name and type of the operation, for messages."""
        if self.module is not None:
            kind = type(self.module)
            return f"layer {self.path!r} of type {kind.__module__}.{kind.__qualname__}"
        target = self._fx_node.target
        label = f"method {target}"
        if target is getattr:
            label = f"attribute {self._fx_node.args[1]}"
        elif not isinstance(target, str):
            label = f"{getattr(target, '__module__', None) or 'torch'}.{getattr(target, '__name__', target)}"
        caller = list(self._fx_node.meta.get("nn_module_stack", {}))
        where = f" in module {caller[-1]!r}" if caller and caller[-1] else ""  # "" is the model itself
        return f"call {self._fx_node.name!r} of {label}{where}"

    def handler(self) -> Handler:
        """Return the function that makes the bound node.

        Raises:
            UnsupportedLayerError: there is none.
        """
        target = self._fx_node.target
        found = FUNCTIONS.get(target) if self.module is None else MODULES.get(type(self.module))
        if found is None:
            raise self.refuse("is not supported")
        return found

    def _per_sample(self, shapes: list[Any]) -> tuple[int, ...]:
        first = shapes[0]
        if not all(isinstance(shape, TensorShape) and shape for shape in shapes):
            raise self.refuse("does not give a tensor with a batch dimension")
        keeps = all(
            shape[0] == batch and shape[1:] == first[1:] for shape, batch in zip(shapes, BATCH_SIZES, strict=True)
        )
        if not keeps:
            raise self.refuse(
                f"mixes examples of a batch: for batch sizes {BATCH_SIZES} its shapes are {shapes}. The first "
                "dimension must stay the batch"
            )
        # A single number per example is a layer of one neuron.
        return tuple(first[1:]) or (1,)
