"""Records: what was measured, where and with what, as JSON."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

import lbp
from lbp import _native
from lbp.bench.rates import Rates
from lbp.bench.timing import EXACT, Count, Timing
from lbp.errors import InvalidInputError, reason_of
from lbp.files import write_atomically
from lbp.info import collect
from lbp.settings import validation_message

FORMAT = 1

_PACKAGE = Path(lbp.__file__).parent

Key = tuple[str, str, str, str]
"""Level, case, activation and contender."""


@dataclass(frozen=True)
class Row:
    """One contender in one case.

    Attributes:
        level: "ops", "methods", "training" or "growth".
        case: what was run, without its activation and contender.
        activation: "ReLU" or "ParamRamp".
        contender: "native", "reference", ...
        timing: None where there is none; `note` says why.
        peak_bytes: that the run needed above what was in use before it.
        moved_bytes: that it cannot avoid reading and writing; None where that is not counted.
        copy_seconds: of a copy that reads and writes as many, in the same rounds; of ops on a GPU.
        operations: of its matrix products and convolutions.
        product_seconds: that those took.
        parameters: numbers that describe the case, for pictures and fits.
        note: why there is no timing, or anything else to know.
        run: number of the run in the record that measured it.
    """

    level: str
    case: str
    activation: str
    contender: str
    timing: Timing | None = None
    peak_bytes: Count | None = None
    moved_bytes: Count | None = None
    operations: Count | None = None
    product_seconds: float | None = None
    copy_seconds: float | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    run: Count = 0

    __pydantic_config__: ClassVar[ConfigDict] = EXACT

    @property
    def key(self) -> Key:
        """What identifies the row in a record."""
        return self.level, self.case, self.activation, self.contender


@dataclass(frozen=True)
class Run:
    """A run that added to a record.

    Attributes:
        date: ISO 8601, UTC.
        settings: threads, limits and choices.
        rates: of the machine, in that run.
    """

    date: str
    settings: dict[str, Any]
    rates: Rates

    __pydantic_config__: ClassVar[ConfigDict] = EXACT


@dataclass(frozen=True)
class Record:
    """The rows of one run, or of several on one machine with one commit.

    Attributes:
        device: name of the processor or GPU.
        commit: of the source tree, see `tree_commit`.
        settings: threads, limits and choices of the first run.
        versions: of this package, of what it stands on and of the peers that take part.
        rates: of the machine in the first run.
        rows: the measurements.
        date: of the first run; ISO 8601, UTC.
        continued: the other runs, which `Row.run` counts from 1.
    """

    device: str
    commit: str
    settings: dict[str, Any]
    versions: dict[str, str]
    rates: Rates
    rows: tuple[Row, ...]
    date: str
    continued: tuple[Run, ...] = ()

    __pydantic_config__: ClassVar[ConfigDict] = EXACT

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, in the order in which `Row.run` counts them."""
        return Run(self.date, self.settings, self.rates), *self.continued

    @property
    def short_commit(self) -> str:
        """The first digits of the commit, and all that marks a tree that differs from it."""
        return self.commit[:12] + self.commit[40:]

    def rates_of(self, row: Row) -> Rates:
        """Returns the rates of the machine in the run that measured a row."""
        return self.runs[row.run].rates

    def range_of(self, rate: str) -> tuple[float, float]:
        """Returns the least and the largest that a rate was in any run, by its name in `Rates`."""
        values = [getattr(run.rates, rate) for run in self.runs]
        return min(values), max(values)

    def range_in_words(self, rate: str) -> str:
        """Returns that range in GB/s, of products in GFLOP/s."""
        low, high = (f"{value / 1e9:,.{1 if value < 1e11 else 0}f}" for value in self.range_of(rate))
        unit = "GFLOP/s" if rate == "products" else "GB/s"
        return f"{low if low == high else f'{low} to {high}'} {unit}"

    def with_rows(self, rows: Iterable[Row]) -> Record:
        """Returns the record with rows of its last run, in the places of those that they measure again."""
        found = {row.key: row for row in self.rows}
        found |= {row.key: replace(row, run=len(self.continued)) for row in rows}
        return replace(self, rows=tuple(found.values()))


_CONDITIONS = ("threads", "waiting threads", "device")
"""Settings without which times do not belong into one record."""

PEER, PEER_COMMIT = "auto_LiRPA", "commit of auto_LiRPA"
"""Versions that only runs with this peer have, both of them."""

LIBRARY = "contents of the native library"
"""Version of the kernels: of one commit they can be built in several ways, or not anew."""

LIBRARY_SOURCES = "sources of the native library"
"""Version of the kernels on a GPU, where they lie in a source tree: nvcc writes names of temporary files into symbols,
so that two builds of one source differ."""

PLAIN_FUNCTIONS = "plain functions"
"""Version of the plain PyTorch that is compared with, which is this package's own."""

_BUILT_FROM = ("csrc", "cmake", "CMakeLists.txt", "setup.py")
"""What the native library is built from, beside the package."""


def continue_record(path: Path, new: Record) -> Record:
    """Returns the record in a file, continued by a new one that has no rows yet; the new one if there is no file.

    Versions of a peer must agree only where both have one: some runs do without it.

    Raises:
        InvalidInputError: not a record, or one of another machine, commit, or set of versions.
    """
    if not path.exists():
        return new
    old = read_record(path)
    facts = [(name, getattr(old, name), getattr(new, name)) for name in ("device", "commit")]
    names = {*old.versions, *new.versions}
    one_sided = {PEER, PEER_COMMIT} - (old.versions.keys() & new.versions.keys())
    facts += [(name, old.versions.get(name), new.versions.get(name)) for name in sorted(names - one_sided)]
    facts += [(name, old.settings.get(name), new.settings.get(name)) for name in _CONDITIONS]
    for name, before, now in facts:
        if before != now:
            raise InvalidInputError(
                f"{path}: is of {name} {before}, not {now}: times of both would not compare; choose another --output, "
                "or remove the file"
            )
    return replace(
        old,
        versions=old.versions | new.versions,
        continued=(*old.continued, Run(new.date, new.settings, new.rates)),
    )


