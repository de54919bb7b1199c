"""What stands for a value in a forward pass that is being traced.

torch.fx records what is done with such a value. What Python answers by itself is no operation: it is noted here as a
question, and `lbp.graph.trace` refuses the model where the answer may have been wrong. That an error is raised instead
is not enough, since the forward pass may catch it. Shapes, formats and devices are known (`lbp.graph.tracer`): of these
the pass has plain values, and a symbolic batch size.
"""

from __future__ import annotations

import builtins
import math
import operator
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, SupportsIndex

import torch
from torch import fx
from torch.fx.proxy import Attribute
from torch.utils import _pytree as pytree

from lbp.graph.shape_run import ATTRIBUTES_OF_SHAPES

CLASSIFIED = "asks for the type of {}"
LOOKED_UP = "looks {} up in a dictionary or a set"
DESCRIBED = "makes text or a copy of {}"
CONVERTED = "makes a number, a truth value or a list of {}"

_QUESTIONS = "questions"
"""In the `meta` of an operation: what Python code has asked of its result."""

_OPERATORS = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
)
_CONVERSIONS = ("int", "float", "complex", "index", "round", "trunc", "divmod", "rdivmod")


def ask(value: fx.Proxy, question: str, frame: FrameType | None = None) -> None:
    """Note a question about a value, and what code asks it, if that is known."""
    where = None if frame is None else (frame.f_code, frame.f_lasti)
    value.node.meta.setdefault(_QUESTIONS, {})[question, where] = None


def questions_about(node: fx.Node) -> Iterable[str]:
    """Return what has been asked of the result of an operation, each once."""
    return dict.fromkeys(question for question, _ in node.meta.get(_QUESTIONS, {}))


def unanswered(value: fx.Proxy, question: str) -> str:
    """Return why a question about a value has no answer, for messages."""
    return f"it {question.format(_written(value.node))}, which follows from the batch size or from values of tensors"


def _written(node: fx.Node, depth: int = 3) -> str:
    """Return an operation as code, what is far below by its name."""
    if depth == 0 or node.op not in ("call_function", "call_method"):
        return str(node.name)
    args = (_written(part, depth - 1) if isinstance(part, fx.Node) else repr(part) for part in node.args)
    return f"{getattr(node.target, '__name__', node.target)}({', '.join(args)})"


class TracedShape(tuple[Any, ...]):
    """The shape of a tensor: numbers, and a symbolic batch size, of which there is no `torch.Size`."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return TracedShape(found) if isinstance(index, slice) else found

    def __add__(self, other: Any) -> Any:
        return TracedShape((*self, *other)) if isinstance(other, tuple) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return TracedShape((*other, *self)) if isinstance(other, tuple) else NotImplemented

    def __repr__(self) -> str:
        return f"torch.Size({list(self)})"

    def numel(self) -> Any:
        """Return how many entries a tensor of this shape has."""
        return math.prod(self)

    def __fx_create_arg__(self, tracer: fx.Tracer) -> tuple[Any, ...]:
        return tuple(tracer.create_arg(size) for size in self)


class _Classified(fx.Proxy):
    tracer: Any
    """A `BoundTracer`."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # isinstance asks where the type alone does not say yes. PyTorch's own functions ask this of every argument: in
        # C++, where only a tensor may say that it is one.
        frame = sys._getframe(1)
        while frame.f_globals.get("__name__") in ("abc", __name__) and frame.f_back is not None:
            frame = frame.f_back
        if not _belongs_to_trace(frame):
            ask(self, CLASSIFIED, frame)
        return type(self)


class _Recorded(_Classified):
    """Records what fx.Proxy does not, and notes questions.

    `y += x` and its like are added below: without them Python takes `y = y + x`.
    """

    def __getattr__(self, k: str) -> Any:
        if k in ATTRIBUTES_OF_SHAPES:
            return self.tracer.create_proxy("call_function", getattr, (self, k), {})
        if k.startswith("__"):  # a protocol, as NumPy has several
            ask(self, CONVERTED)
        return _TracedAttribute(self, k)

    def __hash__(self) -> int:
        # A tensor is found by its identity, as here, a number would be found by its value.
        ask(self, LOOKED_UP)
        return id(self)

    def __repr__(self) -> str:
        ask(self, DESCRIBED)
        return super().__repr__()

    def __format__(self, format_spec: str) -> str:
        ask(self, DESCRIBED)
        return super().__format__(format_spec)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        ask(self, DESCRIBED)
        return super().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> fx.Proxy:
        ask(self, DESCRIBED)
        return super().__deepcopy__(memo)

    def __len__(self) -> int:
        count: int | None = self.tracer.parts_of(self)
        if count is not None:
            return count
        ask(self, CONVERTED)
        raise TypeError(unanswered(self, CONVERTED))

    @classmethod
    def __torch_function__(
        cls, orig_method: Any, types: Any, args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None
    ) -> fx.Proxy:
        args, kwargs = pytree.tree_map_only(TracedShape, tuple, (args or (), kwargs or {}))
        # The function has asked its arguments what they are before it was recorded.
        frame = sys._getframe(1)
        for value in symbolic_in((args, kwargs)):
            asked = value.node.meta.get(_QUESTIONS, {})
            for question in (CLASSIFIED, CONVERTED):
                asked.pop((question, (frame.f_code, frame.f_lasti)), None)
        return super().__torch_function__(orig_method, types, args, kwargs)


