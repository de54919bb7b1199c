"""All attacks on one batch, each success confirmed on the network, and the contradiction that must never occur."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from lbp.errors import LbpError
from lbp.perturbations import PerturbationLpNorm
from lbp.settings import Settings
from lbp.verification.answers import answers
from lbp.verification.attack import pgd
from lbp.verification.checks import check_labels, checked_classes
from lbp.verification.search import Box, smallest_margin
from lbp.verification.square import square_attack

Confirm = Callable[[Tensor, Tensor], Tensor]
"""Takes points [n, *shape] and labels int64 [n], returns bool [n]."""

_SEED_STRIDE = 1_000_003
"""Between the seeds of neighbouring examples, so that runs with neighbouring seeds share none."""


class ContradictionError(LbpError, RuntimeError):
    """An example is verified and misclassified at a point of its region: the program is wrong."""


class AttackSettings(Settings):
    """The attacks to run, in this order; by default those of Lyu et al. 2021 and one without gradients.

    Attributes:
        steps, restarts: of projected gradient descent, once on the cross-entropy and once on the margin; no restarts,
            no such attack.
        queries: of the square attack; 0, no such attack.
        seed: of all random choices.
    """

    steps: int = Field(default=200, ge=1)
    restarts: int = Field(default=10, ge=0)
    queries: int = Field(default=1000, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @property
    def any(self) -> bool:
        """Whether there is an attack to run."""
        return self.restarts > 0 or self.queries > 0


@dataclass(frozen=True)
class Falsification:
    """What the attacks found.

    Attributes:
        found_by: for every example the attack that found a misclassified point, or None.
        points: [B, *shape]: those points; elsewhere those with the smallest margin seen.
        margins: [B]: smallest margins there; negative where misclassified.
        predictions: int64 [B]: classes at the points; -1 for NaN.
    """

    found_by: list[str | None]
    points: Tensor
    margins: Tensor
    predictions: Tensor

    @property
    def found(self) -> Tensor:
        """Bool [B], on the CPU."""
        return torch.tensor([name is not None for name in self.found_by], dtype=torch.bool, device="cpu")


def falsify(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    *,
    clip: tuple[float, float] | None = None,
    settings: AttackSettings | None = None,
    indices: Sequence[int] | None = None,
    confirm: Confirm | None = None,
) -> Falsification:
    """Looks for misclassified points in the l_inf balls around inputs by one attack after the other.

    An attack sees the examples that the ones before it left. A point counts when it lies in the exact region, which
    bounds are computed over, and the network itself, evaluated there once more in the full precision of its dtype,
    prefers another class. The attacks' own steps run as the process-wide switches say, on a GPU by default in TF32. An
    attack that stopped at a point which does not count runs once more without stopping early, for deeper points.

    Args:
        model: network to logits, in evaluation mode.
        x: inputs [B, *shape].
        labels: int64 [B], on the device of x.
        eps: radius.
        clip: valid range of the data.
        settings: of the attacks.
        indices: of the examples in their data set. The seed of an example is `settings.seed + 1000003 * index`, so that
            it meets the same attack in every batch, and what was found for it can be found again; by default 0, 1, ...
        confirm: what must hold of misclassified points [n, *shape] with labels [n] beside that, as bool [n], such as
            `lbp.verification.real_margins.RealMargins.certainly_misclassified`; None: nothing.

    Raises:
        InvalidInputError: images or labels that do not fit the network or each other, or no region.
    """
    check_labels(x, labels)
    settings = settings or AttackSettings()
    seeds = [settings.seed + _SEED_STRIDE * index for index in (range(len(x)) if indices is None else indices)]
    PerturbationLpNorm(eps=eps, clip=clip).region(x)  # refuses what is no region
    checked = _CheckedPoints(model, x, labels, Box.around(x, eps, clip), confirm)
    for name, attack in _attacks(settings).items():
        left = checked.left()
        for early_stop in (True, False):
            if len(left) == 0:
                break
            seed = [seeds[place] for place in left.tolist()]
            tried = attack(model, x[left], labels[left], eps, clip=clip, early_stop=early_stop, seed=seed)
            found = checked.offer(name, left, tried)
            # Where the attack stopped at a point that does not count, it goes on in the second round.
            left = left[~found & _misclassified_as_attacked(model, tried, labels[left])]
    return checked.falsification


class _CheckedPoints:
    """What attacks have found so far, every point evaluated once more on the network.

    Args:
        model: network to logits, in evaluation mode.
        x: inputs [B, *shape], the points that are known at first.
        labels: int64 [B].
        box: where points count.
        confirm: what must hold of misclassified points beside that; None: nothing.
    """

    def __init__(self, model: nn.Module, x: Tensor, labels: Tensor, box: Box, confirm: Confirm | None) -> None:
        self._model = model
        self._labels = labels
        self._box = box
        self._confirm = confirm
        points = x.clone()
        self.falsification = Falsification([None] * len(x), points, *_evaluate(model, points, labels))

    def left(self) -> Tensor:
        """Return the places, int64 [n], of the examples that no attack has found a point of."""
        places = [place for place, by in enumerate(self.falsification.found_by) if by is None]
        return torch.tensor(places, device=self.falsification.points.device, dtype=torch.int64)

    def offer(self, name: str, places: Tensor, tried: Tensor) -> Tensor:
        """Keep what is misclassified or has a smaller margin than before.

        Args:
            name: of the attack.
            places: int64 [n], the examples that the points belong to.
            tried: points [n, *shape].

        Returns:
            bool [n]: which points are misclassified and count.
        """
        kept, labels = self.falsification, self._labels[places]
        margins, predictions = _evaluate(self._model, tried, labels)
        inside = self._box[places].contains(tried)
        found = inside & (predictions != labels)
        if self._confirm is not None and bool(found.any()):
            found[found.clone()] = self._confirm(tried[found], labels[found])
        keep = found | (inside & (margins < kept.margins[places]))
        better = places[keep]
        kept.points[better], kept.margins[better] = tried[keep], margins[keep]
        kept.predictions[better] = predictions[keep]
        for place in places[found].tolist():
            kept.found_by[place] = name
        return found


def _misclassified_as_attacked(model: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    """Whether margins are negative in the precision in which attacks evaluate the network, bool [B]."""
    with torch.no_grad():
        return smallest_margin(model(points), labels) < 0


def _attacks(settings: AttackSettings) -> dict[str, Callable[..., Tensor]]:
    """Return the attacks to run, by name and in order."""
    attacks: dict[str, Callable[..., Tensor]] = {}
    if settings.restarts:
        descent = partial(pgd, steps=settings.steps, restarts=settings.restarts)
        attacks["PGD cross-entropy"] = partial(descent, loss="cross-entropy")
        attacks["PGD margin"] = partial(descent, loss="margin")
    if settings.queries:
        attacks["Square"] = partial(square_attack, queries=settings.queries)
    return attacks


def predicted_classes(logits: Tensor) -> Tensor:
    """The class of the largest logit, int64 [B]; -1 where a logit is NaN, so that no label is met."""
    return logits.argmax(1).masked_fill(logits.isnan().any(1), -1)


def check_consistent(indices: list[int], verified_by: list[tuple[str, float] | None], attacked: Falsification) -> None:
    """Holds certificates against attacks.

    Args:
        indices: of the examples in the data set, for the error.
        verified_by: for every example None, or who verified it with which smallest margin bound.
        attacked: what the attacks found for the same examples.

    Raises:
        ContradictionError: an example is both verified and misclassified at a point of its region.
    """
    for place, (index, certificate, attack) in enumerate(zip(indices, verified_by, attacked.found_by, strict=True)):
        if certificate is None or attack is None:
            continue
        method, bound = certificate
        raise ContradictionError(
            f"image {index} is verified by {method} (every margin is at least {bound:g}), but {attack} found a point "
            f"of its region with class {int(attacked.predictions[place])} (margin {float(attacked.margins[place]):g}): "
            "the bound or the attack is wrong. Bounds rounded to nearest may be, where numbers far larger than the "
            "margin cancel: repeat it with rounding='outward'; if that is what found this, please report it with this "
            "network and image"
        )


def _evaluate(model: nn.Module, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = answers(model, points)
    checked_classes(logits, labels)
    return smallest_margin(logits, labels), predicted_classes(logits)
