"""Options that several commands share."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from lbp.checkpoint import write_atomically
from lbp.data import DATASETS
from lbp.errors import LbpError
from lbp.settings import parse_number


class OutputError(LbpError):
    """Results cannot be written where the user wants them."""


def number(value: str | float) -> float:
    """Reads a number or a quotient from the command line; typer also passes the default through."""
    try:
        return parse_number(str(value))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Folder with the data files (not needed for digits).")
]
DataName = Annotated[
    str | None, typer.Option("--data", help=f"Data set: {', '.join(DATASETS)}; by default the one of the training.")
]


def prepare_file(path: Path) -> None:
    """Makes the folder of a file that is going to be written, so that a bad path shows before the work.

    Raises:
        OutputError: the path is a folder, or its folder cannot be made.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder, expected a file name")
    prepare_folder(path.parent)


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
