"""Projected gradient descent, the attack that certificates are held against (Madry et al. 2018)."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lbp.errors import InvalidInputError
from lbp.verification.search import BestPoints, Box, ExampleRandom, Limit, smallest_margin

AttackLoss = Literal["margin", "cross-entropy"]

_STEPS_BETWEEN_LOOKS = 10
"""Gradient steps after which examples that are misclassified by now leave the batch."""


def pgd(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: Limit,
    *,
    clip: tuple[Limit, Limit] | None = None,
    steps: int = 40,
    restarts: int = 2,
    step_size: Limit | None = None,
    loss: AttackLoss = "margin",
    early_stop: bool = False,
    seed: int | Sequence[int] = 0,
) -> Tensor:
    """Searches the l_inf ball for misclassified points by signed gradient steps.

    Every point tried lies in the ball and in the valid range, the random starts included. The best iterate is kept, not
    the last: the one with the smallest margin, whichever loss the gradient is of. The length of the steps falls
    linearly to a hundredth. The network runs as the process-wide switches say, on a GPU by default in TF32, so that a
    point is to be evaluated again before anything is claimed of it, as `falsify` does.

    Args:
        model: network to logits, in evaluation mode.
        x: inputs [B, *shape].
        labels: int64 [B].
        eps: radius, >= 0; where data is normalised outside the network, a tensor that broadcasts to x.
        clip: valid range of the data, numbers or such tensors.
        steps: gradient steps of a restart.
        restarts: random starts, uniform in the region.
        step_size: length of the first step; `eps / 4` by default.
        loss: what is followed: the smallest margin downward or the cross-entropy upward.
        early_stop: leave an example alone once it is misclassified, instead of lowering its margin further.
        seed: of the random starts, one number or one per example; an example's starts do not depend on the others.

    Returns:
        [B, *shape]: for every example a misclassified point where one was found (its prediction tells), else the point
        with the smallest margin seen.

    Raises:
        InvalidInputError: images or labels that do not fit, negative or NaN eps, another loss.
    """
    if loss not in get_args(AttackLoss):
        raise InvalidInputError(f"loss must be one of {', '.join(get_args(AttackLoss))}, got {loss!r}")
    box = Box.around(x, eps, clip)
    length = torch.as_tensor(eps / 4 if step_size is None else step_size, dtype=x.dtype, device=x.device).expand(
        x.shape
    )
    random = ExampleRandom(seed, x)
    best = BestPoints(model, x, labels)
    for _ in range(restarts):
        points = box.at(random.uniform(*x.shape[1:]))
        index = best.open(early_stop=early_stop)
        points = points[index]
        for step in range(steps + 1):
            if early_stop and step % _STEPS_BETWEEN_LOOKS == 0:
                still = ~(best.margins[index] < 0)
                points, index = points[still], index[still]
            if len(index) == 0:
                break
            margins, gradient = _descent(model, points, labels[index], loss)
            best.offer(index, points, margins)
            shrink = max(1 - step / max(steps, 1), 0.01)
            points = box[index].project(points - shrink * length[index] * gradient.sign())
    return best.points


def _descent(model: nn.Module, points: Tensor, labels: Tensor, loss: AttackLoss) -> tuple[Tensor, Tensor]:
    """Smallest margins [B], and the gradient of what is to become smaller."""
    # What was made under inference_mode has no gradient; copies have.
    with torch.inference_mode(False), torch.enable_grad():
        points, labels = points.detach().clone().requires_grad_(True), labels.clone()
        logits = model(points)
        margins = smallest_margin(logits, labels)
        value = margins.sum() if loss == "margin" else -F.cross_entropy(logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(value, points)
    return margins.detach(), gradient
