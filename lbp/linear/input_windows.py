"""Windows of the input under the neurons of an image-shaped layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from lbp.linear.receptive_field import Pair, ReceptiveField, Span

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class InputWindows:
    """Which part of the input each neuron of a layer depends on.

    Attributes:
        field: the layer's receptive field in the input.
        image: channels, rows and columns of the input.
        layer: channels, rows and columns of the layer, in whatever shape its node arranges the neurons.
    """

    field: ReceptiveField
    image: Shape
    layer: Shape

    @classmethod
    def of_input(cls, image: Shape) -> InputWindows:
        """Return the windows of the input itself: each element alone."""
        return cls(ReceptiveField.identity(), image, image)

    @property
    def entries(self) -> int:
        """Number of input elements in a window, those outside the image included."""
        rows, columns = self.field.size
        return self.image[0] * rows * columns

    @property
    def scale(self) -> Pair:
        """Rows and columns of the input between the windows of neighbouring neurons."""
        return self.field.rows.scale, self.field.columns.scale

    @property
    def offset(self) -> Pair:
        """First row and column of the window of the neuron at (0, 0)."""
        return self.field.origin(0, 0)

    def split(self, matrix: Tensor) -> Tensor:
        """Return a matrix [B, entries, *shape] as [B, C0, kh, kw, C, H, W]."""
        return matrix.reshape(matrix.shape[0], self.image[0], *self.field.size, *self.layer)

    def through(self, step: ReceptiveField, shape: Shape) -> InputWindows | None:
        """Return the windows of a layer above.

        Args:
            step: receptive field of that layer in this one.
            shape: channels, rows and columns of that layer.

        Returns:
            the windows; None where they are no smaller than the input, which a dense matrix holds as well.
        """
        return self._unless_wide(step.then(self.field), shape)

    def padded(self, top: int, left: int, shape: Shape) -> InputWindows:
        """Return the windows after rows of zeros above and columns of zeros to the left."""
        rows, columns = (
            Span(span.scale, span.offset - span.scale * count, span.size)
            for span, count in ((self.field.rows, top), (self.field.columns, left))
        )
        return InputWindows(ReceptiveField(rows, columns), self.image, shape)

    def union(self, other: InputWindows) -> InputWindows | None:
        """Return windows of this layer that hold those of another of the same rows and columns; None: dense."""
        if self.image != other.image or self.layer[1:] != other.layer[1:]:
            return None
        field = self.field.union(other.field)
        return None if field is None else self._unless_wide(field, self.layer)

    def _unless_wide(self, field: ReceptiveField, shape: Shape) -> InputWindows | None:
        rows, columns = field.size
        return None if rows * columns >= self.image[1] * self.image[2] else InputWindows(field, self.image, shape)

    def extended(self, matrix: Tensor, field: ReceptiveField) -> Tensor:
        """Return a matrix [B, entries, *shape] on larger windows, zero where they are new."""
        margins = [0] * 6
        for span, larger in ((self.field.columns, field.columns), (self.field.rows, field.rows)):
            before = span.offset - larger.offset
            margins += [before, larger.size - span.size - before]
        wider = functional.pad(self.split(matrix), margins)
        return wider.reshape(matrix.shape[0], wider.shape[1:4].numel(), *matrix.shape[2:])


def common_windows(windows: Sequence[InputWindows | None]) -> InputWindows | None:
    """Return the smallest windows that hold all of the given ones; None where dense matrices are needed."""
    first, *rest = windows
    total = first
    for other in rest:
        total = None if total is None or other is None else total.union(other)
    return total
