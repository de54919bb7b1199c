"""Losses on bounds (Gowal et al. 2018; Xu et al. 2020; Lyu et al. 2021)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def margin_loss(margins: Tensor) -> Tensor:
    """Cross-entropy of the worst logits that the margin bounds allow.

    `CE(-w, y)` with `w_y = 0`, which is `log(1 + sum_i exp(-w_i))` over the other classes: an upper bound of the
    cross-entropy of every point of the region.

    Args:
        margins: lower bounds [B, classes - 1] of `z_y - z_i`, the true class left out.

    Returns:
        mean over the batch, 0-dim.
    """
    worst = torch.cat([margins.new_zeros(margins.shape[0], 1), -margins], dim=1)
    return worst.logsumexp(dim=1).mean()


def mixed_loss(logits: Tensor, labels: Tensor, bound_loss: Tensor, kappa: float | Tensor) -> Tensor:
    """`kappa CE(z(x0), y) + (1 - kappa) bound_loss`, 0-dim.

    Args:
        logits: [B, classes] of the clean pass.
        labels: int64 [B].
        bound_loss: 0-dim.
        kappa: weight of the clean loss, in [0, 1].
    """
    return kappa * F.cross_entropy(logits, labels) + (1 - kappa) * bound_loss


def certified_loss(logits: Tensor, labels: Tensor, margins: Tensor, kappa: float | Tensor) -> Tensor:
    """`kappa CE(z(x0), y) + (1 - kappa) CE(-w, y)`.

    Args:
        logits: [B, classes] of the clean pass.
        labels: int64 [B].
        margins: lower bounds [B, classes - 1].
        kappa: weight of the clean loss, in [0, 1].

    Returns:
        0-dim loss.
    """
    return mixed_loss(logits, labels, margin_loss(margins), kappa)


def exponential_chords(upper: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """The chords of exp on intervals [u - w, u], which bound it from above there: `value + slope (d - u)`.

    Args:
        upper: upper ends u, any shape; small enough for exp.
        widths: w >= 0, of the same shape.

    Returns:
        slopes, and values at the upper ends.
    """
    values = upper.exp()
    # (1 - exp(-w)) / w, which is 1 - w/2 + ... near w = 0.
    narrow = widths < 1e-4
    safe = torch.where(narrow, torch.ones_like(widths), widths)
    return values * torch.where(narrow, 1 - widths / 2, -torch.expm1(-safe) / safe), values
