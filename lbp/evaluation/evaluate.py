"""Every method and every attack on every image."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lbp.bounded import BoundedModule
from lbp.nn import evaluation_mode
from lbp.settings import Settings
from lbp.verification import AttackSettings, Falsification, VerificationResult, check_consistent, falsify, verify
from lbp.verification.batches import images_at_once
from lbp.verification.checks import check_images
from lbp.verification.real_margins import RealMargins
from lbp.verification.verify import Rounding, Strategy, bound_options

METHODS = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP")
STRATEGIES = ("tight", "adaptive")

_LARGEST_BATCH = 256
"""Images between two times that results are handed over."""


class EvaluationSettings(Settings):
    """What is computed for every image.

    Attributes:
        eps: l_inf radius, in units of the data.
        clip: valid range of the data, with which every ball is intersected.
        methods: names as `verify` takes them.
        strategies: bounding lines; every method runs with each.
        rounding: what the bounds account for, as `verify` takes it.
        attack: the attacks on the images that are classified correctly.
    """

    eps: float = Field(ge=0.0)
    clip: tuple[float, float] | None = (0.0, 1.0)
    methods: tuple[str, ...] = Field(default=METHODS, min_length=1)
    strategies: tuple[Strategy, ...] = Field(default=STRATEGIES, min_length=1)
    rounding: Rounding = "outward"
    attack: AttackSettings = AttackSettings()


class EvaluatedImage(Settings):
    """What was found for one image.

    Attributes:
        index: of the image in its data set.
        label: true class.
        prediction: class without perturbation; -1 if a logit is NaN.
        verified: by "METHOD STRATEGY", whether it is verified.
        margins: by the same names, the smallest margin bound; None where it is NaN or infinite.
        attacked_by: attack that found a misclassified point of the region; None: none, or misclassified anyway.
        attack_margin: smallest margin that the attacks saw; None for an image that was not attacked.
        attacked_by_rounding: attack that found a point of the region of a verified image which this run of the network
            misclassifies, while the network in real arithmetic, of which the certificate speaks, has not been shown to.
        seconds: time spent on the image, its share of its batch.
    """

    index: int
    label: int
    prediction: int
    verified: dict[str, bool]
    margins: dict[str, float | None]
    attacked_by: str | None = None
    attack_margin: float | None = None
    attacked_by_rounding: str | None = None
    seconds: float = 0.0

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuse certificates that the line itself contradicts."""
        for name in (name for name, holds in self.verified.items() if holds):
            bound = self.margins.get(name)
            if self.label != self.prediction or self.attacked_by is not None or not (bound is not None and bound > 0):
                raise ValueError(
                    f"verified by {name} with the margin bound {bound}, label {self.label}, class {self.prediction}, "
                    f"attacked by {self.attacked_by}"
                )
        return self


def evaluate(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    settings: EvaluationSettings,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int | None = None,
    memory_budget: int | str | None = None,
    on_images: Callable[[list[EvaluatedImage]], None] | None = None,
) -> list[EvaluatedImage]:
    """Verifies images by all methods, attacks them, and holds the certificates against the attacks.

    Args:
        model: network to logits; run in evaluation mode and put back as it was.
        x: all images [N, *shape], of the type of the model's weights.
        labels: int64 [N].
        settings: methods, region and attacks.
        indices: of the images to evaluate; by default all.
        batch_size: images at a time; by default as many as each method can take within the memory budget.
        memory_budget: bytes, or text like "4GiB", that bounds may take; None: half of the memory that is free. Does not
            change verdicts beyond rounding.
        on_images: called with what was found, after every batch.

    Raises:
        ContradictionError: an image is both verified and misclassified at a point of its region; the error names it,
            and images of the batches before have been handed over. Outward certificates are held against the network in
            real arithmetic: what is misclassified by rounding alone is recorded.
        InvalidInputError, UnsupportedArgumentError, UnsupportedLayerError, UnanalysedRoundingError: as `verify`.
    """
    check_images(model, x, labels, batch_size, indices)
    todo = list(range(len(x))) if indices is None else list(indices)
    if not todo:
        return []
    weights = next(model.parameters(), None)
    device = x.device if weights is None else weights.device
    images: list[EvaluatedImage] = []
    with evaluation_mode(model):
        options = bound_options(settings.strategies[0], memory_budget, rounding=settings.rounding)
        net = BoundedModule(model, x[todo[:1]].to(device), bound_opts=options)
        size = batch_size or min(_LARGEST_BATCH, images_at_once(net, "IBP"))
        for start in range(0, len(todo), size):
            part = todo[start : start + size]
            index = torch.tensor(part, device="cpu")
            inputs, targets = x[index.to(x.device)].to(device), labels[index.to(labels.device)].to(device)
            found = _evaluate_batch(model, inputs, targets, settings, part, batch_size, memory_budget)
            images += found
            if on_images is not None:
                on_images(found)
    return images