def new_record(device: torch.device, settings: dict[str, Any], rates: Rates, peers: Mapping[str, str]) -> Record:
    """Returns a record of this machine, now, that has no rows yet.

    Args:
        device: what is measured on.
        settings: choices of the run, beside those that every record has.
        rates: of the machine.
        peers: versions of the other packages that take part.
    """
    versions = {name: value for name, value in collect().items() if name != "platform"}
    versions |= _library_version(device) | {PLAIN_FUNCTIONS: _hash_of(_PACKAGE, _plain_functions())}
    return Record(
        _device_name(device),
        tree_commit(),
        {
            "threads": torch.get_num_threads(),
            "waiting threads": os.environ.get("OMP_WAIT_POLICY", "default").lower(),
            "device": str(device),
            **settings,
        },
        {**versions, **peers},
        rates,
        (),
        datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _library_version(device: torch.device) -> dict[str, str]:
    if _native.missing is not None:
        return {}
    if device.type == "cuda" and (sources := _library_sources()):
        return {LIBRARY_SOURCES: _hash_of(_PACKAGE.parent, sources)}
    return {LIBRARY: _hash_of(_native.LIBRARY.parent, [_native.LIBRARY])}


def _library_sources() -> list[Path]:
    """Returns the files that the library is built from, none where the package is installed without them."""
    if not (_PACKAGE.parent / "csrc").is_dir():
        return []
    places = [_PACKAGE.parent / name for name in _BUILT_FROM]
    return [path for place in places for path in (place, *place.rglob("*")) if path.is_file()]


def _plain_functions() -> list[Path]:
    return [*(_PACKAGE / "bench").glob("plain*.py"), *(_PACKAGE / "reference").rglob("*.py")]


def _hash_of(folder: Path, files: Iterable[Path], more: bytes = b"") -> str:
    """Returns the first digits of a hash of the names of files below a folder and of their contents."""
    total = hashlib.sha256(more)
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        total.update(os.fsencode(name) + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:12]


def write_record(record: Record, path: Path) -> None:
    """Writes a record as JSON, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    write_atomically(path, (json.dumps({"format": FORMAT, **asdict(record)}, indent=1) + "\n").encode())


def read_record(path: Path) -> Record:
    """Reads a record.

    Raises:
        InvalidInputError: no such file, or not a record; also one whose rows lack what tables and pictures show.
    """
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or "format" not in content:
            raise ValueError("it does not say of which format it is")
        if content.pop("format") != FORMAT:
            raise ValueError("another version of the format")
        record = _RECORDS.validate_python(content)
        _check_parameters(record)
        return record
    except FileNotFoundError as error:
        raise InvalidInputError(f"{path}: no such file; `lbp bench --output FILE` writes one") from error
    except ValidationError as error:
        first = validation_message(error).partition("; ")[0]
        raise InvalidInputError(f"{path}: not a record of `lbp bench` ({first})") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: not a record of `lbp bench` ({reason_of(error)})") from error


_RECORDS = TypeAdapter(Record)

_PARAMETERS: dict[str, dict[str, type]] = {
    "ops": {"op": str, "B": int, "n": int},
    "methods": {"method": str, "batch": int, "neurons": int},
    "growth": {"quantity": str, "value": int},
}
"""Those that the rows of a level must have, as words or as numbers above 0."""


def _check_parameters(record: Record) -> None:
    if "threads" not in record.settings:
        raise ValueError("settings: no number of threads")
    for row in record.rows:
        if row.run > len(record.continued):
            raise ValueError(f"{' '.join(row.key)}: of run {row.run}, the record has {len(record.continued)} more")
        for name, kind in _PARAMETERS.get(row.level, {}).items():
            value = row.parameters.get(name)
            if type(value) is not kind or (isinstance(value, int) and not 0 < value < 2**63):
                raise ValueError(f"{' '.join(row.key)}: {name} is {value!r}")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def tree_commit(package: Path = _PACKAGE) -> str:
    """Returns the commit of the git tree that a package is a part of, "unknown" outside of one.

    Where tracked files differ from the commit, or files of the package or of its kernels are not tracked, "+" and the
    first digits of a hash of the differences and of those files follow, so that two states of a tree are never taken
    for the same code. `benchmarks/gpu_record.py`, which cannot import this package, has the same a second time.
    """
    try:
        # A package that is installed into an ignored folder of a tree is no part of it.
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "HEAD").decode().strip()
        # Records themselves, which are written into the tree, change nothing that is measured.
        tracked = ("--", ":/", ":(top,exclude)benchmarks/results")
        differences = _git(package, "diff", "--no-ext-diff", "--no-textconv", "--binary", "HEAD", *tracked)
        root = package.parent
        others = ("ls-files", "--others", "--exclude-standard", "-z", "--", package.name, *_BUILT_FROM)
        untracked = [root / os.fsdecode(name) for name in _git(root, *others).split(b"\0") if name]
        changed = _hash_of(root, filter(Path.is_file, untracked), differences)
        return commit + (f"+{changed[:8]}" if differences or untracked else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=True).stdout
