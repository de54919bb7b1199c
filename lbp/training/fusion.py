"""Loss fusion: one linear bound of the loss instead of one bound per margin (Xu et al. 2020)."""

import torch
from torch import Tensor

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.training.losses import exponential_chords


def fused_loss(
    bounded: BoundedModule, region: BoundedTensor, labels: Tensor, beta: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Upper bounds of the cross-entropy `log sum_i exp(z_i - z_y)` over regions.

    By IBP, every difference `z_i - z_y` takes the upper end of its interval. CROWN-IBP encloses each exponential by its
    chord and bounds the sum of the chords, a single linear function of the logits, by back-substitution: one row in
    place of one per class, and no intermediate value of the size of classes times layer. `beta` mixes the two bounds of
    the sum.

    Args:
        bounded: network to logits.
        region: inputs [B, *shape] with their perturbation.
        labels: int64 [B].
        beta: weight of CROWN-IBP, 0-dim; None leaves it out.

    Returns:
        losses [B], differentiable, and verdicts [B]: whether every difference of intervals is negative.
    """
    lower, upper = bounded.compute_bounds(x=(region,), method="IBP")[:2]
    assert lower is not None
    assert upper is not None
    label = labels[:, None]
    highest = (upper - lower.gather(1, label)).scatter(1, label, 0.0)
    widths = (upper - lower) + (upper - lower).gather(1, label)
    # Every exponential is at most 1 after the largest is taken out.
    largest = highest.detach().amax(1, keepdim=True)
    total = (highest - largest).exp().sum(1)
    if beta is not None:
        slopes, values = exponential_chords(highest - largest, widths)
        slopes = slopes.scatter(1, label, 0.0)
        row = slopes.scatter(1, label, -slopes.sum(1, keepdim=True)).unsqueeze(1)
        bound = bounded.compute_bounds(C=row, method="backward", bound_lower=False)[1]
        assert isinstance(bound, Tensor)
        fused = values.sum(1) + (bound.squeeze(1) - (slopes * highest).sum(1))
        # The label's own term is exact: rounding must not take the sum below it.
        own = (-largest.squeeze(1)).exp().clamp(min=torch.finfo(fused.dtype).tiny)
        total = (1 - beta) * total + beta * torch.maximum(fused, own)
    verified = (highest < 0).sum(1) == highest.shape[1] - 1
    return largest.squeeze(1) + total.log(), verified
