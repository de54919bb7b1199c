"""A search that needs no gradient, for networks whose gradients are masked (Andriushchenko et al. 2020)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lbp.verification.search import BestPoints, Box, ExampleRandom, Limit, smallest_margin

_FIRST_SHARE = 0.8
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Share of the image that the first squares cover, and the parts of the search after which it is halved."""

_QUERIES_BETWEEN_LOOKS = 20
"""Queries after which examples that are misclassified by now leave the batch."""


def square_attack(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: Limit,
    *,
    clip: tuple[Limit, Limit] | None = None,
    queries: int = 1000,
    early_stop: bool = False,
    seed: int | Sequence[int] = 0,
) -> Tensor:
    """Searches the l_inf ball for misclassified points by setting random squares to the ends of the region.

    It starts from vertical stripes; every query moves one square of every image to the lower or upper end of the
    region, channel by channel, and keeps what does not raise the smallest margin. The squares shrink as the search
    goes on. Inputs that are no images [B, C, H, W] are taken as one row of pixels. The network runs as in `pgd`.

    Args:
        model: network to logits, in evaluation mode.
        x: inputs [B, *shape].
        labels: int64 [B].
        eps: radius, >= 0; where data is normalised outside the network, a tensor that broadcasts to x.
        clip: valid range of the data, numbers or such tensors.
        queries: evaluations of the network per example.
        early_stop: leave an example alone once it is misclassified.
        seed: of the random choices, one number or one per example; an example's choices do not depend on the others.

    Returns:
        [B, *shape]: for every example the point with the smallest margin seen.

    Raises:
        InvalidInputError: images or labels that do not fit, negative or NaN eps.
    """
    box = Box.around(x, eps, clip)
    best = BestPoints(model, x, labels)
    layout = _layout(x)
    channels, _, width = layout
    random = ExampleRandom(seed, x)
    stripes = random.uniform(channels, 1, width)
    # Of every query: where the square lies (two numbers), and the end that every channel goes to.
    choices = random.uniform(queries, 2 + channels)
    index = best.open(early_stop=early_stop)
    current = _ends(box, stripes)[index]
    current_margins = torch.full_like(best.margins[index], torch.inf)
    for query in range(queries):
        if early_stop and query % _QUERIES_BETWEEN_LOOKS == 0:
            still = ~(best.margins[index] < 0)
            current, current_margins, index = current[still], current_margins[still], index[still]
        if len(index) == 0:
            break
        candidate = current
        if query > 0:
            choice = choices[index, query]
            inside = _squares(choice[:, :2], layout, _share(query / queries)).expand(-1, *layout).reshape(current.shape)
            candidate = torch.where(inside, _ends(box[index], choice[:, 2:, None, None]), current)
        with torch.no_grad():
            margins = smallest_margin(model(candidate), labels[index])
        # Ties count: on a plateau the search wanders, instead of waiting where it is.
        better = margins <= current_margins
        current = torch.where(better.view(-1, *[1] * (x.dim() - 1)), candidate, current)
        current_margins = torch.where(better, margins, current_margins)
        best.offer(index, candidate, margins)
    return best.points


def _share(progress: float) -> float:
    """Share of the image that a square covers after this part of the queries."""
    halvings = sum(progress > end for end in _HALVINGS)
    return _FIRST_SHARE * 0.5**halvings


def _squares(position: Tensor, layout: torch.Size, share: float) -> Tensor:
    """Bool [B, 1, height, width]: a square about the given share of the image, at a position in [0, 1) [B, 2]."""
    _, height, width = layout
    tall = min(height, max(1, round((share * height * width) ** 0.5)))
    wide = min(width, max(1, round(share * height * width / tall)))
    sides: list[Tensor] = []
    for where, length, extent in ((position[:, :1], tall, height), (position[:, 1:], wide, width)):
        start = (where * (extent - length + 1)).floor().clamp(max=extent - length)
        place = torch.arange(extent, device=position.device)
        sides.append((place >= start) & (place < start + length))
    rows, columns = sides
    return rows[:, None, :, None] & columns[:, None, None, :]


def _ends(box: Box, coins: Tensor) -> Tensor:
    """The lower end of the box where a number [B, C, h or 1, w or 1] in [0, 1) is below 1/2, else the upper."""
    low = (coins < 0.5).expand(-1, *_layout(box.low)).reshape(box.low.shape)
    return torch.where(low, box.low, box.high)


def _layout(x: Tensor) -> torch.Size:
    """(channels, height, width) of inputs [B, *shape]."""
    return x.shape[1:] if x.dim() == 4 else torch.Size((1, 1, math.prod(x.shape[1:])))
