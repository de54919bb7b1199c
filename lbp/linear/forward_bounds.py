"""Linear bounds of a layer in terms of the network's input (Lyu et al. 2021, section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lbp.linear.input_windows import InputWindows, common_windows
from lbp.ops import windows_to_dense

Matrices = tuple[Tensor, Tensor | None, Tensor, Tensor | None]


@dataclass(frozen=True)
class ForwardBounds:
    """`WL x + bL <= z <= WU x + bU` in center/radius form, x the flattened input.

    `WL = center - radius`, `WU = center + radius`, `bL = center_bias - radius_bias`, `bU = center_bias + radius_bias`.
    The input dimension stands before the layer's, so that convolutions take it as a batch. B may be 1 where all
    examples share the matrices.

    The rows of neurons that read a small part of the input are kept over that part alone, as windows: n0 is then the
    size of a window, and `windows` says where it lies. What acts on neurons one by one need not know.

    Attributes:
        center: [B, n0, *shape].
        radius: [B, n0, *shape], or None for exactly zero.
        center_bias: [B, *shape].
        radius_bias: [B, *shape], or None for exactly zero.
        windows: None for dense matrices.
    """

    center: Tensor
    radius: Tensor | None
    center_bias: Tensor
    radius_bias: Tensor | None
    windows: InputWindows | None = None

    @classmethod
    def identity(cls, x: Tensor, *, windows: bool = False) -> ForwardBounds:
        """Return the exact bounds of the input itself.

        Args:
            x: [B, *shape] gives shape, dtype and device.
            windows: keep rows as windows if the input is an image.
        """
        shape = x.shape[1:]
        if windows and len(shape) == 3:
            eye = torch.eye(shape[0], dtype=x.dtype, device=x.device)
            center = eye[None, :, :, None, None].expand(1, -1, -1, *shape[1:])
            return cls(
                center, None, torch.zeros_like(x[:1]), None, InputWindows.of_input((shape[0], shape[1], shape[2]))
            )
        eye = torch.eye(shape.numel(), dtype=x.dtype, device=x.device)
        return cls(eye.reshape(1, shape.numel(), *shape), None, torch.zeros_like(x[:1]), None)

    @classmethod
    def from_sides(cls, A: Tensor, constants: Tensor, shape: tuple[int, ...]) -> ForwardBounds:
        """Take over the result of back-substitution from every neuron of a layer down to the input.

        Args:
            A: [2, B, n, n0], lower then upper.
            constants: [2, B, n] float64.
            shape: the layer's shape, of n neurons.
        """
        center = ((A[1] + A[0]) / 2).mT.reshape(A.shape[1], A.shape[3], *shape)
        radius = ((A[1] - A[0]) / 2).mT.reshape(center.shape)
        bias = constants.reshape(2, A.shape[1], *shape)
        return cls(center, radius, ((bias[1] + bias[0]) / 2).to(A.dtype), ((bias[1] - bias[0]) / 2).to(A.dtype))

    def to_sides(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return the bounds as rows, the inverse of `from_sides`.

        Returns:
            A [2, B, n, n0] and constants [2, B, n] float64, lower then upper.
        """
        dense = self.dense()
        radius, radius_bias = dense.radius_or_zero, dense.radius_bias_or_zero.double()
        rows = torch.stack([dense.center - radius, dense.center + radius]).flatten(3).mT
        center_bias = dense.center_bias.double()
        constants = torch.stack([center_bias - radius_bias, center_bias + radius_bias]).flatten(2)
        return rows.expand(2, batch, *rows.shape[2:]), constants.expand(2, batch, constants.shape[2])

    @property
    def matrices(self) -> Matrices:
        """center, radius, center_bias and radius_bias, as the ops take them."""
        return self.center, self.radius, self.center_bias, self.radius_bias

    def with_matrices(self, matrices: Matrices) -> ForwardBounds:
        """Return other matrices on the same windows."""
        return ForwardBounds(*matrices, self.windows)

    def of_image(self, image: int) -> ForwardBounds:
        """Return the bounds of one example, without a copy."""

        def one(values: Tensor | None) -> Tensor | None:
            return values if values is None or values.shape[0] == 1 else values[image : image + 1]

        center, center_bias = one(self.center), one(self.center_bias)
        assert center is not None
        assert center_bias is not None
        return ForwardBounds(center, one(self.radius), center_bias, one(self.radius_bias), self.windows)

    def on_windows(self, windows: InputWindows) -> Matrices:
        """Return the matrices [B, C0, kh, kw, C, H, W] and biases [B, C, H, W]; `windows` are those of the bounds."""
        biases = (
            None if bias is None else bias.reshape(bias.shape[0], *windows.layer)
            for bias in (self.center_bias, self.radius_bias)
        )
        center_bias, radius_bias = biases
        assert center_bias is not None
        radius = None if self.radius is None else windows.split(self.radius)
        return windows.split(self.center), radius, center_bias, radius_bias

    @classmethod
    def from_windows(cls, matrices: Matrices, windows: InputWindows) -> ForwardBounds:
        """Take over matrices [B, C0, kh, kw, C, H, W] and biases [B, C, H, W]."""
        center, radius, center_bias, radius_bias = matrices
        flat = None if radius is None else radius.flatten(1, 3)
        return cls(center.flatten(1, 3), flat, center_bias, radius_bias, windows)

    def dense(self) -> ForwardBounds:
        """Return the bounds with dense matrices."""
        windows = self.windows
        if windows is None:
            return self
        center, radius = (
            None
            if matrix is None
            else windows_to_dense(windows.split(matrix), windows.image, windows.scale, windows.offset).reshape(
                matrix.shape[0], math.prod(windows.image), *matrix.shape[2:]
            )
            for matrix in (self.center, self.radius)
        )
        assert center is not None
        return ForwardBounds(center, radius, self.center_bias, self.radius_bias)

    def extended(self, windows: InputWindows) -> ForwardBounds:
        """Return the bounds on windows that hold the present ones."""
        own = self.windows
        assert own is not None
        if own.field == windows.field:
            return self
        center = own.extended(self.center, windows.field)
        radius = None if self.radius is None else own.extended(self.radius, windows.field)
        return replace(self, center=center, radius=radius, windows=replace(own, field=windows.field))

    @property
    def radius_or_zero(self) -> Tensor:
        """The radius as a tensor, zeros when it is absent."""
        return torch.zeros_like(self.center) if self.radius is None else self.radius

    @property
    def radius_bias_or_zero(self) -> Tensor:
        """The radius of the constants as a tensor, zeros when it is absent."""
        return torch.zeros_like(self.center_bias) if self.radius_bias is None else self.radius_bias


def aligned(bounds: Sequence[ForwardBounds]) -> list[ForwardBounds]:
    """Return the bounds of several layers on windows of one size, or all of them dense where there are no such ones."""
    windows = common_windows([b.windows for b in bounds])
    return [b.dense() if windows is None else b.extended(windows) for b in bounds]
