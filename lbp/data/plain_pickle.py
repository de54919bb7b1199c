"""Reads the plain values in a pickle without running it.

A pickle is a program that may call anything. The CIFAR-10 batches distributed for Python need very little of it:
dictionaries, lists, strings, bytes, numbers and uint8 arrays. This module interprets just the opcodes for those, and a
byte array where the pickle would have called numpy's constructors. Everything else is refused before it has any effect.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

_ARRAY_MAKERS = {f"numpy.{package}.multiarray _reconstruct" for package in ("core", "_core")}
_NAMES = {*_ARRAY_MAKERS, "numpy ndarray", "numpy dtype", "_codecs encode"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS_AND_TEXT = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_BYTE_STRINGS = {"STRING", "SHORT_BINSTRING", "BINSTRING"}
_NOTHING = {"PROTO", "FRAME"}


class PickleRefusedError(ValueError):
    """The pickle is damaged, or holds something that is not plain data."""


@dataclass(frozen=True)
class _Name:
    """A global that the pickle refers to; never imported."""

    name: str


@dataclass
class _DataType:
    """A numpy data type under construction."""

    code: str


@dataclass
class _Array:
    """A numpy array under construction; `value` once its state is known."""

    value: Any = field(default=None)


_MARK = object()


def read_plain_pickle(data: bytes) -> Any:
    """Reads dictionaries, lists, tuples, strings, bytes, numbers and uint8 arrays from a pickle.

    Strings written by Python 2 become bytes.

    Raises:
        PickleRefusedError: damaged data, or anything that would need code to run.
    """
    try:
        return _finished(_interpret(data))
    except PickleRefusedError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise PickleRefusedError(f"damaged pickle ({error})") from error


def _interpret(data: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, position in pickletools.genops(data):
        name = opcode.name
        if name == "STOP":
            (value,) = stack
            return value
        if name in _NOTHING:
            continue
        if name in _NUMBERS_AND_TEXT:
            stack.append(argument)
        elif name in _BYTE_STRINGS:
            stack.append(argument.encode("latin-1"))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_name(argument))
        elif name in _ACTIONS:
            _ACTIONS[name](stack)
        else:
            raise PickleRefusedError(f"pickle opcode {name} at byte {position} is not needed for plain data; refused")
    raise PickleRefusedError("pickle without an end")


def _name(name: str) -> _Name:
    if name not in _NAMES:
        raise PickleRefusedError(f"the pickle refers to {name.replace(' ', '.')!r}, which is not plain data; refused")
    return _Name(name)


def _pop_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _push_tuple(size: int) -> Callable[[list[Any]], None]:
    def action(stack: list[Any]) -> None:
        items = [stack.pop() for _ in range(size)]
        stack.append(tuple(items[::-1]))

    return action


def _stack_global(stack: list[Any]) -> None:
    attribute, module = stack.pop(), stack.pop()
    stack.append(_name(f"{module} {attribute}"))


def _append(stack: list[Any]) -> None:
    item = stack.pop()
    _expect(stack[-1], list).append(item)


def _appends(stack: list[Any]) -> None:
    items = _pop_mark(stack)
    _expect(stack[-1], list).extend(items)


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    _expect(stack[-1], dict)[key] = value


def _set_items(stack: list[Any]) -> None:
    items = _pop_mark(stack)
    _expect(stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))


def _dict(stack: list[Any]) -> None:
    items = _pop_mark(stack)
    stack.append(dict(zip(items[::2], items[1::2], strict=True)))


def _reduce(stack: list[Any]) -> None:
    arguments, function = _expect(stack.pop(), tuple), _expect(stack.pop(), _Name)
    if function.name in _ARRAY_MAKERS:
        stack.append(_Array())
    elif function.name == "numpy dtype":
        stack.append(_DataType(_text(arguments[0])))
    elif function.name == "_codecs encode" and arguments[1] in ("latin1", "latin-1"):
        # How Python 3 writes bytes in protocol 2.
        stack.append(_expect(arguments[0], str).encode("latin-1"))
    else:
        raise PickleRefusedError(f"the pickle calls {function.name.replace(' ', '.')!r} unexpectedly; refused")


def _build(stack: list[Any]) -> None:
    state, target = _expect(stack.pop(), tuple), stack[-1]
    if isinstance(target, _DataType):
        return
    _, shape, data_type, fortran_order, content = state
    array = _expect(target, _Array)
    if _expect(data_type, _DataType).code not in ("u1", "|u1", "uint8"):
        raise PickleRefusedError(f"array of type {data_type.code!r}, only uint8 is expected")
    values = np.frombuffer(_expect(content, bytes), dtype=np.uint8)
    array.value = values.reshape(_expect(shape, tuple), order="F" if fortran_order else "C")


_ACTIONS: dict[str, Callable[[list[Any]], None]] = {
    "MARK": lambda stack: stack.append(_MARK),
    "EMPTY_DICT": lambda stack: stack.append({}),
    "EMPTY_LIST": lambda stack: stack.append([]),
    "EMPTY_TUPLE": lambda stack: stack.append(()),
    "LIST": lambda stack: stack.append(_pop_mark(stack)),
    "TUPLE": lambda stack: stack.append(tuple(_pop_mark(stack))),
    "TUPLE1": _push_tuple(1),
    "TUPLE2": _push_tuple(2),
    "TUPLE3": _push_tuple(3),
    "DICT": _dict,
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
}


def _expect(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise PickleRefusedError(f"damaged pickle: {type(value).__name__} where {kind.__name__} was expected")
    return value


def _text(value: str | bytes) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else _expect(value, str)


def _finished(value: Any, done: dict[int, Any] | None = None, depth: int = 0) -> Any:
    """Replaces arrays under construction by their values; refuses unfinished ones.

    Every object is visited once, however often it is shared, so that a small file cannot unfold into a large one.
    """
    done = {} if done is None else done
    if depth > 20:
        raise PickleRefusedError("the pickle's data is nested too deeply")
    if id(value) in done:
        return done[id(value)]
    result = value
    if isinstance(value, dict):
        result = {_finished(key, done, depth + 1): _finished(item, done, depth + 1) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        result = type(value)(_finished(item, done, depth + 1) for item in value)
    elif isinstance(value, _Array):
        result = _expect(value.value, np.ndarray)
    elif isinstance(value, _Name | _DataType) or value is _MARK:
        raise PickleRefusedError("the pickle's data is incomplete")
    done[id(value)] = result
    return result
