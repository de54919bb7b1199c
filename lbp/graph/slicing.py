"""Entries along dimensions: `x[:, 1:5, ..., ::2]`."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor

from lbp.graph.base import BoundNode
from lbp.graph.registry import REQUIRED, Call, for_functions
from lbp.graph.shape import MoveNode, ReshapeNode


class SliceNode(MoveNode):
    """Some entries of every example; the others are dropped.

    Attributes:
        parts: a slice with a positive step for each dimension, not counting the batch.
    """

    def __init__(self, name: str, source: BoundNode, parts: tuple[slice, ...]) -> None:
        shape = tuple(len(range(dim)[part]) for dim, part in zip(source.shape, parts, strict=True))
        super().__init__(name, (source,), shape)
        self.parts = parts

    def move(self, values: Tensor, lead: int) -> Tensor:
        return values[(slice(None),) * lead + self.parts]

    def move_back(self, A: Tensor) -> Tensor:
        whole = A.new_zeros(*A.shape[:3], *self.inputs[0].shape)
        whole[(slice(None),) * 3 + self.parts] = A
        return whole


@for_functions(operator.getitem)
def _getitem(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, index=REQUIRED)
    source = call.node(args["input"])
    given = args["index"] if isinstance(args["index"], tuple) else (args["index"],)
    batch, *parts = _per_dimension(call, given, call.rank_of(args["input"]))
    if batch != slice(None):
        raise call.refuse("picks entries along the batch dimension")
    if not parts:  # a number per example
        return source
    # A number is a slice of one entry; the reshaping takes its dimension away.
    slices = tuple(part if isinstance(part, slice) else _single(part) for part in parts)
    sliced = SliceNode(call.name, source, slices)
    return sliced if sliced.shape == call.shape else _without_dimensions(call, sliced)


def _without_dimensions(call: Call, sliced: SliceNode) -> BoundNode:
    sliced.name = f"{call.name}/slice"
    return ReshapeNode(call.name, sliced, call.shape)


def _single(index: int) -> slice:
    return slice(index, index + 1 or None)


def _per_dimension(call: Call, given: tuple[Any, ...], rank: int) -> list[slice | int]:
    """Return an index as one slice or number per dimension."""
    if any((part is not Ellipsis and not isinstance(part, slice | int)) or isinstance(part, bool) for part in given):
        raise call.refuse(f"has the index {given!r}; numbers and slices are supported")
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
