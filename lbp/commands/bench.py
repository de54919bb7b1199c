"""`lbp bench`."""

import importlib.util
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape

from lbp.bench import cupy_fusion
from lbp.bench.aims import aims_table
from lbp.bench.comparison import compare, comparison_table
from lbp.bench.contenders import CONTENDERS, Contender, peer_available, peer_version
from lbp.bench.grid import GROWTH_CONTENDERS, METHODS
from lbp.bench.methods import MethodOptions, measure_growth, measure_methods, measure_training
from lbp.bench.networks import NETWORKS
from lbp.bench.op_cases import OP_NAMES
from lbp.bench.ops import CUPY, OpOptions, measure_ops
from lbp.bench.pictures import draw_pictures
from lbp.bench.rates import measure_rates
from lbp.bench.record import (
    PEER,
    PEER_COMMIT,
    Key,
    Record,
    Row,
    continue_record,
    new_record,
    read_record,
    tree_commit,
    write_record,
)
from lbp.bench.tables import result_tables
from lbp.bench.worker import Limits
from lbp.commands.console import say
from lbp.commands.options import chosen_device, prepare_files, prepare_folder
from lbp.errors import InvalidInputError, OutputError

_FAILED = r"\w*(Error|Exception): |process ended"
"""How notes of runs begin that ended by an error."""

_MOST = 1e6
"""Of seconds, minutes or GiB that a limit may be: what the system counts in stays in range."""

_MOST_OF_MACHINE = 40
"""Of rows that may be the machine's, how many are listed."""


class Level(StrEnum):
    """What can be measured."""

    OPS = "ops"
    METHODS = "methods"
    TRAINING = "training"
    GROWTH = "growth"


