"""Options that several commands share."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lbp.checkpoint import write_atomically
from lbp.data import DATASETS
from lbp.settings import parse_number


def number(text: str) -> float:
    """Reads a number or a quotient from the command line."""
    try:
        return parse_number(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Folder with the data files (not needed for digits).")
]
DataName = Annotated[str, typer.Option("--data", help=f"Data set: {', '.join(DATASETS)}.")]


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, atomically."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
