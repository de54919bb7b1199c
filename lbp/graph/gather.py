"""Operations that only move numbers, repeat them or put zeros between them, whatever their arguments mean.

Where every number goes is found by moving places instead: the operation runs once on whole numbers that say which
neuron they stand for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lbp.graph.base import BoundNode
from lbp.graph.registry import REQUIRED, Call, for_functions, for_modules
from lbp.graph.shape import MoveNode
from lbp.rounding import EXACT, Roundings


class _Selection:
    """Entries of a dimension, and zeros.

    Args:
        places: int64 [...], which entry each one is; `count` stands for 0.
        count: length of the dimension.
    """

    def __init__(self, places: Tensor, count: int) -> None:
        self.places = places
        self._has_zeros = bool((places == count).any())

    def of(self, values: Tensor) -> Tensor:
        """Return the entries [*lead, *places.shape] of values [*lead, count]."""
        self.places = self.places.to(values.device)
        if self._has_zeros:
            values = functional.pad(values, (0, 1))
        picked = values.index_select(-1, self.places.flatten())
        return picked.reshape(*values.shape[:-1], *self.places.shape)


class GatherNode(MoveNode):
    """Neurons of the input in any arrangement, some several times, some not at all, and zeros.

    Args:
        name: of the node.
        source: the input.
        places: int64 [*shape], which neuron of the flattened input each neuron is; that of the input's size stands for
            0.
    """

    def __init__(self, name: str, source: BoundNode, places: Tensor) -> None:
        super().__init__(name, (source,), tuple(places.shape))
        self._chosen = _Selection(places, source.size)
        readers = _readers(places.flatten(), source.size)
        self._most = readers.shape[1]
        self._readers = _Selection(readers.unflatten(0, source.shape), self.size)
        self.acts_per_neuron = self._most <= 1

    def move(self, values: Tensor, lead: int) -> Tensor:
        return self._chosen.of(values.flatten(lead))

    def move_back(self, A: Tensor) -> Tensor:
        # As a sum over readers and not index_add, of which the order of its sums is left open on a GPU.
        return self._readers.of(A.flatten(3)).sum(-1)

    def roundings(self, dtype: torch.dtype) -> Roundings:
        return EXACT if self.acts_per_neuron else Roundings(backward=self._most)

    def bytes_in_step(self, itemsize: int) -> int:
        return -(-itemsize * self._most * self.inputs[0].size // max(self.size, 1))


def _readers(places: Tensor, count: int) -> Tensor:
    """Return int64 [count, m]: of each of `count` neurons the entries of `places` that name it, `len(places)` for none.

    Every neuron has m of them, the most that any has.
    """
    times = torch.bincount(places, minlength=count + 1)[:count]
    most = int(times.max()) if count else 0
    readers = torch.full((count, most), len(places), device=places.device)
    order = places.argsort(stable=True)[: int(times.sum())]
    first = (times.cumsum(0) - times)[places[order]]
    readers[places[order], torch.arange(len(order), device=places.device) - first] = order
    return readers


def gathered(
    call: Call, name: str, source: BoundNode, move: Callable[[Tensor], Any], shape: tuple[int, ...]
) -> BoundNode:
    """Return the node of an operation that only moves numbers.

    Args:
        call: for messages.
        name: of the node.
        source: the input.
        move: the operation.
        shape: of two examples of the input, as the operation takes them.

    Raises:
        UnsupportedLayerError: it computes, or moves numbers from one of the two examples to the other. Whoever calls
            this knows that it does not with more examples.
    """
    count = source.size
    numbers = torch.arange(1, 2 * count + 1, dtype=torch.float64, device="cpu")
    moved = move(numbers.reshape(shape))
    first, second = moved.reshape(2, -1)
    places = first.long() - 1
    own = (places >= -1) & (places < count) & (places + 1 == first)
    if not bool(own.all()) or not torch.equal(second, torch.where(first > 0, first + count, 0)):
        raise call.refuse("computes with its numbers, or moves them between examples, where it may only move them")
    return GatherNode(name, source, torch.where(places < 0, count, places).reshape(moved.shape[1:] or (1,)))


@for_modules(nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold)
@for_functions(functional.pixel_shuffle, functional.pixel_unshuffle, functional.channel_shuffle, functional.unfold)
@for_functions(torch.flip, torch.fliplr, torch.flipud, torch.rot90, torch.movedim, torch.moveaxis)
@for_functions("flip", "fliplr", "flipud", "rot90", "movedim", "moveaxis")
@for_functions(torch.index_select, torch.narrow, torch.select, "index_select", "narrow", "select")
@for_functions(torch.tile, torch.repeat_interleave, "tile", "repeat", "repeat_interleave")
def moved(call: Call) -> BoundNode:
    """Return the node of a call that only moves numbers."""
    operand, shape = call.operand(), call.shape
    node = gathered(call, call.name, call.node(operand), call.applied_to, call.shape_of_two(operand))
    assert node.shape == shape
    return node


@for_functions(torch.roll, "roll")
def _rolled(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, shifts=REQUIRED, dims=None)
    dims, rank = call.static(args["dims"]), call.rank_of(args["input"])
    named = (dims,) if isinstance(dims, int) else dims or ()
    # By a multiple of the batch size nothing moves: two examples may hide that a roll mixes more of them.
    if not named or any(dim % rank == 0 for dim in named):
        raise call.refuse("rolls over the batch dimension; name the others, as in x.roll(1, 2)")
    return moved(call)