def bench(
    levels: Annotated[
        list[Level] | None,
        typer.Argument(
            help="what to measure: ops, methods, training, growth; all unless named, with --quick but growth"
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves PyTorch's number", min=0, max=4096)] = 0,
    quick: Annotated[
        bool, typer.Option(help="DM-Small and one image only, nothing under torch.compile, no growth: a minute or two")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="an op (part of its name), a network or a method; repeat")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="images at once, for methods and training; repeat", min=1)
    ] = None,
    contender: Annotated[
        list[str] | None, typer.Option(help="who is measured, for methods and training; repeat")
    ] = None,
    compiled: Annotated[
        bool, typer.Option(help="also PyTorch under torch.compile, ops, at layers that --quick leaves out")
    ] = True,
    peer: Annotated[Path | None, typer.Option(help="folder that holds the package auto_LiRPA")] = None,
    repeats: Annotated[int, typer.Option(help="most repeats of a measurement", min=1)] = 7,
    time_limit: Annotated[float, typer.Option(help="seconds after which a run of a method is stopped")] = 60.0,
    case_seconds: Annotated[
        float,
        typer.Option(
            help="seconds that the repeats of a contender in a case of methods take; three may take four times as long"
        ),
    ] = 0.75,
    run_limit: Annotated[
        float, typer.Option(help="minutes after which no further case begins; the same --output continues")
    ] = 600.0,
    memory_limit: Annotated[float, typer.Option(help="GiB of memory that a run of a method may take, CPU")] = 12.0,
    output: Annotated[
        Path | None,
        typer.Option(help="write the record here, JSON, after every case; cases that it holds are not measured again"),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="measure also what --output holds")] = False,
    plots: Annotated[Path | None, typer.Option(help="draw pictures into this folder")] = None,
    comparison: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare",
            help="measure nothing; show what changed from OLD to NEW, where it did beside plain PyTorch, auto_LiRPA or "
            "the machine's rates as well",
        ),
    ] = None,
    show: Annotated[Path | None, typer.Option(help="measure nothing; show the tables of this record")] = None,
) -> None:
    """Measure this package against plain PyTorch, auto_LiRPA and the machine's own rates."""
    console = Console()
    _check_what_is_shown(levels, output, plots, comparison, show)
    if plots is not None:
        prepare_folder(plots)
    if comparison is not None:
        _show_comparison(console, *comparison)
        return
    if show is not None:
        _show(console, read_record(show), plots)
        return
    if quick and Level.GROWTH in (levels or ()):
        raise InvalidInputError("--quick has no growth: small sizes do not show how cost grows; leave out one of them")
    chosen = levels or [level for level in Level if not (quick and level is Level.GROWTH)]
    on = _device(device)
    if threads > 0:
        torch.set_num_threads(threads)
    names = _known(only or ())
    _check_limits(
        {
            "--time-limit": time_limit,
            "--case-seconds": case_seconds,
            "--run-limit": run_limit,
            "--memory-limit": memory_limit,
        }
    )
    prepare_files(output)
    settings = {
        "levels": [level.value for level in chosen],
        "quick": quick,
        "only": list(names),
        "batch": list(batch or ()),
        "contenders": list(contender or ()),
        "compiled": compiled,
        "repeats": repeats,
        "time limit": time_limit,
        "case seconds": case_seconds,
        "memory limit": memory_limit,
    }
    limits = Limits(time_limit, int(memory_limit * 2**30), torch.get_num_threads())
    ops = OpOptions(repeats=repeats, compiled=compiled, quick=quick, only=names)
    methods = replace(
        _method_options(names, limits, repeats, batch, contender, peer, quick=quick), seconds=case_seconds
    )
    present, absent = _contenders(chosen, on, ops, methods)
    for word, parties in (("contenders", present), ("absent", absent)):
        if parties:
            console.print(f"{word}: {'; '.join(parties)}", highlight=False)
    with_peer = any(name.startswith(PEER) for name in present)
    record = new_record(on, settings, measure_rates(on), _peer_versions(peer) if with_peer else {})
    if output is not None:
        record = continue_record(output, record)
    done: dict[Key, Row] = {} if again else {row.key: row for row in record.rows}
    ops, methods = replace(ops, done=frozenset(done)), replace(methods, done=done)
    with Console(stderr=True).status("measuring") as status:
        measurements = _measurements(chosen, on, ops, methods, status.update)
        run = _extended(record, measurements, output, run_limit)
    if not (run.record.rows or run.stopped):
        raise InvalidInputError("nothing was measured: --only, --batch and --contender leave no case of these levels")
    _show(console, run.record, plots)
    _finish(console, run, output)


def _check_what_is_shown(
    levels: Sequence[Level] | None,
    output: Path | None,
    plots: Path | None,
    comparison: tuple[Path, Path] | None,
    show: Path | None,
) -> None:
    """Refuses options that a command which measures nothing would ignore."""
    if comparison is not None and (show is not None or plots is not None):
        raise InvalidInputError("--compare shows what changed between two records; --show and --plots take one record")
    if (comparison is not None or show is not None) and (levels or output is not None):
        raise InvalidInputError("--compare and --show measure nothing: they take neither levels nor --output")


def _check_limits(limits: Mapping[str, float]) -> None:
    """Refuses limits, by option, that limit nothing, or that the system cannot count."""
    for option, value in limits.items():
        if not 0 < value <= _MOST:
            raise InvalidInputError(f"{option} must be above 0 and at most {_MOST:g}, got {value:g}")


@dataclass
class _Run:
    """What became of a run: its record, why it stopped early ("": it did not), and whether it measured anything."""

    record: Record
    stopped: str = ""
    failure: OutputError | None = None
    measured: bool = False


