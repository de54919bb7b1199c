"""Entries along dimensions, `x[:, 1:5, ..., ::2]`, and parts of a dimension, `x.chunk(2, 1)`."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from lbp.graph.base import BackwardStep, BoundNode, Relaxations
from lbp.graph.conv import channels_rows_columns
from lbp.graph.gather import moved
from lbp.graph.registry import REQUIRED, Call, for_functions, giving_parts
from lbp.graph.shape import MoveNode, ReshapeNode
from lbp.graph.window_steps import through_slices
from lbp.linear import Coefficients, InputWindows, ReceptiveField, WindowRows
from lbp.linear.receptive_field import Span


class SliceNode(MoveNode):
    """Some entries of every example; the others are dropped.

    Attributes:
        parts: a slice with a positive step for each dimension, not counting the batch.
    """

    def __init__(self, name: str, source: BoundNode, parts: tuple[slice, ...]) -> None:
        self.parts = tuple(slice(*part.indices(dim)) for dim, part in zip(source.shape, parts, strict=True))
        shape = tuple(len(range(dim)[part]) for dim, part in zip(source.shape, self.parts, strict=True))
        super().__init__(name, (source,), shape)
        self.takes_windows = len(shape) == 3 and self.size > 0

    def receptive_field(self) -> ReceptiveField | None:
        if not self.takes_windows:
            return None
        rows, columns = (Span(part.step, part.start) for part in self.parts[1:])
        return ReceptiveField(rows, columns)

    def move(self, values: Tensor, lead: int) -> Tensor:
        return values[(slice(None),) * lead + self.parts]

    def move_back(self, A: Tensor) -> Tensor:
        whole = A.new_zeros(*A.shape[:3], *self.inputs[0].shape)
        whole[(slice(None),) * 3 + self.parts] = A
        return whole

    def windows_above(self, *inputs: InputWindows | None) -> InputWindows | None:
        (before,), field = inputs, self.receptive_field()
        if before is None or field is None or before.layer != self.inputs[0].shape:
            return None
        return before.through(field, channels_rows_columns(self.shape))

    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        if isinstance(coefficients, WindowRows):
            channels, rows, columns = self.parts
            return through_slices(coefficients, (channels, rows, columns), self.receptive_field(), self.inputs[0].shape)
        return super().backward_linear(coefficients, relaxations)


@for_functions(operator.getitem)
def _getitem(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, index=REQUIRED)
    if call.has_parts(args["input"]):
        part: BoundNode = call.parts(args["input"])[call.static(args["index"])]
        return part
    source = call.node(args["input"])
    given = args["index"] if isinstance(args["index"], tuple) else (args["index"],)
    if any(isinstance(part, list | tuple | fx.Node) for part in given):
        if not _keeps_batch(call, given, call.rank_of(args["input"])):
            raise call.refuse("picks entries along the batch dimension")
        return moved(call)
    # What an index of None adds, the reshaping does.
    given = tuple(part for part in given if part is not None)
    batch, *parts = _per_dimension(call, given, call.rank_of(args["input"]))
    if batch != slice(None):
        raise call.refuse("picks entries along the batch dimension")
    if not parts:  # a number per example
        return source
    # A number is a slice of one entry; the reshaping takes its dimension away.
    slices = tuple(part if isinstance(part, slice) else _single(part) for part in parts)
    sliced = SliceNode(call.name, source, slices)
    return sliced if sliced.shape == call.shape else _without_dimensions(call, sliced)


def _keeps_batch(call: Call, given: tuple[Any, ...], rank: int) -> bool:
    """Whether an index leaves the first of `rank` dimensions as it is."""
    parts = [part for part in given if part is not None]
    if parts[0] is Ellipsis:
        return sum(_dimensions_of(call, part) for part in parts[1:]) < rank
    return isinstance(parts[0], slice) and parts[0] == slice(None)


def _dimensions_of(call: Call, part: Any) -> int:
    """Return how many dimensions part of an index is for."""
    if isinstance(part, slice):
        return 1
    entries = torch.as_tensor(call.fixed(part))
    return entries.dim() if entries.dtype == torch.bool else 1


def _without_dimensions(call: Call, sliced: SliceNode) -> BoundNode:
    sliced.name = f"{call.name}/slice"
    return ReshapeNode(call.name, sliced, call.shape)


def _single(index: int) -> slice:
    return slice(index, index + 1 or None)


def _per_dimension(call: Call, given: tuple[Any, ...], rank: int) -> list[slice | int]:
    """Return an index as one slice or number per dimension."""
    if any((part is not Ellipsis and not isinstance(part, slice | int)) or isinstance(part, bool) for part in given):
        raise call.refuse(f"has the index {given!r}; numbers, slices, lists and None are supported")
    if given.count(Ellipsis) > 1:
        raise call.refuse(f"has the index {given!r} with more than one ellipsis")
    place = given.index(Ellipsis) if Ellipsis in given else len(given)
    before, after = given[:place], given[place + 1 :]
    middle = (slice(None),) * (rank - len(before) - len(after))
    return [_plain(call, part) for part in (*before, *middle, *after)]


def _plain(call: Call, part: slice | int) -> slice | int:
    """Return a slice with plain numbers."""
    if isinstance(part, int):
        return part
    return slice(call.static(part.start), call.static(part.stop), call.static(part.step))


@giving_parts(operator.getitem)
def _some_parts(call: Call) -> tuple[BoundNode, ...]:
    args = call.bind(input=REQUIRED, index=REQUIRED)
    some: tuple[BoundNode, ...] = call.parts(args["input"])[call.fixed(args["index"])]
    return some


@giving_parts(torch.split, "split")
def _split(call: Call) -> tuple[BoundNode, ...]:
    args = call.bind(tensor=REQUIRED, split_size=REQUIRED, dim=0)
    return _parts(call, args["tensor"], args["split_size"], args["dim"])


@giving_parts(torch.chunk, "chunk")
def _chunk(call: Call) -> tuple[BoundNode, ...]:
    args = call.bind(input=REQUIRED, chunks=REQUIRED, dim=0)
    return _parts(call, args["input"], args["chunks"], args["dim"])


@giving_parts(torch.unbind, "unbind")
def _unbind(call: Call) -> tuple[BoundNode, ...]:
    args = call.bind(input=REQUIRED, dim=0)
    return _parts(call, args["input"], None, args["dim"])


def _parts(call: Call, operand: Any, sizes: Any, dim: Any) -> tuple[BoundNode, ...]:
    """Return the parts of a dimension, one after the other; each loses the dimension where it has one entry of it."""
    call.static(sizes)
    source, axis = call.node(operand), call.static(dim) % call.rank_of(operand) - 1
    if axis < 0:
        raise call.refuse("divides the batch dimension")
    found: list[BoundNode] = []
    start = 0
    for i, shape in enumerate(call.shapes_of_parts()):
        name, keeps = f"{call.name}/{i}", len(shape) == len(source.shape)
        stop = start + (shape[axis] if keeps else 1)
        index = tuple(slice(start, stop) if at == axis else slice(None) for at in range(len(source.shape)))
        part = SliceNode(name if keeps else f"{name}/slice", source, index)
        found.append(part if keeps else ReshapeNode(name, part, shape))
        start = stop
    return tuple(found)