def verified_figure(method: str, strategy: str) -> str:
    """The name of a verified error: "METHOD STRATEGY"."""
    return f"{method} {strategy}"


@dataclass(frozen=True)
class _BoundedBatch:
    """What all methods say of a batch.

    Attributes:
        result: of the last bounding lines; labels and predictions are those of all.
        verified: by "METHOD STRATEGY", image by image.
        margins: by the same names, smallest margin bounds.
    """

    result: VerificationResult
    verified: dict[str, list[bool]]
    margins: dict[str, list[float]]

    @property
    def classes(self) -> int:
        """Number of logits."""
        return next(iter(self.result.methods.values())).margins.shape[1] + 1

    def certificate(self, place: int) -> tuple[str, float] | None:
        """Return who verifies an image, and its smallest margin bound; None if nobody does."""
        for name, values in self.verified.items():
            if values[place]:
                return f"{name} lines", self.margins[name][place]
        return None


def _verify_by_all(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    settings: EvaluationSettings,
    batch_size: int | None,
    memory_budget: int | str | None,
) -> _BoundedBatch:
    """Bound a batch by every method with all bounding lines."""
    verified: dict[str, list[bool]] = {}
    margins: dict[str, list[float]] = {}
    result = None
    for strategy in settings.strategies:
        result = verify(
            model, x, labels, settings.eps, clip=settings.clip, methods=settings.methods, strategy=strategy,
            rounding=settings.rounding, batch_size=batch_size, memory_budget=memory_budget,
        )  # fmt: skip
        for method, found in result.methods.items():
            verified[verified_figure(method, strategy)] = found.verified.tolist()
            margins[verified_figure(method, strategy)] = found.margins.amin(dim=1).tolist()
    assert result is not None
    return _BoundedBatch(result, verified, margins)


def _evaluate_batch(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    settings: EvaluationSettings,
    indices: list[int],
    batch_size: int | None,
    memory_budget: int | str | None,
) -> list[EvaluatedImage]:
    started = time.perf_counter()
    bounded = _verify_by_all(model, x, labels, settings, batch_size, memory_budget)
    correct = bounded.result.correct.nonzero().squeeze(1)
    attacked = falsify(
        model, x[correct.to(x.device)], labels[correct.to(x.device)], settings.eps,
        clip=settings.clip, settings=settings.attack, indices=[indices[place] for place in correct.tolist()],
    )  # fmt: skip
    certificates = [bounded.certificate(place) for place in correct.tolist()]
    by_rounding: dict[int, str] = {}
    if settings.rounding == "outward":
        seen = labels[correct.to(x.device)]
        attacked, names = _without_rounding(model, seen, bounded.classes, certificates, attacked, memory_budget)
        by_rounding = {int(correct[place]): name for place, name in names.items()}
    check_consistent([indices[place] for place in correct.tolist()], certificates, attacked)
    attacks = dict(zip(correct.tolist(), zip(attacked.found_by, attacked.margins.tolist(), strict=True), strict=True))
    seconds = (time.perf_counter() - started) / len(indices)
    return [
        EvaluatedImage(
            index=index,
            label=int(bounded.result.labels[place]),
            prediction=int(bounded.result.predictions[place]),
            verified={name: values[place] for name, values in bounded.verified.items()},
            margins={name: _finite(values[place]) for name, values in bounded.margins.items()},
            attacked_by=attacks[place][0] if place in attacks else None,
            attack_margin=_finite(attacks[place][1]) if place in attacks else None,
            attacked_by_rounding=by_rounding.get(place),
            seconds=seconds,
        )
        for place, index in enumerate(indices)
    ]


def _without_rounding(
    model: nn.Module,
    labels: Tensor,
    classes: int,
    certificates: list[tuple[str, float] | None],
    attacked: Falsification,
    memory_budget: int | str | None,
) -> tuple[Falsification, dict[int, str]]:
    """Take from what attacks found on verified images the points that rounding alone may misclassify.

    Returns:
        the rest, and by place in the batch the attacks that found the others.
    """
    found_by = list(attacked.found_by)
    places = [place for place, holds in enumerate(certificates) if holds is not None and found_by[place] is not None]
    if not places:
        return attacked, {}
    real = RealMargins(model, attacked.points[:1], classes, memory_budget)
    wrong = real.certainly_misclassified(attacked.points[places], labels[places]).tolist()
    names = {place: str(found_by[place]) for place, holds in zip(places, wrong, strict=True) if not holds}
    for place in names:
        found_by[place] = None
    return replace(attacked, found_by=found_by), names


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
