"""What stands for a value in a forward pass that is being traced.

torch.fx records what is done with such a value. What Python answers by itself is no operation: it is noted here as a
question, and `lbp.graph.trace` refuses the model where the answer may have been wrong. That an error is raised instead
is not enough, since the forward pass may catch it.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any, SupportsIndex

from torch import fx
from torch.fx.proxy import Attribute
from torch.utils import _pytree as pytree

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


class _Classified(fx.Proxy):
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # isinstance asks where the type alone does not say yes. PyTorch's own functions ask this of every argument.
        frame = sys._getframe(1)
        while frame.f_globals.get("__name__") == "abc" and frame.f_back is not None:
            frame = frame.f_back
        if not str(frame.f_globals.get("__name__")).startswith("torch."):
            ask(self, CLASSIFIED, frame)
        return type(self)


class _Recorded(_Classified):
    """Records what fx.Proxy does not, and notes questions.

    `y += x` and its like are added below: without them Python takes `y = y + x`.
    """

    def __getattr__(self, k: str) -> Attribute:
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
        ask(self, CONVERTED)
        return super().__len__()

    @classmethod
    def __torch_function__(
        cls, orig_method: Any, types: Any, args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None
    ) -> fx.Proxy:
        # The function has asked its arguments what they are before it was recorded.
        frame = sys._getframe(1)
        for value in pytree.tree_leaves((args, kwargs)):
            if type(value) in (TracedValue, _TracedAttribute):
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
        raise TypeError(f"{name} of a symbolic value")

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
