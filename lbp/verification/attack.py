"""Projected gradient descent, the attack that certificates are held against (Madry et al. 2018)."""

import torch
from torch import Tensor, nn

from lbp.errors import InvalidInputError


def pgd(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    *,
    clip: tuple[float, float] | None = None,
    steps: int = 40,
    restarts: int = 2,
    step_size: float | None = None,
    seed: int = 0,
) -> Tensor:
    """Searches the l_inf ball for misclassified points by signed gradient steps on the smallest margin.

    Args:
        model: network to logits, in evaluation mode.
        x: inputs [B, *shape].
        labels: int64 [B].
        eps: radius, >= 0.
        clip: valid range of the data; every point tried is inside.
        steps: gradient steps of a restart.
        restarts: random starts, uniform in the region.
        step_size: length of a step; `eps / 4` by default.
        seed: of the random starts.

    Returns:
        [B, *shape]: for every example a misclassified point where one was found (its prediction tells), else the point
        with the smallest margin seen.

    Raises:
        InvalidInputError: negative or NaN eps.
    """
    if not eps >= 0:
        raise InvalidInputError(f"pgd: eps must be >= 0, got {eps}")
    low, high = x - eps, x + eps
    if clip is not None:
        low, high = low.clamp(*clip), high.clamp(*clip)
    generator = torch.Generator(x.device).manual_seed(seed)
    length = eps / 4 if step_size is None else step_size
    best = x.clone()
    best_margin = _smallest_margin(model, x, labels).detach()
    for _ in range(restarts):
        start = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        point = torch.minimum(torch.maximum(low + (high - low) * start, low), high)
        for _ in range(steps + 1):
            point.requires_grad_(True)
            margin = _smallest_margin(model, point, labels)
            (gradient,) = torch.autograd.grad(margin.sum(), point)
            point = point.detach()
            improved = margin.detach() < best_margin
            best[improved], best_margin[improved] = point[improved], margin.detach()[improved]
            point = torch.minimum(torch.maximum(point - length * gradient.sign(), low), high)
    return best


def _smallest_margin(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    logits = model(x)
    true = logits.gather(1, labels[:, None]).squeeze(1)
    margin: Tensor = true - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return margin