def _extended(record: Record, measurements: Iterable[list[Row]], output: Path | None, minutes: float) -> _Run:
    """Adds measurements to a record, and writes it after each, until so many minutes have passed."""
    run, end = _Run(record), time.monotonic() + 60 * minutes
    try:
        for rows in measurements:
            run.record, run.measured = run.record.with_rows(rows), True
            if output is not None:
                write_record(run.record, output)
            if time.monotonic() > end:
                run.stopped = f"stopped after {minutes:g} minutes"
                break
    except KeyboardInterrupt:
        run.stopped = "interrupted"
    except OutputError as error:
        run.failure = error
    return run


def _finish(console: Console, run: _Run, output: Path | None) -> None:
    """Says how a run ended.

    It is an error where results of this package differed, whose times mean nothing then, or a measurement failed.
    """
    if run.failure is not None:
        raise run.failure
    if run.stopped:
        rest = "what was measured is kept only by --output FILE, which then continues"
        if output is not None:
            rest = "the same command with the same --output measures the rest"
        console.print(f"[yellow]{run.stopped}[/]; {rest}")
    elif not run.measured:
        console.print("nothing new was measured: --output holds every case; --again measures it again")
    interrupted = run.stopped == "interrupted"
    wrong = [row for row in run.record.rows if _is_wrong(row)]
    for row in wrong:
        console.print(f"[red]{row.case} {row.activation}: {row.contender} {escape(row.note)}[/]")
    if wrong or interrupted:
        raise typer.Exit(130 if interrupted else 1)


def _is_wrong(row: Row) -> bool:
    """Says whether a row shows a fault of this package; to be slow, or to need much memory, is none."""
    if row.note.startswith("differs"):
        return not row.contender.startswith((PEER, CUPY))
    return row.contender.startswith("native") and re.match(_FAILED, row.note) is not None


def _measurements(
    levels: Sequence[Level],
    device: torch.device,
    ops: OpOptions,
    methods: MethodOptions,
    notify: Callable[[str], None],
) -> Iterator[list[Row]]:
    for level in levels:
        match level:
            case Level.OPS:
                yield from measure_ops(device, ops, notify)
            case Level.METHODS:
                yield from measure_methods(device, methods, notify)
            case Level.TRAINING:
                yield from measure_training(device, methods, notify)
            case Level.GROWTH:
                yield from measure_growth(device, methods, notify)


def _contenders(
    levels: Sequence[Level], device: torch.device, ops: OpOptions, methods: MethodOptions
) -> tuple[list[str], list[str]]:
    """Returns who takes part in some of the levels, and who would but for a reason, with it."""
    reasons: dict[str, list[str]] = {}
    if Level.OPS in levels:
        reasons |= {"native": [""], "reference": [""]}
        if ops.compiled:
            reasons["reference compiled"] = ["at none of the layers of --quick" if ops.quick else ""]
        if device.type == "cuda":
            reasons[CUPY] = ["" if cupy_fusion.is_available() else "CuPy is not installed"]
    grown = {name for names in GROWTH_CONTENDERS.values() for name in names} if Level.GROWTH in levels else set()
    for contender in CONTENDERS:
        if methods.contenders and contender.name not in methods.contenders:
            continue
        if contender.name in grown:
            reasons.setdefault(contender.name, []).append("")
        if Level.METHODS in levels or (Level.TRAINING in levels and contender.trains):
            reasons.setdefault(contender.name, []).append(_why_absent(contender, methods))
    present = [name for name, found in reasons.items() if "" in found]
    return present, [f"{name} ({', and '.join(found)})" for name, found in reasons.items() if "" not in found]


def _why_absent(contender: Contender, methods: MethodOptions) -> str:
    """Returns why a contender takes part in no method and no training step, nothing if it may."""
    if contender.package == PEER and not peer_available(methods.peer):
        return "not installed; --peer FOLDER adds it"
    if methods.contenders:
        return ""
    limits = (methods.batches, contender.batches, "images"), (methods.networks, contender.networks, "as the network")
    for wanted, able, what in limits:
        if wanted and able and not set(wanted) & set(able):
            return f"with {' or '.join(map(str, able))} {what} only"
    return ""


