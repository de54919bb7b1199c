"""The package's aims for its speed and memory, beside what a record says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lbp.bench.record import Record, Row
from lbp.bench.tables import Case, cases

Measure = Callable[[Record], float | None]


@dataclass(frozen=True)
class Aim:
    """What is to be reached on two cores of a CPU.

    Attributes:
        words: what is compared.
        bound: to be reached, as a ratio.
        at_least: whether the ratio is to be that large, or at most that large.
        measured: the ratio in a record; None where it has no rows for it.
    """

    words: str
    bound: float
    at_least: bool
    measured: Measure

    def is_met_by(self, ratio: float) -> bool:
        """Says whether a ratio reaches the aim."""
        return ratio >= self.bound if self.at_least else ratio <= self.bound


def _case(record: Record, level: str, name: str, activation: str) -> Case | None:
    found = (case for case in cases(record.rows, level) if (case.name, case.activation) == (name, activation))
    return next(found, None)


def _speed_up(level: str, name: str, activation: str, slower: str = "reference", faster: str = "native") -> Measure:
    def measured(record: Record) -> float | None:
        case = _case(record, level, name, activation)
        return None if case is None else case.ratio(slower, faster)

    return measured


def _over_products(name: str) -> Measure:
    def measured(record: Record) -> float | None:
        row = _native(record, "methods", name, "ReLU")
        if row is None or row.timing is None or not row.product_seconds:
            return None
        return row.timing.median / row.product_seconds

    return measured


def _ramp_over_relu(level: str, name: str) -> Measure:
    def measured(record: Record) -> float | None:
        ramp, relu = (_native(record, level, name, activation) for activation in ("ParamRamp", "ReLU"))
        if ramp is None or relu is None or ramp.timing is None or relu.timing is None:
            return None
        return ramp.timing.median / relu.timing.median

    return measured


def _memory(level: str, name: str) -> Measure:
    def measured(record: Record) -> float | None:
        case = _case(record, level, name, "ReLU")
        native, reference = (None if case is None else case.rows.get(who) for who in ("native", "reference"))
        if native is None or reference is None or not native.peak_bytes or not reference.peak_bytes:
            return None
        return native.peak_bytes / reference.peak_bytes

    return measured


def _native(record: Record, level: str, name: str, activation: str) -> Row | None:
    case = _case(record, level, name, activation)
    return None if case is None else case.rows.get("native")


_RELAX, _INTERVAL = "relax_backward B=32 S=9 n=65,536", "ramp_interval B=32 n=65,536"
_PATCHES = "auto_LiRPA patches"

AIMS = (
    Aim("relax_backward over PyTorch, ReLU, B=32 S=9 n=65,536", 4, True, _speed_up("ops", _RELAX, "ReLU")),
    Aim("relax_backward over PyTorch, ParamRamp", 10, True, _speed_up("ops", _RELAX, "ParamRamp")),
    Aim("ramp_interval over PyTorch, ParamRamp, B=32 n=65,536", 8, True, _speed_up("ops", _INTERVAL, "ParamRamp")),
    *(
        Aim(f"{method} on DM-Large, B={batch}: time / products alone", 1.25, False, _over_products(name))
        for method in ("IBP", "CROWN-IBP")
        for batch in (16, 256)
        for name in [f"DM-Large {method} B={batch}"]
    ),
    *(
        Aim(f"{method} on DM-Large, B=16: ParamRamp / ReLU", 1.1, False, _ramp_over_relu("methods", name))
        for method in ("IBP", "CROWN-IBP")
        for name in [f"DM-Large {method} B=16"]
    ),
    Aim("LBP on DM-Medium over dense PyTorch", 10, True, _speed_up("methods", "DM-Medium LBP B=1", "ReLU")),
    *(
        Aim(f"CROWN on {network} over dense PyTorch", 15, True, _speed_up("methods", f"{network} CROWN B=1", "ReLU"))
        for network in ("DM-Small", "DM-Medium")
    ),
    *(
        Aim(
            f"{method} on {network} over auto_LiRPA's patches",
            2,
            True,
            _speed_up("methods", f"{network} {method} B=1", "ReLU", _PATCHES),
        )
        for method, network in (("LBP", "DM-Medium"), ("CROWN", "DM-Small"), ("CROWN", "DM-Medium"))
    ),
    *(
        Aim(
            f"CROWN-IBP training step on {network}: memory / PyTorch's",
            0.5,
            False,
            _memory("training", f"{network} CROWN-IBP B=16"),
        )
        for network in ("DM-Medium", "DM-Large")
    ),
)
"""Aims for two cores; without a GPU."""


def aims_table(record: Record) -> Table | None:
    """Returns the aims that the record has rows for, None where there are none."""
    table = Table(title="Aims on two cores", box=SIMPLE_HEAD)
    for heading in ("what", "aim", "measured", ""):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for aim in AIMS:
        ratio = aim.measured(record)
        if ratio is not None:
            bound = f"{'>=' if aim.at_least else '<='} {aim.bound:g}"
            table.add_row(
                aim.words, bound, f"{ratio:.2f}", "[green]met[/]" if aim.is_met_by(ratio) else "[red]missed[/]"
            )
    return table if table.row_count else None
