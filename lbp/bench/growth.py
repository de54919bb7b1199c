"""Exponents of time and memory against the sizes of a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lbp.bench.record import Row

EXPECTED = {
    ("LBP", "native", "width"): "2",
    ("LBP", "native", "depth"): "3 while windows grow, then 1",
    ("LBP", "native", "image"): "2 once the image is larger than the windows",
    ("LBP", "native, dense", "width"): "2",
    ("LBP", "native, dense", "depth"): "1",
    ("LBP", "native, dense", "image"): "4",
    ("CROWN", "native, every row", "width"): "3",
    ("CROWN", "native, every row", "depth"): "4 while windows grow, then 2",
    ("CROWN", "native, every row", "image"): "2 once the image is larger than the windows",
    ("CROWN", "native, dense", "width"): "3",
    ("CROWN", "native, dense", "depth"): "2",
    ("CROWN", "native, dense", "image"): "4",
}
"""Exponents of the number of operations in chains of equal convolutions, for large sizes; of batch always 1."""


@dataclass(frozen=True)
class Growth:
    """Fitted exponents of one contender in one quantity; the largest half of the sizes is fitted.

    Attributes:
        method, contender, quantity: what grew.
        time: exponent of the median time.
        memory: exponent of the peak memory, None where it was not measured or too small to tell.
        expected: exponent of the number of operations.
    """

    method: str
    contender: str
    quantity: str
    time: float
    memory: float | None
    expected: str


def fitted_growth(rows: Iterable[Row]) -> list[Growth]:
    """Returns the exponents that the rows of level "growth" show; at least two sizes must have been timed."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.level == "growth" and row.timing is not None:
            method = row.case.partition(" ")[0]
            groups.setdefault((method, row.contender, row.parameters["quantity"]), []).append(row)
    return [_fit(*key, group) for key, group in groups.items() if len(group) >= 2]


def _fit(method: str, contender: str, quantity: str, group: Sequence[Row]) -> Growth:
    largest = sorted(group, key=lambda row: row.parameters["value"])[-max(2, (len(group) + 1) // 2) :]
    sizes = [float(row.parameters["value"]) for row in largest]
    times = [row.timing.median for row in largest if row.timing is not None]
    peaks = [row.peak_bytes for row in largest if row.peak_bytes is not None and row.peak_bytes >= 2**20]
    memory = exponent(sizes, peaks) if len(peaks) == len(sizes) else None
    expected = "1" if quantity == "batch" else EXPECTED.get((method, contender, quantity), "")
    return Growth(method, contender, quantity, exponent(sizes, times), memory, expected)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Returns the slope of the line that fits log(cost) against log(size) best."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
