"""Records as tables: one line per case, one column per contender."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lbp.bench.comparison import LEAST_REPEATS
from lbp.bench.growth import fitted_growth
from lbp.bench.rates import Rates
from lbp.bench.record import Record, Row
from lbp.bench.timing import Timing

LEVELS = {
    "ops": "Ops",
    "methods": "Methods: lower bounds of all margins",
    "training": "Training steps: bounds, loss, gradients",
    "growth": "Growth: chains of convolutions",
}


@dataclass(frozen=True)
class Case:
    """The rows of one case, by contender."""

    name: str
    activation: str
    rows: dict[str, Row]

    def ratio(self, slower: str, faster: str) -> float | None:
        """Returns how many times the median of one contender is that of another."""
        times = [row.timing for name in (slower, faster) if (row := self.rows.get(name)) is not None]
        if len(times) < 2 or times[0] is None or times[1] is None:
            return None
        return times[0].median / times[1].median


def cases(rows: Iterable[Row], level: str) -> list[Case]:
    """Returns the cases of a level in order."""
    found: dict[tuple[str, str], Case] = {}
    for row in rows:
        if row.level == level:
            case = found.setdefault((row.case, row.activation), Case(row.case, row.activation, {}))
            case.rows[row.contender] = row
    return list(found.values())


def floor_seconds(row: Row, rates: Rates) -> float | None:
    """Returns the least time that the row's bytes and operations take on this machine, None where neither is known."""
    if row.moved_bytes is None and row.operations is None:
        return None
    return max((row.moved_bytes or 0) / rates.copy, (row.operations or 0) / rates.products)


def result_tables(record: Record) -> list[Table]:
    """Returns a table of times per level in the record, with memory where contenders ran in their own processes."""
    tables = []
    for level, title in LEVELS.items():
        found = cases(record.rows, level)
        if found:
            tables.append(_level_table(title, level, found, record))
    growth = fitted_growth(record.rows)
    if growth:
        table = Table(title="Growth: fitted exponents, and how far off the fit is at most", box=SIMPLE_HEAD)
        of_time, of_memory = ("time", "expected of operations"), ("memory", "expected of memory")
        for heading in ("method", "contender", "quantity", "sizes", *of_time, *of_memory):
            table.add_column(heading)
        for fit in growth:
            table.add_row(
                fit.method,
                fit.contender,
                fit.quantity,
                str(fit.sizes),
                _exponent(fit.time, fit.time_residual),
                fit.expected,
                "" if fit.memory is None else _exponent(fit.memory, fit.memory_residual),
                fit.expected_memory,
            )
        tables.append(table)
    return tables


def _exponent(fitted: float, residual: float | None) -> str:
    return f"{fitted:.2f}" if residual is None else f"{fitted:.2f}, {residual:.2f}x off"


def _level_table(title: str, level: str, found: Sequence[Case], record: Record) -> Table:
    names = list(dict.fromkeys(name for case in found for name in case.rows))
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("case")
    table.add_column("activation")
    for name in names:
        table.add_column(f"{name}\nms" if level == "ops" else f"{name}\nms | MiB", justify="right")
    table.add_column("floor\nms", justify="right")
    table.add_column("reference\n/ native", justify="right")
    with_products = level in ("methods", "training")
    if with_products:
        table.add_column("products\nalone, ms", justify="right")
        table.add_column("native /\nproducts", justify="right")
    for case in found:
        ratio = case.ratio("reference", "native")
        native = case.rows.get("native")
        floor = None if native is None else floor_seconds(native, record.rates_of(native))
        cells = [_cell(case.rows.get(name), with_memory=level != "ops") for name in names]
        table.add_row(
            case.name,
            case.activation,
            *cells,
            "" if floor is None else f"{1e3 * floor:.3g}",
            "" if ratio is None else f"{ratio:.2f}",
            *(_products(native) if with_products else ()),
        )
    return table


def _products(native: Row | None) -> tuple[str, str]:
    if native is None or native.timing is None or not native.product_seconds:
        return "", ""
    return f"{1e3 * native.product_seconds:.3g}", f"{native.timing.median / native.product_seconds:.2f}"


def _cell(row: Row | None, *, with_memory: bool) -> str:
    if row is None:
        return ""
    if row.timing is None:
        return row.note.split(":")[0]
    time = _time(row.timing)
    return f"{time} | {row.peak_bytes / 2**20:.0f}" if with_memory and row.peak_bytes is not None else time


def _time(timing: Timing) -> str:
    """Returns the median, and half of what lies between the quartiles as a share of it; of few repeats their number."""
    median = f"{1e3 * timing.median:.3g}"
    if timing.repeats < LEAST_REPEATS:
        return f"{median} ({timing.repeats}x)"
    return f"{median} ±{50 * (timing.high - timing.low) / timing.median:.0f}%"
