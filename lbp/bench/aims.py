"""The package's aims for its speed and memory, beside what a record says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from lbp.bench.comparison import LEAST_REPEATS
from lbp.bench.record import Record, Row


class NotMeasuredError(Exception):
    """A record has no time or memory for an aim; says whose, and why where the record does."""


@dataclass(frozen=True)
class LevelRows:
    """The rows of a level.

    Attributes:
        rows: by case, activation and contender.
        record: that has them.
        timed: rows whose times have been asked for.
    """

    rows: dict[tuple[str, str, str], Row]
    record: Record
    timed: list[Row] = field(default_factory=list)

    @classmethod
    def of(cls, record: Record, level: str) -> LevelRows:
        """Returns the rows that a record has of a level."""
        rows = {(row.case, row.activation, row.contender): row for row in record.rows if row.level == level}
        return cls(rows, record)

    def row(self, case: str, activation: str, contender: str) -> Row:
        """Returns a row that has a time.

        Raises:
            NotMeasuredError: there is none.
        """
        row = self.rows.get((case, activation, contender))
        if row is None or row.timing is None:
            raise NotMeasuredError(f"{contender}: {'no row' if row is None else row.note}")
        return row

    def seconds(self, case: str, activation: str, contender: str = "native") -> float:
        """Returns the median of the repeats.

        Raises:
            NotMeasuredError: there is none.
        """
        row = self.row(case, activation, contender)
        assert row.timing is not None
        self.timed.append(row)
        return row.timing.median


Measure = Callable[[LevelRows], float]


@dataclass(frozen=True)
class Aim:
    """What is to be reached on a kind of device.

    Attributes:
        words: what is compared.
        bound: to be reached, as a ratio.
        at_least: whether the ratio is to be that large, or at most that large.
        level: of the rows that are compared.
        measure: the ratio in rows of that level.
        copy: the ratio that a copy of as many bytes reaches, which the table shows beside it; for information.
    """

    words: str
    bound: float
    at_least: bool
    level: str
    measure: Measure
    copy: Measure | None = None

    def measured(self, record: Record) -> float:
        """Returns the ratio in a record.

        Raises:
            NotMeasuredError: the record lacks a row of it, or a row has no time.
        """
        return self.measure(LevelRows.of(record, self.level))

    def fewest_repeats(self, record: Record) -> int | None:
        """Returns how often the time was measured that was measured least; None where no times are compared.

        Raises:
            NotMeasuredError: as `measured`.
        """
        rows = LevelRows.of(record, self.level)
        self.measure(rows)
        return min((row.timing.repeats for row in rows.timed if row.timing is not None), default=None)

    def is_met_by(self, ratio: float) -> bool:
        """Says whether a ratio reaches the aim."""
        return ratio >= self.bound if self.at_least else ratio <= self.bound


def _speed_up(case: str, activation: str, slower: str = "reference", faster: str = "native") -> Measure:
    return lambda rows: rows.seconds(case, activation, slower) / rows.seconds(case, activation, faster)


def _over_products(case: str) -> Measure:
    def ratio(rows: LevelRows) -> float:
        seconds, alone = rows.seconds(case, "ReLU"), rows.row(case, "ReLU", "native").product_seconds
        if not alone:
            raise NotMeasuredError("native: no time of the products alone")
        return seconds / alone

    return ratio


def _ramp_over_relu(case: str) -> Measure:
    return lambda rows: rows.seconds(case, "ParamRamp") / rows.seconds(case, "ReLU")


def _memory(case: str) -> Measure:
    def ratio(rows: LevelRows) -> float:
        native, reference = (rows.row(case, "ReLU", name).peak_bytes for name in ("native", "reference"))
        if not native or not reference:
            raise NotMeasuredError("no peak memory")
        return native / reference

    return ratio


def _share_of_copy(case: str, activation: str) -> Measure:
    """The bytes that the op cannot avoid, over those that a copy between buffers moves in its time."""

    def ratio(rows: LevelRows) -> float:
        row = rows.row(case, activation, "native")
        if not row.moved_bytes:
            raise NotMeasuredError("native: its bytes are not counted")
        return row.moved_bytes / (rows.seconds(case, activation) * rows.record.rates_of(row).copy)

    return ratio


def _share_of_equal_copy(case: str, activation: str) -> Measure:
    """The same share, of a copy that moves as many bytes as the op: less than 1 where they are few."""

    def ratio(rows: LevelRows) -> float:
        row = rows.row(case, activation, "native")
        if not row.moved_bytes or not row.copy_seconds:
            raise NotMeasuredError("native: no copy of as many bytes")
        return row.moved_bytes / (row.copy_seconds * rows.record.rates_of(row).copy)

    return ratio


_RELAX, _INTERVAL = "relax_backward B=32 S=9 n=65,536", "ramp_interval B=32 n=65,536"

CPU_AIMS = (
    Aim("relax_backward over PyTorch, ReLU, B=32 S=9 n=65,536", 4, True, "ops", _speed_up(_RELAX, "ReLU")),
    Aim("relax_backward over PyTorch, ParamRamp", 10, True, "ops", _speed_up(_RELAX, "ParamRamp")),
    Aim("ramp_interval over PyTorch, ParamRamp, B=32 n=65,536", 8, True, "ops", _speed_up(_INTERVAL, "ParamRamp")),
    *(
        Aim(f"{method} on DM-Large, B={batch}: time / products alone", 1.25, False, "methods", _over_products(case))
        for method in ("IBP", "CROWN-IBP")
        for batch in (16, 256)
        for case in [f"DM-Large {method} B={batch}"]
    ),
    *(
        Aim(f"{method} on DM-Large, B=16: ParamRamp / ReLU", 1.1, False, "methods", _ramp_over_relu(case))
        for method in ("IBP", "CROWN-IBP")
        for case in [f"DM-Large {method} B=16"]
    ),
    *(
        Aim(words, bound, True, "methods", _speed_up(case, "ReLU", faster=contender))
        for words, case, bound, contender in (
            ("LBP on DM-Medium over dense PyTorch", "DM-Medium LBP B=1", 10, "native"),
            # PyTorch leaves out no row either.
            ("CROWN, every row, on DM-Small over dense PyTorch", "DM-Small CROWN B=1", 15, "native, every row"),
            ("CROWN, every row, on DM-Medium over dense PyTorch", "DM-Medium CROWN B=1", 15, "native, every row"),
        )
    ),
    *(
        Aim(
            f"{method} on {network} over auto_LiRPA's patches",
            2,
            True,
            "methods",
            _speed_up(f"{network} {method} B=1", "ReLU", "auto_LiRPA patches"),
        )
        for method, network in (("LBP", "DM-Medium"), ("CROWN", "DM-Small"), ("CROWN", "DM-Medium"))
    ),
    *(
        Aim(
            f"CROWN-IBP training step on {network}: memory / PyTorch's",
            0.5,
            False,
            "training",
            _memory(f"{network} CROWN-IBP B=16"),
        )
        for network in ("DM-Medium", "DM-Large")
    ),
)
"""Aims for two cores; without a GPU."""

_RAMPS = ("ReLU", "ParamRamp")
_FILLING = (
    *(("relax_backward", sizes, _RAMPS) for sizes in ("B=32 S=9 n=65,536", "B=1 S=4,096 n=32,768")),
    *(("relax_forward", sizes, _RAMPS) for sizes in ("B=32 n0=32 n=65,536", "B=1 n0=2,048 n=32,768")),
    *(
        (op, sizes, ("",))
        for op in ("concretize_box", *(f"concretize_ball p={p}" for p in ("1", "2", "inf")))
        for sizes in ("B=32 S=9 n=65,536", "B=1 S=4,096 n=32,768")
    ),
    *((op, sizes, _RAMPS) for op in ("ramp", "ramp_interval") for sizes in ("B=32 n=65,536", "B=512 n=65,536")),
)
"""Ops that memory bounds, sizes that fill a GPU, and activations."""

CUDA_AIMS = tuple(
    Aim(
        f"{op}{activation and f', {activation}'}, {sizes}: share of the copy's bandwidth",
        0.85,
        True,
        "ops",
        _share_of_copy(f"{op} {sizes}", activation),
        _share_of_equal_copy(f"{op} {sizes}", activation),
    )
    for op, sizes, activations in _FILLING
    for activation in activations
)
"""Aims for any CUDA device, whose own copies set the measure."""


def aims_table(record: Record) -> Table | None:
    """Returns the aims for the record's kind of device and the levels it has rows of, None where there are none.

    What was not measured is said, and why: an aim left out would look like one that is met.
    """
    on_cuda = str(record.settings.get("device")).startswith("cuda")
    levels = {row.level for row in record.rows}
    table = Table(title="Aims on a GPU" if on_cuda else "Aims on two cores", box=SIMPLE_HEAD)
    for heading in ("what", "aim", "measured", "", *(["copy of as\nmany bytes"] if on_cuda else [])):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for aim in CUDA_AIMS if on_cuda else CPU_AIMS:
        if aim.level in levels:
            cells = (*_verdict(aim, record), *([_beside(aim, record)] if on_cuda else []))
            table.add_row(aim.words, f"{'>=' if aim.at_least else '<='} {aim.bound:g}", *cells)
    return table if table.row_count else None


def _beside(aim: Aim, record: Record) -> str:
    try:
        return "" if aim.copy is None else f"{aim.copy(LevelRows.of(record, aim.level)):.2f}"
    except NotMeasuredError:
        return ""


def _verdict(aim: Aim, record: Record) -> tuple[str, str]:
    try:
        ratio = aim.measured(record)
    except NotMeasuredError as error:
        return "[yellow]not measured[/]", escape(str(error))
    repeats = aim.fewest_repeats(record)
    few = f" ({repeats}x)" if repeats is not None and repeats < LEAST_REPEATS else ""
    return f"{ratio:.2f}{few}", "[green]met[/]" if aim.is_met_by(ratio) else "[red]missed[/]"
