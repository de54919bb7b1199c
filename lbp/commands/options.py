"""Options that several commands share."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lbp.checkpoint import write_atomically
from lbp.data import DATASETS
from lbp.errors import InvalidInputError, LbpError
from lbp.methods.memory import budget_in_bytes
from lbp.settings import parse_number


class OutputError(LbpError):
    """Results cannot be written where the user wants them."""


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


Radius = Annotated[float, typer.Option("--eps", parser=number, metavar="NUMBER", help="Radius, such as 0.1 or 8/255.")]
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
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the results file of an interrupted run.")]
JsonPath = Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")]


def chosen_device(name: str | None) -> torch.device:
    """The device that `--device` names; without a name a GPU where there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise typer.BadParameter(f"unknown device {name!r}; choose cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("there is no CUDA device that PyTorch can use")
    return device


def data_range(clip: bool) -> tuple[float, float] | None:
    """The range that `--clip` intersects the balls with; None for `--no-clip`."""
    return (0.0, 1.0) if clip else None


def names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",")]


def prepare_file(path: Path) -> None:
    """Makes the folder of a file that is going to be written, so that a bad path shows before the work.

    Raises:
        OutputError: the path is a folder, or its folder cannot be made.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder, expected a file name")
    prepare_folder(path.parent)


def prepare_outputs(json: Path | None, results: Path | None, resume: bool) -> None:
    """Makes the folders of a JSON file and a results file that are going to be written.

    Raises:
        OutputError: as `prepare_file`, and to resume without a results file.
    """
    if resume and results is None:
        raise OutputError("--resume goes on with a results file; name it by --results")
    for target in (json, results):
        if target is not None:
            prepare_file(target)


def prepare_folder(path: Path) -> None:
    """Makes a folder.

    Raises:
        OutputError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path} ({error.strerror})") from error
    if not os.access(path, os.W_OK):
        raise OutputError(f"cannot write into the folder {path}")


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, atomically."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
