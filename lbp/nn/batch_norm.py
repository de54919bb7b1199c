"""Batch normalisation by the statistics of a batch that is spread over several processes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lbp.errors import InvalidInputError


class GlobalBatchNorm(nn.Module):
    """Takes the place of an `nn.BatchNorm1d` or `nn.BatchNorm2d`, with its parameters and buffers.

    In training the mean and variance are those of the whole batch, through sums over all processes; works with every
    backend of torch.distributed, and gradients flow through the sums.

    Args:
        layer: the layer to stand in for.
        reduce: sums a tensor over the processes, differentiably.

    Raises:
        InvalidInputError: the layer has no weights or no running statistics.

    Attributes:
        moments: mean and variance [C] of the latest batch in training, with their history; None before.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d, reduce: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if not (layer.affine and layer.track_running_stats):
            raise InvalidInputError(
                f"{layer} cannot be trained by several processes: it needs weights and running statistics"
            )
        self._parameters, self._buffers = layer._parameters, layer._buffers
        self.training = layer.training
        self.eps, self.momentum, self.num_features = layer.eps, layer.momentum, layer.num_features
        self._reduce = reduce
        self.moments: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalises x [B, C, ...]."""
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = self.moments = self._measure(x)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        shift = self.bias - mean * scale
        spatial = (-1, *[1] * (x.dim() - 2))
        return x * scale.reshape(spatial) + shift.reshape(spatial)

    def _measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Under autocast numbers may have 16 bits.
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        dims = [dim for dim in range(x.dim()) if dim != 1]
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = self._reduce(torch.cat([x.sum(dims), count]))
        total = sums[-1]
        mean = sums[:-1] / total
        spatial = (-1, *[1] * (x.dim() - 2))
        # Deviations from the mean of all: the difference of two large sums would lose digits.
        variance = self._reduce((x - mean.reshape(spatial)).square().sum(dims)) / total
        with torch.no_grad():
            self._update(mean, variance * (total / (total - 1)))
        return mean, variance

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics, as PyTorch's layers do (unbiased variance)."""
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)
