"""The errors of a network, and the table that sets them beside the paper's."""

from collections.abc import Mapping, Sequence
from typing import Any

from lbp.evaluation.evaluate import EvaluatedImage, verified_figure
from lbp.experiments import PaperRow
from lbp.verification import AttackSettings

Errors = dict[str, float | None]
"""Shares by figure; None for that of attacks that did not run."""


def errors_of(images: Sequence[EvaluatedImage], attack: AttackSettings) -> Errors:
    """Shares of images in error, by figure.

    Args:
        images: at least one.
        attack: what they were attacked by.

    Returns:
        "clean"; "METHOD STRATEGY" for every method and kind of lines: share not verified; "verified": share that none
        of them verifies; "PGD": share misclassified without perturbation or at a point found by gradient descent;
        "attacked": the same with all attacks, the one without gradients included; None where nothing of that ran.
    """
    total = len(images)
    clean = sum(image.prediction != image.label for image in images)
    by_pgd = sum(image.attacked_by is not None and image.attacked_by.startswith("PGD") for image in images)
    attacked = sum(image.attacked_by is not None for image in images)
    names = list(images[0].verified)
    return {
        "clean": clean / total,
        **{name: sum(not image.verified[name] for image in images) / total for name in names},
        "verified": sum(not any(image.verified.values()) for image in images) / total,
        "PGD": (clean + by_pgd) / total if attack.restarts > 0 else None,
        "attacked": (clean + attacked) / total if attack.any else None,
    }


def summary_of(images: Sequence[EvaluatedImage], attack: AttackSettings) -> dict[str, Any]:
    """Figures of all images as JSON values; what does not exist is None.

    Args:
        images: at least one.
        attack: what they were attacked by.
    """
    margins = {}
    for name in images[0].margins:
        bounds = [bound for image in images if (bound := image.margins[name]) is not None]
        margins[name] = sum(bounds) / len(bounds) if len(bounds) == len(images) else None
    attacks: dict[str, int] = {}
    for image in images:
        if image.attacked_by is not None:
            attacks[image.attacked_by] = attacks.get(image.attacked_by, 0) + 1
    return {
        "examples": len(images),
        "errors": errors_of(images, attack),
        "mean_margin": margins,
        "falsified_by": attacks,
        "verified_but_misclassified_by_rounding": sum(image.attacked_by_rounding is not None for image in images),
        "seconds_per_image": sum(image.seconds for image in images) / len(images),
    }


def markdown_table(
    errors: Mapping[str, float | None],
    methods: Sequence[str],
    strategies: Sequence[str],
    rows: Sequence[PaperRow] = (),
) -> str:
    """The errors in percent as a Markdown table, the paper's beside them where it states them.

    Args:
        errors: as `errors_of` returns them.
        methods: rows of verified errors, in this order.
        strategies: columns.
        rows: of the paper, for the same network.
    """
    papers = [(f"paper, table {row.table}", row.errors) for row in rows]
    head = ["error (%)", *strategies, *(f"{title}, {kind}" for title, errors in papers for kind in _kinds(errors))]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name in ("clean", *methods, "verified", "PGD", "attacked"):
        per_strategy = name in methods
        figures = [verified_figure(name, strategy) if per_strategy else name for strategy in strategies]
        cells = [_percent(errors.get(figure)) for figure in figures[: None if per_strategy else 1]]
        cells += [""] * (len(strategies) - len(cells))
        for _, stated in papers:
            for kind in _kinds(stated):
                figure = verified_figure(name, kind) if per_strategy else name if kind == "tight" else ""
                cells.append(_percent(stated.get(figure)))
        lines.append([_TITLES.get(name, name), *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


_TITLES = {
    "verified": "not verified by any of them",
    "PGD": "PGD attack",
    "attacked": "all attacks",
}


def _kinds(errors: Mapping[str, float]) -> list[str]:
    """The kinds of lines that figures of the paper are of."""
    return [kind for kind in ("tight", "adaptive") if any(name.endswith(f" {kind}") for name in errors)]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"
