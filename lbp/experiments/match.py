"""The paper's rows for a network, by what its checkpoint says of its training."""

import math
from collections.abc import Mapping
from typing import Any

from lbp.data import plain_name
from lbp.experiments.paper import PaperRow, paper_rows
from lbp.models import ModelSettings


def matching_rows(
    data: str, model: ModelSettings, training: Mapping[str, Any], eps: float, clip: bool = True
) -> list[PaperRow]:
    """Finds the rows of the same data, architecture, activation, training loss and radii.

    Args:
        data: name of the data set that the network is evaluated on.
        model: its settings.
        training: settings of its training, as a checkpoint holds them; may lack anything.
        eps: radius of the evaluation.
        clip: whether the balls are intersected with the range of the data, as the paper's are.

    The schedule is not compared: `lbp.evaluation.departures` says where it differs.

    Returns:
        the rows of all tables that have one; of tables that repeat a row, the last.
    """
    how, trained_on = training.get("training"), training.get("data")
    if not clip or not isinstance(how, Mapping) or not isinstance(trained_on, Mapping):
        return []
    if plain_name(str(trained_on.get("name"))) != plain_name(data) or trained_on.get("limit") is not None:
        return []
    if not all(isinstance(how.get(name), float | int | None) for name in ("eta_start", "eta_end")):
        return []
    start, end = _slopes(model, how)
    rows = [
        row
        for row in paper_rows()
        if (row.data, row.architecture, row.loss) == (data, model.architecture, how.get("loss"))
        and row.activation == ("ramp" if model.activation.name == "ramp" else "relu")
        and (row.eta_start, row.eta_end) == (start, end)
        and _same(row.train_radius, how.get("eps"))
        and _same(row.test_radius, eps)
    ]
    return list({tuple(row.errors.items()): row for row in rows}.values())


def _slopes(model: ModelSettings, how: Mapping[str, Any]) -> tuple[float, float]:
    """The outer slope at the start and at the end of the training."""
    if model.activation.name == "relu":
        return 0.0, 0.0
    start, end = (how.get(name) for name in ("eta_start", "eta_end"))
    first = model.activation.eta if start is None else float(start)
    return first, first if end is None else float(end)


def _same(radius: float, other: object) -> bool:
    return isinstance(other, float | int) and math.isclose(radius, other, rel_tol=1e-6)
