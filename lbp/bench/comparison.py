"""What changed between two records beyond noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lbp.bench.record import Record, Row

LEAST_CHANGE = 1.1
"""A smaller ratio is never called a change: a second run of the same code differs by as much."""

_CHOICES = {"levels", "quick", "only", "batch", "contenders", "compiled"}
"""Settings that choose what is measured, which is no condition of it."""

LEAST_REPEATS = 3
"""Fewer repeats have no spread, or none that says anything about noise."""


@dataclass(frozen=True)
class Change:
    """A row whose time or memory differs.

    Attributes:
        row: of the new record.
        quantity: "time" or "memory".
        ratio: new to old; above 1 is slower or larger.
    """

    row: Row
    quantity: str
    ratio: float


@dataclass(frozen=True)
class Comparison:
    """Two records side by side.

    Attributes:
        changes: beyond noise, the largest first.
        unclear: times that differ as much, but of too few repeats to tell a change from noise; the largest first.
        compared: rows that both records have.
        appeared: rows that only the new record has a time for.
        vanished: rows with a time that the new record does not have.
        failed: rows of the new record that have no time, where the old one has; their notes say why.
        differences: of machine and settings, in words; with any, changes may not be the code's.
    """

    changes: tuple[Change, ...]
    unclear: tuple[Change, ...]
    compared: int
    appeared: tuple[Row, ...]
    vanished: tuple[Row, ...]
    failed: tuple[Row, ...]
    differences: tuple[str, ...]


def compare(old: Record, new: Record) -> Comparison:
    """Compares the rows that two records share.

    A time changed where the middle halves of the repeats do not overlap and the medians differ by a tenth; with fewer
    than three repeats on one side nobody can tell. Memory changed where it differs by a tenth and a MiB.
    """
    before = {row.key: row for row in old.rows if row.timing is not None}
    after = {row.key: row for row in new.rows if row.timing is not None}
    present = {row.key for row in new.rows}
    shared = [(before[key], after[key]) for key in after if key in before]
    clear = [pair for pair in shared if _can_tell(*pair)]
    unclear = [pair for pair in shared if not _can_tell(*pair)]
    return Comparison(
        _largest_first([*(_time_change(*pair) for pair in clear), *(_memory_change(*pair) for pair in shared)]),
        _largest_first([_time_change(*pair) for pair in unclear]),
        len(shared),
        tuple(row for key, row in after.items() if key not in before),
        tuple(row for key, row in before.items() if key not in present),
        tuple(row for row in new.rows if row.timing is None and row.key in before),
        tuple(_differences(old, new)),
    )


def _largest_first(changes: list[Change | None]) -> tuple[Change, ...]:
    found = [change for change in changes if change is not None]
    return tuple(sorted(found, key=lambda change: max(change.ratio, 1 / change.ratio), reverse=True))


def _can_tell(*rows: Row) -> bool:
    return all(row.timing is not None and row.timing.repeats >= LEAST_REPEATS for row in rows)


def _time_change(old: Row, new: Row) -> Change | None:
    assert old.timing is not None
    assert new.timing is not None
    apart = new.timing.low > old.timing.high or new.timing.high < old.timing.low
    ratio = new.timing.median / old.timing.median
    return Change(new, "time", ratio) if apart and _is_large(ratio) else None


def _memory_change(old: Row, new: Row) -> Change | None:
    if not old.peak_bytes or not new.peak_bytes or abs(old.peak_bytes - new.peak_bytes) < 2**20:
        return None
    ratio = new.peak_bytes / old.peak_bytes
    return Change(new, "memory", ratio) if _is_large(ratio) else None


def _is_large(ratio: float) -> bool:
    return max(ratio, 1 / ratio) >= LEAST_CHANGE


def _differences(old: Record, new: Record) -> list[str]:
    facts: list[tuple[str, Any, Any]] = [("device", old.device, new.device)]
    names = sorted({*old.settings, *new.settings} - _CHOICES)
    facts += [(name, old.settings.get(name), new.settings.get(name)) for name in names]
    names = sorted({*old.versions, *new.versions} - {"lbp"})
    facts += [(name, old.versions.get(name), new.versions.get(name)) for name in names]
    words = [f"{name}: {before} -> {after}" for name, before, after in facts if before != after]
    for name in ("copy", "new_copy", "products"):
        ratio = getattr(new.rates, name) / getattr(old.rates, name)
        if _is_large(ratio):
            words.append(f"measured rate of {name.replace('_', ' ')}: {ratio:.2f} times the old one")
    return words


def comparison_table(comparison: Comparison) -> Table:
    """Returns the changes as a table, what became slower or larger in red, and last what nobody can tell."""
    title = f"{len(comparison.changes)} changes in {comparison.compared} rows"
    if comparison.unclear:
        title += f"; {len(comparison.unclear)} differences with too few repeats to tell"
    table = Table(title=title, box=SIMPLE_HEAD)
    for heading in ("level", "case", "activation", "contender", "quantity"):
        table.add_column(heading)
    table.add_column("new / old", justify="right")
    for change in comparison.changes:
        style = "red" if change.ratio > 1 else "green"
        table.add_row(*change.row.key, change.quantity, f"[{style}]{change.ratio:.2f}[/]")
    for change in comparison.unclear:
        table.add_row(*change.row.key, f"{change.quantity}, too few repeats", f"[yellow]{change.ratio:.2f}[/]")
    return table