def _peer_versions(peer: Path | None) -> dict[str, str]:
    """Returns the version of auto_LiRPA, which must be there, and the commit of its tree."""
    folder = None if peer is None else peer / PEER
    if folder is None and (found := importlib.util.find_spec(PEER)) is not None and found.origin is not None:
        folder = Path(found.origin).parent
    return {PEER: peer_version(peer) or "unknown", PEER_COMMIT: "unknown" if folder is None else tree_commit(folder)}


def _known(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of --only: what nobody knows would choose nothing, and so measure everything."""
    for name in names:
        op_name = name.partition(" p=")[0]
        if name not in (*NETWORKS, *METHODS) and not (op_name.strip() and any(op_name in op for op in OP_NAMES)):
            raise InvalidInputError(
                f"--only {name!r} is neither a part of an op's name nor one of {', '.join((*NETWORKS, *METHODS))}"
            )
    return tuple(names)


def _method_options(
    names: tuple[str, ...],
    limits: Limits,
    repeats: int,
    batches: Sequence[int] | None,
    contenders: Sequence[str] | None,
    peer: Path | None,
    *,
    quick: bool,
) -> MethodOptions:
    known = [entry.name for entry in CONTENDERS]
    for name in contenders or ():
        if name not in known:
            raise InvalidInputError(f"--contender {name!r} is not known; choose one of {', '.join(map(repr, known))}")
    if peer is not None and not (peer / "auto_LiRPA").is_dir():
        raise InvalidInputError(f"--peer {peer}: the folder holds no package auto_LiRPA")
    networks = tuple(name for name in names if name in NETWORKS)
    return MethodOptions(
        limits,
        repeats=repeats,
        networks=networks or (("DM-Small",) if quick else ()),
        methods=tuple(name for name in names if name in METHODS),
        batches=tuple(batches or ()) or ((1,) if quick else ()),
        contenders=tuple(contenders or ()),
        peer=peer,
    )


def _device(name: str) -> torch.device:
    device = chosen_device(name)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _show(console: Console, record: Record, plots: Path | None) -> None:
    console.print(
        f"{record.device}, {record.settings['threads']} threads, commit {record.short_commit}, {record.date}\n"
        f"copy {record.range_in_words('copy')}, into new memory {record.range_in_words('new_copy')}, "
        f"products {record.range_in_words('products')}",
        highlight=False,
    )
    aims = aims_table(record)
    for table in [*result_tables(record), *([] if aims is None else [aims])]:
        console.print(table)
    if plots is not None:
        for path in draw_pictures(record, plots):
            say(f"drew {path}")


def _show_comparison(console: Console, old: Path, new: Path) -> None:
    records = read_record(old), read_record(new)
    result = compare(*records)
    console.print("commit {} -> {}".format(*(record.short_commit for record in records)), highlight=False)
    for difference in result.differences:
        console.print(f"[yellow]not the same conditions:[/] {escape(difference)}", highlight=False)
    console.print(comparison_table(result))
    if result.of_machine:
        console.print(f"may be the machine's, no change beside a yardstick or its rates: {len(result.of_machine)} rows")
    for change in result.of_machine[:_MOST_OF_MACHINE]:
        words = (
            f"  {' '.join(change.row.key)}: {change.ratio:.2f}, in units of {change.yardstick} {change.relative:.2f}"
        )
        console.print(escape(words), highlight=False)
    if len(result.of_machine) > _MOST_OF_MACHINE:
        console.print("  ...")
    for word, rows in (
        ("only in the new record", result.appeared),
        ("only in the old record", result.vanished),
    ):
        if rows:
            names = sorted({f"{row.case} {row.contender}" for row in rows})
            console.print(f"{word}: {len(rows)} rows: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}")
    for row in result.failed:
        console.print(f"[red]no time any more:[/] {' '.join(row.key)}: {escape(row.note)}", highlight=False)
