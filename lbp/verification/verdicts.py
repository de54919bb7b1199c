"""What a cascade found, image by image, and the figures that follow from it."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from lbp.results import read_records
from lbp.settings import Settings

Verdict = Literal["verified", "open", "falsified", "misclassified"]
VERDICTS: tuple[Verdict, ...] = ("verified", "open", "falsified", "misclassified")


class ImageVerdict(Settings):
    """What was found for one image.

    Attributes:
        index: of the image in its data set.
        label: true class.
        prediction: class without perturbation; -1 if a logit is NaN.
        verdict: "verified": classified correctly at every point of the region; "falsified": a point with another class
            is known, with `rounding="outward"` in real arithmetic; "misclassified": without perturbation, by this run
            of the network; "open": none of these.
        by: method or attack that decided.
        margins: smallest margin bound by method, as far as they ran; None where it is NaN or infinite.
        attack_margin: smallest margin that the attacks saw, that of the counterexample of a falsified image; None where
            nothing was attacked, or for NaN. Negative without being falsified where this run of the network
            misclassifies the point and real arithmetic has not been shown to. The point itself is not kept: `falsify`
            finds it again from the settings of the run and `indices=[index]`, whatever the batch was; with
            `rounding="outward"` it takes `RealMargins.certainly_misclassified` of the network as `confirm`.
        attack_class: class at that point; -1 if a logit is NaN.
        seconds: time spent on the image, its share of every batch.
    """

    index: int
    label: int
    prediction: int
    verdict: Verdict = "open"
    by: str | None = None
    margins: dict[str, float | None] = Field(default_factory=dict)
    attack_margin: float | None = None
    attack_class: int | None = None
    seconds: float = 0.0

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuse a verdict that its own line contradicts."""
        if (self.verdict == "misclassified") != (self.label != self.prediction):
            raise ValueError(f"the verdict {self.verdict!r} contradicts label {self.label} and class {self.prediction}")
        bound = self.margins.get(self.by or "")
        if self.verdict == "verified" and not (bound is not None and bound > 0):
            raise ValueError(f"verified by {self.by} with the margin bound {bound}")
        return self


def count_verdicts(verdicts: Iterable[ImageVerdict]) -> dict[str, int]:
    """How many images have each verdict, all of `VERDICTS` in their order."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    return {name: counts[name] for name in VERDICTS}


def summarize(verdicts: Sequence[ImageVerdict], *, attacked: bool = True) -> dict[str, Any]:
    """Figures of all images as JSON values; a figure that does not exist is None.

    Args:
        verdicts: of at least one image.
        attacked: whether attacks were run; otherwise there is no attacked error.

    Returns:
        numbers of images by verdict; clean error, verified error (share not verified) and attacked error (share
        misclassified or falsified), between which the true error lies; per method how many images it computed and
        verified, the verified error up to it, and the mean of the smallest margin bounds.
    """
    total = len(verdicts)
    counts = count_verdicts(verdicts)
    methods: dict[str, dict[str, Any]] = {}
    verified = 0
    # Every image meets the methods in the same order; the one that met most tells it.
    for name in max((verdict.margins for verdict in verdicts), key=len):
        bounds = [verdict.margins[name] for verdict in verdicts if name in verdict.margins]
        decided = sum(verdict.by == name for verdict in verdicts)
        verified += decided
        finite = [bound for bound in bounds if bound is not None]
        methods[name] = {
            "computed": len(bounds),
            "verified": decided,
            "verified_error": 1 - verified / total,
            "mean_margin": math.fsum(finite) / len(finite) if len(finite) == len(bounds) else None,
        }
    return {
        "examples": total,
        "verdicts": counts,
        "clean_error": counts["misclassified"] / total,
        "attacked_error": (counts["misclassified"] + counts["falsified"]) / total if attacked else None,
        "verified_error": 1 - counts["verified"] / total,
        "seconds_per_image": math.fsum(verdict.seconds for verdict in verdicts) / total,
        "methods": methods,
    }


def read_verdicts(path: Path | str) -> tuple[dict[str, Any], list[ImageVerdict]]:
    """Reads a results file of `lbp verify`, complete or not.

    Returns:
        the settings it was made with, and the verdicts in the order in which they became known.

    Raises:
        ResultsError: as `lbp.results.read_records`.
    """
    settings, records = read_records(path, ImageVerdict)
    return settings, [ImageVerdict.model_validate(record) for record in records]
