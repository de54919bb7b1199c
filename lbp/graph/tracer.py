"""Records what the forward pass of a model does with its input, and answers what it asks about shapes and formats.

torch.fx records operations of symbolic values. Two batches of different sizes run along, as far as that is needed:
where both have the same answer, a question about a shape, a format or a device has it at once, and is no operation.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError
from torch.utils import _pytree as pytree

from lbp.errors import UnsupportedLayerError
from lbp.graph.recorded import CONVERTED, TracedShape, TracedValue, ask, is_symbolic, symbolic_in, unanswered
from lbp.graph.shape_run import BATCH_SIZES, ShapeRun, asks_for_shape, holds_tensor
from lbp.graph.structure import is_kept_whole

_CONVERSIONS = {"to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda"}


_ONE_AT_A_TIME = threading.RLock()
"""torch.fx replaces `nn.Module.__call__` for all threads, and puts back what it found there: PyTorch's own, then."""


class BoundTracer(fx.Tracer):
    """Keeps PyTorch's own layers and lbp's whole and traces through every other module.

    Args:
        example: an input [B, *shape]; only shape, dtype and device are used.

    Attributes:
        asked: the values about whose shapes and formats questions have been answered. The answers are those for every
            batch size if bounds follow the operations that make these values.
        uses_autocast: whether an operation ran under an autocast of the forward pass, in a format of fewer bits.
    """

    proxy_buffer_attributes = True

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.asked: dict[fx.Node, None] = {}
        self.uses_autocast = False
        self._example = example
        self._runs: tuple[ShapeRun, ...] = ()
        self._runs_now = False
        self._is_over = False
        self._batch_size: fx.Proxy | None = None
        self._thread = threading.get_ident()

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        try:
            with _ONE_AT_A_TIME:
                return super().trace(root, concrete_args)
        finally:
            # Symbolic values and tracer hold each other; the tensors of the runs do not wait for a garbage collection.
            self._runs, self._is_over = (), True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_kept_whole(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return TracedValue(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        ask(obj, CONVERTED)
        raise TraceError(unanswered(obj, CONVERTED))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        count = self.parts_of(obj)
        if count is not None:
            return iter([cast(Any, obj)[i] for i in range(count)])
        ask(obj, CONVERTED)
        raise TraceError(unanswered(obj, CONVERTED))

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return super().call_module(m, forward, args, kwargs) if self._records() else forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        return super().getattr(attr, attr_val, parameter_proxy_cache) if self._records() else attr_val

    def _records(self) -> bool:
        """Whether what is called belongs to the traced forward pass: other threads run their modules meanwhile."""
        return not self._runs_now and threading.get_ident() == self._thread

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: dict[str, Any] | tuple[Any, ...] | None = None
    ) -> tuple[Any, list[Any]]:
        """Return what is traced, and its arguments: the model called with one input, as its users call it.

        torch.fx itself would trace the class's forward, past a `__call__` of the class, with a symbolic value for every
        parameter, so that one that is None by default would not be None.
        """
        parameters = list(inspect.signature(root_fn).parameters.values())[1:]
        if not parameters or parameters[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
            how = f"takes {parameters[0].name!r} by its name alone" if parameters else "takes no input"
            raise UnsupportedLayerError(f"the model's forward {how}; bounds call it as model(x)")
        first, *more = parameters
        optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for parameter in more:
            if parameter.default is inspect.Parameter.empty and parameter.kind not in optional:
                raise UnsupportedLayerError(
                    f"the model takes a second input {parameter.name!r}; one input is supported"
                )
        x = self.create_proxy("placeholder", first.name, (), {})
        return (lambda root, x: root(x)), [self.root, x]

    def create_arg(self, a: Any) -> Any:
        return super().create_arg(a.item() if isinstance(a, np.integer) else a)

    def create_proxy(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *others: Any, **more: Any
    ) -> Any:
        """Record an operation and return its symbolic result, or return what is known of a shape or format."""
        self.uses_autocast |= self._is_autocast()
        if args and is_symbolic(args[0]):
            if not symbolic_in((args[1:], kwargs)) and asks_for_shape(kind, target, args):
                answer = self.answer(args[0], lambda value: _call(kind, target, value, args[1:], kwargs))
                if answer is not None:
                    return answer
            if kind == "call_method" and target in _CONVERSIONS and self._changes_nothing(target, args, kwargs):
                return args[0]
        return super().create_proxy(kind, target, args, kwargs, *others, **more)

    def _is_autocast(self) -> bool:
        """Whether PyTorch would now compute with the model's numbers in another format; float64 it leaves alone."""
        if self._example.dtype == torch.float64 or self._example.is_meta:
            return False
        return torch.is_autocast_enabled(self._example.device.type)

    def answer(self, value: fx.Proxy, question: Callable[[Any], Any]) -> Any:
        """Return the answer to a question about the shape or format of a value; None where it is not known.

        Of a shape the batch size remains symbolic.
        """
        values = self._values(value.node)
        answers = [question(one) for one in values]
        if not answers or not isinstance(values[0], Tensor) or self._may_vary(value.node):
            return None
        first, second = answers
        if first == second:
            answer = TracedShape(first) if isinstance(first, torch.Size) else first
        elif isinstance(first, torch.Size) and (*first[:1], *second[:1]) == BATCH_SIZES and first[1:] == second[1:]:
            answer = TracedShape((self._batch_of(value), *first[1:]))
        else:
            return None
        self.asked[value.node] = None
        return answer

    def parts_of(self, value: fx.Proxy) -> int | None:
        """Return how many tensors a value consists of that one operation returned; None where that is not known."""
        parts = self._values(value.node)
        if not parts or not all(map(holds_tensor, parts)) or self._may_vary(value.node):
            return None
        counts = set(map(len, parts))
        if len(counts) > 1:
            return None
        self.asked[value.node] = None
        return counts.pop()

    def tensor_like(self, node: fx.Node) -> Tensor | None:
        """Return a tensor of the class, format and device of a value; None where that is no tensor or not known."""
        values = self._values(node)
        if not values or not isinstance(values[0], Tensor):
            return None
        with self._untraced():
            found: Tensor = self._runs[0].fetch_attr(str(node.target)) if node.op == "get_attr" else values[0]
        return found

    def _values(self, node: fx.Node) -> list[Any]:
        """Return the value for each of `BATCH_SIZES`; none where it follows from a layer that has no parameters yet."""
        if self._is_over:
            return []
        with self._untraced():
            if not self._runs:
                self._runs = tuple(ShapeRun(self.root, self.graph, self._example, batch) for batch in BATCH_SIZES)
            for run in self._runs:
                run.advance(lazily=True)
        return [run.env[node] for run in self._runs if node in run.env]

    @contextmanager
    def _untraced(self) -> Iterator[None]:
        """Let modules run, and have their tensors, inside the block."""
        self._runs_now = True
        try:
            yield
        finally:
            self._runs_now = False

    def _may_vary(self, value: fx.Node) -> bool:
        """Whether a shape may be another one than the two runs show, although bounds follow what made the value."""
        run = self._runs[0]
        return value in run.varying if run.depends_on_input(value) else value.op != "get_attr"

    def _batch_of(self, value: fx.Proxy) -> fx.Proxy:
        """Return the batch size, one symbolic value for all tensors, so that Python finds it equal to itself."""
        if self._batch_size is None:
            self._batch_size = super().create_proxy("call_method", "size", (value, 0), {})
        return self._batch_size

    def _changes_nothing(self, conversion: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a conversion returns its tensor itself, which has the format and device already."""
        known = {value.node: self._values(value.node) for value in symbolic_in((args, kwargs))}
        if not all(values and isinstance(values[0], Tensor) for values in known.values()):
            return False

        def present(part: Any) -> Any:
            return known[part.node][0] if is_symbolic(part) else part

        value, *rest = pytree.tree_map(present, args)
        return getattr(value, conversion)(*rest, **pytree.tree_map(present, kwargs)) is value


def _call(kind: str, target: Any, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    function = getattr(value, target) if kind == "call_method" else lambda *rest, **named: target(value, *rest, **named)
    return function(*args, **kwargs)
