"""Rows of back-substitution that hold only the window of a layer which they depend on.

Rows of several images and neurons stand side by side, so that they can be chosen, split and dropped one by one. A
window follows from the row's place in the layer where it started and from the receptive field of that layer in the
present one; it is moved inside the layer where it stands over the edge, and is the whole layer once it is as large as
that.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lbp.linear.receptive_field import Pair, ReceptiveField
from lbp.ops import relax_windows
from lbp.ops._arguments import take_at
from lbp.ops.window_places import move_windows
from lbp.strategies import side_names

Layer = tuple[int, int, int]


def layer_of(shape: tuple[int, ...]) -> Layer:
    """Return a layer's shape as channels, rows and columns; what is no image is one pixel with many channels."""
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    return torch.Size(shape).numel(), 1, 1


def window_of(field: ReceptiveField | None, layer: Layer) -> Pair:
    """Return rows and columns of the windows of a receptive field, None being the whole layer."""
    if field is None:
        return layer[1], layer[2]
    return min(field.rows.size, layer[1]), min(field.columns.size, layer[2])


@dataclass(frozen=True)
class NeuronRows:
    """Neurons of a layer, each for one image: the identity's rows, never stored as a matrix.

    Attributes:
        shape: the layer's shape without the batch dimension.
        neurons: int64 [R], in the layer's flattened order.
        images: int64 [R].
        dtype: of the coefficients.
    """

    shape: tuple[int, ...]
    neurons: Tensor
    images: Tensor
    dtype: torch.dtype

    def places(self) -> tuple[Tensor, Tensor]:
        """Return the channel [R], and row and column [R, 2], of every neuron."""
        _, height, width = layer_of(self.shape)
        pixel = self.neurons % (height * width)
        places = torch.stack([pixel // width, pixel % width], 1)
        return self.neurons // (height * width), places

    def windows(self) -> WindowCoefficients:
        """Return the rows as windows of one pixel; those of a channel share it where channels are fewer than rows."""
        channels = layer_of(self.shape)[0]
        channel, places = self.places()
        shared = channels <= len(channel)
        ones = torch.arange(channels, device=channel.device) if shared else channel
        A = torch.zeros(len(ones), channels, dtype=self.dtype, device=channel.device)
        A = A.scatter_(1, ones[:, None], 1.0)[None, :, None, None]
        sources = channel if shared else None
        return WindowCoefficients(A, sources, self.images, places, ReceptiveField.identity(), self.shape)


@dataclass(frozen=True)
class WindowCoefficients:
    """Coefficients of a layer, one window per row.

    Attributes:
        A: [K, sources, height, width, C], channels last; K may be 1 where both sides share the rows.
        sources: int64 [R], the source of each row; None: one per row, in order.
        images: int64 [R].
        places: int64 [R, 2], row and column of every row's neuron in the layer where it started.
        field: receptive field of that layer in the present one; None: the whole layer.
        shape: the present layer's shape without the batch dimension.
        known: corners of windows that have been asked for, by field and layer; rows of the same places share them.
    """

    A: Tensor
    sources: Tensor | None
    images: Tensor
    places: Tensor
    field: ReceptiveField | None
    shape: tuple[int, ...]
    known: dict[tuple[ReceptiveField | None, Layer], Tensor] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def layer(self) -> Layer:
        """Channels, rows and columns of the layer."""
        return layer_of(self.shape)

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.images.shape[0]

    @property
    def covers(self) -> bool:
        """Whether every window is the whole layer."""
        return tuple(self.A.shape[2:4]) == self.layer[1:]

    def corners(self, field: ReceptiveField | None, layer: Layer) -> Tensor:
        """Return first row and column [R, 2] of the windows that the rows have in a layer, given the field there."""
        where = field, layer
        if where not in self.known:
            self.known[where] = self._corners(field, layer)
        return self.known[where]

    def _corners(self, field: ReceptiveField | None, layer: Layer) -> Tensor:
        window = window_of(field, layer)
        if field is None or window == layer[1:]:
            return torch.zeros_like(self.places)
        last = [layer[1 + i] - window[i] for i in range(2)]
        spans = (field.rows, field.columns)
        if last[0] == last[1] and spans[0] == spans[1]:
            return (self.places * spans[0].scale).add_(spans[0].offset).clamp_(0, last[0])
        starts = [self.places[:, i] * spans[i].scale + spans[i].offset for i in range(2)]
        return torch.stack([start.clamp(0, end) for start, end in zip(starts, last, strict=True)], 1)

    def field_below(self, below: ReceptiveField | None) -> ReceptiveField | None:
        """Return the field after a step down through a node whose own field is `below`."""
        return None if self.field is None or below is None else self.field.then(below)

    def rows(self) -> Tensor:
        """Return the rows [R, 4] as the ops take them: source, image, first row and column of the window."""
        sources = self.sources
        if sources is None:
            sources = torch.arange(self.count, device=self.images.device)
        return torch.cat([sources[:, None], self.images[:, None], self.corners(self.field, self.layer)], 1)

    def expanded(self, sides: str) -> Tensor:
        """Return A for the given sides, without a copy."""
        return self.A.expand(len(side_names(sides)), *self.A.shape[1:])

    def taken(self) -> Tensor:
        """Return A with one source per row, in order."""
        return self.A if self.sources is None else take_at(self.A, 1, self.sources)

    def stepped(self, A: Tensor, field: ReceptiveField | None, shape: tuple[int, ...]) -> WindowCoefficients:
        """Return the rows after a step down to another layer, one source per row."""
        return WindowCoefficients(A, None, self.images, self.places, field, shape, self.known)

    def chosen(self, keep: Tensor) -> WindowCoefficients:
        """Return some of the rows, int64 [R']; A is not copied."""
        sources = keep if self.sources is None else self.sources[keep]
        return replace(self, sources=sources, images=self.images[keep], places=self.places[keep], known={})

    def widened(self, field: ReceptiveField | None) -> Tensor:
        """Return the coefficients [K, R, height, width, C] over the windows of a field that holds the present one."""
        window = window_of(field, self.layer)
        A = self.taken()
        if window == tuple(A.shape[2:4]):
            return A
        return move_windows(A, self.corners(self.field, self.layer), self.corners(field, self.layer), window)

    def added(self, other: WindowCoefficients) -> WindowCoefficients:
        """Return the sum of two coefficients of the same rows; a row's window holds those of both."""
        field = None if self.field is None else self.field.union(other.field)
        first, second = self.widened(field), other.widened(field)
        return self.stepped(first + second, field, self.shape)

    def reshaped(self, shape: tuple[int, ...]) -> WindowCoefficients:
        """Return the rows over the whole layer in another shape."""
        if not self.covers:
            matrix = self.matrix()
            return self.from_matrix(matrix.reshape(*matrix.shape[:3], *shape), shape)
        # Rows go on sharing their sources, where those are not more than the rows.
        shared = self.sources is not None and self.A.shape[1] <= self.count
        A = self.A if shared else self.taken()
        columns = A.movedim(-1, 2).flatten(2).unflatten(2, layer_of(shape)).movedim(2, -1)
        return replace(self, A=columns.contiguous(), sources=self.sources if shared else None, field=None, shape=shape)

    def matrix(self) -> Tensor:
        """Return the rows over the whole layer, [K, R, 1, *shape]: as if every row had an image of its own."""
        A = self.widened(None).movedim(-1, 2)
        return A.reshape(A.shape[0], A.shape[1], 1, *self.shape)

    def from_matrix(self, A: Tensor, shape: tuple[int, ...]) -> WindowCoefficients:
        """Return rows [K, R, 1, *shape] of another layer as windows that are the whole layer."""
        channels, height, width = layer_of(shape)
        columns = A.reshape(A.shape[0], A.shape[1], channels, height, width).movedim(2, -1)
        return self.stepped(columns.contiguous(), None, shape)


@dataclass(frozen=True)
class PendingWindowRelaxation:
    """Windows of an activation's output that are not yet pushed through the activation; see `PendingRelaxation`.

    Attributes:
        coefficients: of the activation's output.
        lower, upper: pre-activation bounds [B, *shape].
        sides: "lower", "upper" or "both".
        relaxation: keywords of the relaxation ops (r, eta, strategy, ...).
    """

    coefficients: WindowCoefficients
    lower: Tensor
    upper: Tensor
    sides: str
    relaxation: dict[str, Any]

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return A, rows and bounds [B, C, h, w] as the ops take them."""
        layer = self.coefficients.layer
        lower, upper = (bound.reshape(bound.shape[0], *layer) for bound in (self.lower, self.upper))
        return self.coefficients.expanded(self.sides), self.coefficients.rows(), lower, upper

    def keywords(self) -> dict[str, Any]:
        """Return the keywords of the relaxation, tensors in the layer's shape as channels, rows and columns."""
        shape = self.coefficients.shape
        if len(shape) == 3:
            return self.relaxation
        return {name: self._on_layer(name, value) for name, value in self.relaxation.items()}

    def _on_layer(self, name: str, value: Any) -> Any:
        layer, shape = self.coefficients.layer, self.coefficients.shape
        if not isinstance(value, Tensor):
            return value
        if name == "r":
            return value.expand(shape).reshape(layer)
        if name == "eta":
            return value
        # Of an image: a number of every neuron, or one for all of them (a margin).
        return value.reshape(len(value), *(layer if value.shape[1:].numel() > 1 else (1, 1, 1)))

    def relaxed(self, bias: Tensor | None = None) -> tuple[WindowCoefficients, Tensor]:
        """Return the coefficients of the pre-activation, and the constants [K, R] of the lines and a bias [*shape]."""
        offset = None if bias is None else bias.reshape(self.coefficients.layer)
        A, constants = relax_windows(*self.arguments(), sides=self.sides, bias=offset, **self.keywords())
        relaxed = self.coefficients.stepped(A, self.coefficients.field, self.coefficients.shape)
        return relaxed, constants


WindowRows = NeuronRows | WindowCoefficients | PendingWindowRelaxation


def to_windows(rows: WindowRows) -> tuple[WindowCoefficients, Tensor | None]:
    """Return any representation of rows as windows, with the constants [K, R] that this adds (None: none)."""
    if isinstance(rows, NeuronRows):
        return rows.windows(), None
    if isinstance(rows, PendingWindowRelaxation):
        return rows.relaxed()
    return rows, None
