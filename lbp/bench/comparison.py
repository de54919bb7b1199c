"""What changed between two records beyond noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lbp.bench.record import PLAIN_FUNCTIONS, Key, Record, Row
from lbp.bench.timing import Timing

LEAST_CHANGE = 1.1
"""A smaller ratio of times or rates is never called a change: a second run of the same code differs by as much."""

LEAST_MEMORY_CHANGE = 1.35
"""The same of memory, whose peaks differ by up to a third in runs of the same code and are stored without a spread."""

LEAST_MEMORY_CHANGE_ON_GPU = 1.1
"""The same on a GPU, whose allocator counts: the same code has the same peak."""

YARDSTICKS = ("reference", "auto_LiRPA patches", "auto_LiRPA matrix")
"""Contenders without kernels of this package, which take turns with it; of those that both records have, the one whose
times lie closest together is taken. The first is this package's own code, and one only where that is the same."""

_NO_CONDITIONS = {"levels", "quick", "only", "batch", "contenders", "compiled", "lbp"}
"""Settings that choose what is measured, and the version of what is compared."""

LEAST_REPEATS = 3
"""Fewer repeats have no spread, or none that says anything about noise."""


@dataclass(frozen=True)
class Change:
    """A row whose time or memory differs.

    Attributes:
        row: of the new record.
        quantity: "time" or "memory".
        ratio: new to old; above 1 is slower or larger.
        relative: that of the times in units of a yardstick; None where there is nothing to compare it with.
        yardstick: the contender, or the rate of the machine.
    """

    row: Row
    quantity: str
    ratio: float
    relative: float | None = None
    yardstick: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two records side by side.

    Attributes:
        changes: beyond noise, the largest first.
        unclear: times that differ as much, but of too few repeats to tell a change from noise; the largest first.
        of_machine: times that differ as much, but not by a yardstick; the largest first.
        compared: rows that both records have.
        appeared: rows that only the new record has a time for.
        vanished: rows with a time that the new record does not have.
        failed: rows of the new record that have no time, where the old one has; their notes say why.
        differences: of machine, settings and versions, in words; with any, changes may not be the code's.
    """

    changes: tuple[Change, ...]
    unclear: tuple[Change, ...]
    of_machine: tuple[Change, ...]
    compared: int
    appeared: tuple[Row, ...]
    vanished: tuple[Row, ...]
    failed: tuple[Row, ...]
    differences: tuple[str, ...]


def compare(old: Record, new: Record) -> Comparison:
    """Compares the rows that two records share.

    A time differs where the middle halves of the repeats do not overlap and the medians are a tenth apart; with fewer
    than three repeats on one side nobody can tell. It changed where it differs likewise in units of a yardstick: the
    time of a contender without kernels of this package that took turns with it, in both records; that of such a
    contender in units of another or of `native`. "reference" is a yardstick of records that have it from the same
    sources. Where there is none, it must differ in units of either rate, of copies and of products, that the machine
    had in the run of the row. Otherwise it may be the machine's. Memory changed where it differs by 1.35, on a GPU by
    1.1, and a MiB.
    """
    before, after = _measured(old), _measured(new)
    present = {row.key for row in new.rows}
    shared = [(before[key], after[key]) for key in after if key in before]
    on_gpu = all(str(record.settings.get("device", "")).startswith("cuda") for record in (old, new))
    least = LEAST_MEMORY_CHANGE_ON_GPU if on_gpu else LEAST_MEMORY_CHANGE
    changes = [change for pair in shared if (change := _memory_change(*pair, least)) is not None]
    yardsticks = YARDSTICKS if _have_same_plain_functions(old, new) else YARDSTICKS[1:]
    unclear: list[Change] = []
    of_machine: list[Change] = []
    for pair in shared:
        ratio = _ratio_beyond_noise(*(measured.timing for measured in pair))
        if ratio is None:
            continue
        if not all(_can_tell(measured.timing) for measured in pair):
            unclear.append(Change(pair[1].row, "time", ratio))
        else:
            change, is_own = _beside_machine(*pair, ratio, yardsticks)
            (changes if is_own else of_machine).append(change)
    return Comparison(
        _largest_first(changes),
        _largest_first(unclear),
        _largest_first(of_machine),
        len(shared),
        tuple(measured.row for key, measured in after.items() if key not in before),
        tuple(measured.row for key, measured in before.items() if key not in present),
        tuple(row for row in new.rows if row.timing is None and row.key in before),
        tuple(_differences(old, new)),
    )


@dataclass(frozen=True)
class _Measured:
    """A row that has a time, and by name what else took how long in its run."""

    row: Row
    timing: Timing
    units: dict[str, Timing]


def _measured(record: Record) -> dict[Key, _Measured]:
    timed = {row.key: (row, row.timing) for row in record.rows if row.timing is not None}
    return {key: _Measured(row, timing, _units(row, timed, record)) for key, (row, timing) in timed.items()}


def _units(row: Row, timed: Mapping[Key, tuple[Row, Timing]], record: Record) -> dict[str, Timing]:
    rates = record.rates_of(row)
    found = {"copy": 1 / rates.copy, "products": 1 / rates.products}
    units = {name: Timing(seconds, seconds, seconds, 1) for name, seconds in found.items()}
    for name in (*YARDSTICKS, "native"):
        key = (row.level, row.case, row.activation, name)
        if key in timed and key != row.key:
            other, timing = timed[key]
            if other.run == row.run and _can_tell(timing):
                units[name] = timing
    return units


def _can_tell(timing: Timing) -> bool:
    return timing.repeats >= LEAST_REPEATS


def _have_same_plain_functions(old: Record, new: Record) -> bool:
    sources = old.versions.get(PLAIN_FUNCTIONS)
    return sources is not None and sources == new.versions.get(PLAIN_FUNCTIONS)


def _ratio_beyond_noise(old: Timing, new: Timing) -> float | None:
    apart = new.low > old.high or new.high < old.low
    ratio = new.median / old.median
    return ratio if apart and _is_large(ratio) else None


def _beside_machine(old: _Measured, new: _Measured, ratio: float, yardsticks: tuple[str, ...]) -> tuple[Change, bool]:
    """Returns a change of a time beside that of its yardstick, and whether the time changed in units of it as well."""
    able = (*yardsticks, "native") if new.row.contender in YARDSTICKS else yardsticks
    shared = [name for name in able if name in old.units and name in new.units]
    # A noisy yardstick would hide what another shows.
    shared.sort(key=lambda name: _spread(old.units[name]) * _spread(new.units[name]))
    names = shared[:1] or ("copy", "products")
    relative = {name: (_in_units(old, name), _in_units(new, name)) for name in names}
    direction = math.copysign(1, math.log(ratio))
    ratios = {name: after.median / before.median for name, (before, after) in relative.items()}
    # Of two rates the one that explains more.
    name = min(ratios, key=lambda name: direction * math.log(ratios[name]))
    found = _ratio_beyond_noise(*relative[name])
    is_own = found is not None and (found > 1) == (ratio > 1)
    return Change(new.row, "time", ratio, ratios[name], name), is_own


def _spread(timing: Timing) -> float:
    return timing.high / timing.low


def _in_units(measured: _Measured, name: str) -> Timing:
    """Returns a time as a multiple of another, as far apart as the quartiles of both allow."""
    timing, unit = measured.timing, measured.units[name]
    return Timing(timing.median / unit.median, timing.low / unit.high, timing.high / unit.low, timing.repeats)


def _memory_change(old: _Measured, new: _Measured, least: float) -> Change | None:
    before, after = old.row.peak_bytes, new.row.peak_bytes
    if before is None or after is None or abs(before - after) < 2**20:
        return None
    ratio = after / before if before else math.inf
    return Change(new.row, "memory", ratio) if _is_large(ratio, least) else None


def _is_large(ratio: float, least: float = LEAST_CHANGE) -> bool:
    return _size(ratio) >= least


def _size(ratio: float) -> float:
    """Returns how many times as large as the smaller the larger is, infinite where one is 0."""
    return max(ratio, 1 / ratio if ratio else math.inf)


def _largest_first(changes: Iterable[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda change: _size(change.ratio), reverse=True))


def _differences(old: Record, new: Record) -> list[str]:
    before, after = _conditions(old), _conditions(new)
    words = [
        f"{name}: {', '.join(before[name])} -> {', '.join(after[name])}"
        for name in before
        if name in after and set(before[name]) != set(after[name])
    ]
    for rate in ("copy", "new_copy", "products"):
        (low, high), (new_low, new_high) = old.range_of(rate), new.range_of(rate)
        if max(low / new_high, new_low / high) >= LEAST_CHANGE:
            name = rate.replace("_", " ")
            words.append(f"measured rate of {name}: {old.range_in_words(rate)} -> {new.range_in_words(rate)}")
    return words


def _conditions(record: Record) -> dict[str, list[str]]:
    """Returns by name what is known of the conditions of a record's runs, every value once."""
    facts = [("machine", record.device)]
    facts += [fact for run in record.runs for fact in sorted(run.settings.items())]
    facts += sorted(record.versions.items())
    found: dict[str, list[str]] = {}
    for name, value in facts:
        if name not in _NO_CONDITIONS and value is not None and str(value) not in found.setdefault(name, []):
            found[name].append(str(value))
    return found


def comparison_table(comparison: Comparison) -> Table:
    """Returns the changes as a table, what became slower or larger in red, and last what nobody can tell."""
    title = f"{len(comparison.changes)} changes in {comparison.compared} rows"
    if comparison.unclear:
        title += f"; {len(comparison.unclear)} differences with too few repeats to tell"
    if comparison.of_machine:
        title += f"; {len(comparison.of_machine)} that may be the machine's"
    table = Table(title=title, box=SIMPLE_HEAD)
    for heading in ("level", "case", "activation", "contender", "quantity"):
        table.add_column(heading)
    table.add_column("new / old", justify="right")
    table.add_column("in units of", justify="right")
    for change in comparison.changes:
        style = "red" if change.ratio > 1 else "green"
        relative = "" if change.relative is None else f"{change.yardstick} {change.relative:.2f}"
        table.add_row(*change.row.key, change.quantity, f"[{style}]{change.ratio:.2f}[/]", relative)
    for change in comparison.unclear:
        table.add_row(*change.row.key, f"{change.quantity}, too few repeats", f"[yellow]{change.ratio:.2f}[/]", "")
    return table
