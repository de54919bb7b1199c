"""Options that several commands share."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lbp.data import DATASETS
from lbp.errors import InvalidInputError, OutputError, reason_of
from lbp.files import check_is_file, write_atomically
from lbp.methods.memory import budget_in_bytes
from lbp.methods.options import STRATEGY_OPTIONS
from lbp.settings import parse_number


def number(value: str | float) -> float:
    """Reads a number or a quotient from the command line; typer also passes the default through."""
    try:
        return parse_number(str(value))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def amount_of_memory(value: str | int) -> int:
    """Reads an amount of memory from the command line; typer also passes the default through."""
    try:
        return budget_in_bytes(value)
    except InvalidInputError as error:
        raise typer.BadParameter(str(error)) from error


DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Folder with the data files (not needed for digits).")
]
DataName = Annotated[
    str | None, typer.Option("--data", help=f"Data set: {', '.join(DATASETS)}; by default the one of the training.")
]


Radius = Annotated[
    float,
    typer.Option(
        "--eps", parser=number, metavar="NUMBER",
        help="Radius, such as 0.1 or 8/255, in units of the data, whose range is [0, 1].",
    ),
]  # fmt: skip
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many images.")]
Split = Annotated[str, typer.Option("--split", help="train or test.")]
Clip = Annotated[bool, typer.Option("--clip/--no-clip", help="Intersect the balls with the data range [0, 1].")]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Images at a time; by default as many as the memory budget allows."),
]
MemoryBudget = Annotated[
    int | None,
    typer.Option(
        "--memory-budget", parser=amount_of_memory, metavar="BYTES",
        help="That bounds may take, such as 4GiB; by default half of the memory that is free.",
    ),
]  # fmt: skip
RoundingLevel = Annotated[
    str,
    typer.Option(
        "--rounding",
        help="What bounds account for: outward (their own rounding), inference (that of the network too), nearest.",
    ),
]
CheckpointPath = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="Network written by `lbp train` or `lbp demo`.")
]
Device = Annotated[str | None, typer.Option("--device", help="cpu or cuda; by default a GPU where there is one.")]
ResultsPath = Annotated[
    Path | None, typer.Option("--results", help="Write a line per image to this file, as soon as it is known.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the results file of an interrupted run; without one, start it.")
]
JsonPath = Annotated[Path | None, typer.Option("--json", help="Also write the summary and every result to this file.")]


def chosen_device(name: str | None) -> torch.device:
    """The device that `--device` names; without a name a GPU where there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise typer.BadParameter(f"unknown device {name!r}; choose cpu or cuda") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise typer.BadParameter(f"there are no bounds on the device {name!r}; choose cpu or cuda")
    if not torch.cuda.is_available():
        raise typer.BadParameter("there is no CUDA device that PyTorch can use")
    if (device.index or 0) >= torch.cuda.device_count():
        raise typer.BadParameter(f"there is no device {name!r}, PyTorch finds {torch.cuda.device_count()}")
    return device


def data_range(clip: bool) -> tuple[float, float] | None:
    """The range that `--clip` intersects the balls with; None for `--no-clip`."""
    return (0.0, 1.0) if clip else None


def names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",")]


def strategy_names(option: str, text: str) -> list[str]:
    """Names of bounding lines, separated by commas.

    Raises:
        InvalidInputError: an unknown one.
    """
    found = names(text)
    for name in found:
        if name not in STRATEGY_OPTIONS:
            raise InvalidInputError(
                f"{option}: bounding lines must be one of {', '.join(STRATEGY_OPTIONS)}, got {name!r}"
            )
    return found


def prepare_files(*outputs: Path | None, inputs: Sequence[Path] = ()) -> None:
    """Makes the folders of files that are going to be written, so that bad paths show before the work.

    Args:
        outputs: the files; None: not wanted.
        inputs: files that are read.

    Raises:
        OutputError: a path is a folder, a device or a pipe, its folder cannot be made or written to, or it names the
            same file as another of the paths.
    """
    taken = {path.resolve() for path in inputs}
    for path in outputs:
        if path is None:
            continue
        check_is_file(path)
        if path.resolve() in taken:
            raise OutputError(f"{path} is named for two files of this command; name another one to write to")
        taken.add(path.resolve())
        prepare_folder(path.resolve().parent)


def prepare_outputs(results: Path | None, resume: bool, *others: Path | None, checkpoint: Path) -> None:
    """Makes the folders of a results file and others that are going to be written.

    Raises:
        OutputError: as `prepare_files`, and to resume without a results file.
    """
    if resume and results is None:
        raise OutputError("--resume goes on with a results file; name it by --results")
    prepare_files(results, *others, inputs=[checkpoint])


def prepare_folder(path: Path) -> None:
    """Makes a folder.

    Raises:
        OutputError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot make the folder {path} ({reason_of(error)})") from error
    if not os.access(path, os.W_OK):
        raise OutputError(f"cannot write into the folder {path}")


def write_files(files: Iterable[tuple[Path, bytes]], *, or_print: Path | None = None) -> None:
    """Writes files atomically.

    Args:
        files: paths and contents.
        or_print: that of a text which goes to standard output where it cannot be written: what nothing else keeps.

    Raises:
        OutputError: one cannot be written; all others are.
    """
    errors = []
    for path, content in files:
        try:
            write_atomically(path, content)
        except OutputError as error:
            errors.append(error)
            if path == or_print:
                typer.echo(content, nl=False)
    if errors:
        raise errors[0]


def as_json(content: Any) -> bytes:
    """JSON values as the content of a file."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
