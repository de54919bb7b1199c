"""Exponents of time and memory against the sizes of a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lbp.bench.record import Row

FITTED = 3
"""Sizes that a fit takes, the largest ones: of two nothing would say how well they lie on a power."""


class Expected(NamedTuple):
    """Exponents of large chains of equal convolutions in words: of the number of operations, and of peak memory."""

    operations: str
    memory: str


_OF_FULL_CHUNKS = "of full chunks 0"

EXPECTED = {
    ("LBP", "native", "width"): Expected("2", "1"),
    ("LBP", "native", "depth"): Expected("3 while windows grow, then 1", "2 while windows grow, then 0"),
    ("LBP", "native", "image"): Expected(
        "2 once the image is larger than the windows", "2 once the image is larger than the windows"
    ),
    ("LBP", "native, dense", "width"): Expected("2", "1"),
    ("LBP", "native, dense", "depth"): Expected("1", "0"),
    ("LBP", "native, dense", "image"): Expected("4", "4"),
    ("CROWN", "native, every row", "width"): Expected("3", f"2, {_OF_FULL_CHUNKS}"),
    ("CROWN", "native, every row", "depth"): Expected(
        "4 while windows grow, then 2", f"2 while windows grow, then and {_OF_FULL_CHUNKS}"
    ),
    ("CROWN", "native, every row", "image"): Expected(
        "2 once the image is larger than the windows", f"2 once the image is larger than the windows, {_OF_FULL_CHUNKS}"
    ),
    ("CROWN", "native, dense", "width"): Expected("3", f"2, {_OF_FULL_CHUNKS}"),
    ("CROWN", "native, dense", "depth"): Expected("2", "0"),
    ("CROWN", "native, dense", "image"): Expected("4", f"4, {_OF_FULL_CHUNKS}"),
}
"""Memory is that of what grows fastest; beside it bounds and lines grow with the number of neurons.

The matrices of LBP are as large as the windows of all neurons of a layer, or as the input times these, and one step's
are held at a time. CROWN has a row, a window or a whole layer, for every neuron of a layer, in chunks of no more than
`lbp.methods.memory.CHUNK_BYTES`, which do not grow once they are full.
"""

_OF_BATCH = {"LBP": Expected("1", "1"), "CROWN": Expected("1", f"1, {_OF_FULL_CHUNKS}")}


@dataclass(frozen=True)
class Growth:
    """Fitted exponents of one contender in one quantity; the three largest sizes are fitted.

    Attributes:
        method, contender, quantity: what grew.
        sizes: how many are fitted, less than three where no others were timed.
        time: exponent of the median time.
        time_residual: the largest factor between a time and the fit; None where any two times fit.
        memory: exponent of the peak memory, None where it was not measured or too small to tell.
        memory_residual: the same factor of memory.
        expected: exponent of the number of operations.
        expected_memory: exponent of the memory that rows and matrices take.
    """

    method: str
    contender: str
    quantity: str
    sizes: int
    time: float
    time_residual: float | None
    memory: float | None
    memory_residual: float | None
    expected: str
    expected_memory: str


def fitted_growth(rows: Iterable[Row]) -> list[Growth]:
    """Returns the exponents that the rows of level "growth" show; at least two sizes must have been timed."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.level == "growth" and row.timing is not None:
            method = row.case.partition(" ")[0]
            groups.setdefault((method, row.contender, row.parameters["quantity"]), []).append(row)
    return [_fit(*key, group) for key, group in groups.items() if len(group) >= 2]


def _fit(method: str, contender: str, quantity: str, group: Sequence[Row]) -> Growth:
    largest = sorted(group, key=lambda row: row.parameters["value"])[-FITTED:]
    sizes = [float(row.parameters["value"]) for row in largest]
    times = [row.timing.median for row in largest if row.timing is not None]
    peaks = [row.peak_bytes for row in largest if row.peak_bytes is not None and row.peak_bytes >= 2**20]
    memory, memory_residual = fitted_power(sizes, peaks) if len(peaks) == len(sizes) else (None, None)
    by_batch = _OF_BATCH.get(method) if quantity == "batch" else None
    expected = by_batch or EXPECTED.get((method, contender, quantity), Expected("", ""))
    time, time_residual = fitted_power(sizes, times)
    return Growth(
        method,
        contender,
        quantity,
        len(sizes),
        time,
        time_residual,
        memory,
        memory_residual,
        expected.operations,
        expected.memory,
    )


def fitted_power(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float | None]:
    """Returns the exponent of the power of the size that fits costs best, by least squares of logarithms.

    Returns:
        the exponent, and the largest factor between a cost and the fit; None of two costs, which any power fits.
    """
    logs = np.log(costs)
    line = np.polyfit(np.log(sizes), logs, 1)
    factor = float(np.exp(np.abs(logs - np.polyval(line, np.log(sizes))).max()))
    return float(line[0]), factor if len(sizes) > 2 else None
