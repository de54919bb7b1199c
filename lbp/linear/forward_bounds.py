"""Linear bounds of a layer in terms of the network's input (Lyu et al. 2021, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ForwardBounds:
    """`WL x + bL <= z <= WU x + bU` in center/radius form, x the flattened input.

    `WL = center - radius`, `WU = center + radius`, `bL = center_bias - radius_bias`, `bU = center_bias + radius_bias`.
    The input dimension stands before the layer's, so that convolutions take it as a batch. B may be 1 where all
    examples share the matrices.

    Attributes:
        center: [B, n0, *shape].
        radius: [B, n0, *shape], or None for exactly zero.
        center_bias: [B, *shape].
        radius_bias: [B, *shape], or None for exactly zero.
    """

    center: Tensor
    radius: Tensor | None
    center_bias: Tensor
    radius_bias: Tensor | None

    @classmethod
    def identity(cls, x: Tensor) -> ForwardBounds:
        """Return the exact bounds of the input itself; x [B, *shape] gives shape, dtype and device."""
        shape = x.shape[1:]
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
        radius, radius_bias = self.radius_or_zero, self.radius_bias_or_zero.double()
        rows = torch.stack([self.center - radius, self.center + radius]).flatten(3).mT
        center_bias = self.center_bias.double()
        constants = torch.stack([center_bias - radius_bias, center_bias + radius_bias]).flatten(2)
        return rows.expand(2, batch, *rows.shape[2:]), constants.expand(2, batch, constants.shape[2])

    @property
    def radius_or_zero(self) -> Tensor:
        """The radius as a tensor, zeros when it is absent."""
        return torch.zeros_like(self.center) if self.radius is None else self.radius

    @property
    def radius_bias_or_zero(self) -> Tensor:
        """The radius of the constants as a tensor, zeros when it is absent."""
        return torch.zeros_like(self.center_bias) if self.radius_bias is None else self.radius_bias
