"""Receptive fields: the rectangle of a lower layer that a neuron of an upper layer depends on.

Along one axis, position p of the upper layer reads positions `scale p + offset` to `scale p + offset + size - 1` of the
lower one: every convolution and pooling layer is of this kind, and so are their compositions. Fields may stand over the
edge of the layer, where padding is, and may be larger than the layer.
"""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True)
class Span:
    """A receptive field along one axis.

    Attributes:
        scale: distance of the fields of neighbouring positions.
        offset: first position that position 0 reads; negative over padding.
        size: length of the field, gaps between the taps of a dilated kernel included.
    """

    scale: int = 1
    offset: int = 0
    size: int = 1

    def start(self, position: int) -> int:
        """Return the first position of the lower layer that a position of the upper one reads."""
        return self.scale * position + self.offset

    def then(self, below: Span) -> Span:
        """Return the field in a layer further down, `below` being the field of the lower layer there."""
        return Span(
            self.scale * below.scale,
            below.start(self.offset),
            below.scale * (self.size - 1) + below.size,
        )

    def union(self, other: Span) -> Span | None:
        """Return the smallest span that holds both at every position; None where they move at different speeds."""
        if self.scale != other.scale:
            return None
        offset = min(self.offset, other.offset)
        stop = max(self.offset + self.size, other.offset + other.size)
        return Span(self.scale, offset, stop - offset)

    def covers(self, count: int, length: int) -> bool:
        """Whether each of `count` positions reads all of the `length` positions below."""
        first, last = sorted((self.start(0), self.start(max(count - 1, 0))))
        return last <= 0 and first + self.size >= length


@dataclass(frozen=True)
class ReceptiveField:
    """A receptive field in a layer [C, h, w]: a window of rows and columns, in all channels.

    Attributes:
        rows, columns: the field along each axis.
    """

    rows: Span
    columns: Span

    @classmethod
    def identity(cls) -> ReceptiveField:
        """Return the field of a neuron in its own layer."""
        return cls(Span(), Span())

    @classmethod
    def of_kernel(
        cls, kernel: Pair, *, stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1)
    ) -> ReceptiveField:
        """Return the field of a convolution or pooling layer in its input; groups of channels do not matter."""
        rows, columns = (Span(stride[i], -padding[i], dilation[i] * (kernel[i] - 1) + 1) for i in range(2))
        return cls(rows, columns)

    @property
    def size(self) -> Pair:
        """Rows and columns of the window."""
        return self.rows.size, self.columns.size

    def origin(self, row: int, column: int) -> Pair:
        """Return the first row and column of the window of the neuron at a place; negative over padding."""
        return self.rows.start(row), self.columns.start(column)

    def then(self, below: ReceptiveField) -> ReceptiveField:
        """Return the field in a layer further down, `below` being the field of the lower layer there."""
        return ReceptiveField(self.rows.then(below.rows), self.columns.then(below.columns))

    def union(self, other: ReceptiveField | None) -> ReceptiveField | None:
        """Return the smallest field that holds both; None, which stands for the whole layer, where there is none."""
        if other is None:
            return None
        rows, columns = self.rows.union(other.rows), self.columns.union(other.columns)
        return None if rows is None or columns is None else ReceptiveField(rows, columns)

    def covers(self, places: Pair, layer: Pair) -> bool:
        """Whether every window of an upper layer with `places` rows and columns holds the whole lower layer.

        Args:
            places: rows and columns of the upper layer.
            layer: rows and columns of the lower one.
        """
        return self.rows.covers(places[0], layer[0]) and self.columns.covers(places[1], layer[1])