def _in_place(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def record(self: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return record


def _conversion(name: str) -> Callable[..., Any]:
    def convert(self: Any, *others: Any) -> Any:
        ask(self, CONVERTED, sys._getframe(1))
        raise TypeError(unanswered(self, CONVERTED))

    return convert


for _name in _OPERATORS:
    setattr(_Recorded, f"__i{_name}__", _in_place(getattr(operator, f"__i{_name}__")))
for _name in _CONVERSIONS:
    setattr(_Recorded, f"__{_name}__", _conversion(_name))
Sequence.register(_Recorded)  # `match x.shape` asks sequences for their length, and takes nothing else for a match


class _TracedAttribute(_Recorded, Attribute):
    """An attribute of a traced value, such as `x.T`."""


class TracedValue(_Recorded):
    """A value of a forward pass that is being traced."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node"):
            raise TypeError(f"it sets the attribute {name!r} of a tensor")
        super().__setattr__(name, value)


_TRACED = (TracedValue, _TracedAttribute)
_isinstance, _len, _import = builtins.isinstance, builtins.len, builtins.__import__


def is_symbolic(value: Any) -> bool:
    """Whether something stands for a value of the forward pass, which isinstance may not say: see below."""
    return type(value) in _TRACED


def symbolic_in(values: Any) -> list[fx.Proxy]:
    """Return what is symbolic in nested tuples, lists, dictionaries and shapes."""
    leaves = pytree.tree_leaves(values)
    parts = (part for leaf in leaves for part in (leaf if type(leaf) is TracedShape else (leaf,)))
    return [part for part in parts if is_symbolic(part)]


def _belongs_to_trace(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith(("torch.", "lbp.graph."))


def _isinstance_of_tensors(value: Any, classes: Any) -> bool:
    is_shape = type(value) is TracedShape
    if (is_shape or is_symbolic(value)) and not _belongs_to_trace(sys._getframe(1)):
        known = torch.Size(()) if is_shape else value.tracer.tensor_like(value.node)
        value = value if known is None else known
    return _isinstance(value, classes)


def _len_of_tensors(value: Any) -> Any:
    # Python itself makes a number of what `__len__` returns.
    return value.shape[0] if is_symbolic(value) and value.tracer.tensor_like(value.node) is not None else _len(value)


class _Replaced:
    """How many traces need the functions above for Python's own, and how many imports in the midst of them do not."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._traces = self._imports = 0

    def count(self, traces: int = 0, imports: int = 0) -> None:
        with self._lock:
            self._traces += traces
            self._imports += imports
            if self._traces > 0 and self._imports == 0:
                builtins.isinstance, builtins.len = _isinstance_of_tensors, _len_of_tensors
                builtins.__import__ = _import_as_ever
            else:
                builtins.isinstance, builtins.len, builtins.__import__ = _isinstance, _len, _import


_replaced = _Replaced()


def _import_as_ever(*arguments: Any, **named: Any) -> Any:
    # A module may keep what it finds: torch loads its compiler in a trace, which knows len by its identity.
    _replaced.count(imports=1)
    try:
        return _import(*arguments, **named)
    finally:
        _replaced.count(imports=-1)


@contextmanager
def builtins_of_tensors() -> Iterator[None]:
    """Let isinstance and len take symbolic tensors for tensors inside the block, in all threads.

    torch.fx replaces what it must in the same way: `nn.Module.__call__` and functions that it is told to record.
    Modules that are imported inside the block find Python's own.
    """
    _replaced.count(traces=1)
    try:
        yield
    finally:
        _replaced.count(traces=-1)
