"""The command line."""

import sys
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from lbp import __version__
from lbp.commands.bench import bench
from lbp.commands.demo import demo
from lbp.commands.evaluate import evaluate
from lbp.commands.info import info
from lbp.commands.plot import plot
from lbp.commands.train import train
from lbp.commands.verify import verify
from lbp.commands.verify_vnnlib import verify_vnnlib
from lbp.errors import LbpError
from lbp.host_memory import keep_freed_memory
from lbp.settings import validation_message

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (demo, train, verify, verify_vnnlib, evaluate, bench, info):
    app.command()(command)
app.add_typer(plot, name="plot")

USER_ERROR = 2


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lbp {__version__}")
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 done, 1 a fault of lbp, 2 an error that the message says how to mend, 130 interrupted by "
    "Ctrl-C; lbp verify-vnnlib --help has those of its answers."
)
def lbp(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Certified bounds of neural networks."""


def main() -> None:
    """Runs the command line; what a user or a system can mend is one sentence and exit code 2, not a traceback."""
    keep_freed_memory()
    try:
        app()
    except LbpError as error:
        _fail(str(error))
    except ValidationError as error:
        _fail(validation_message(error))
    except OSError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(message)}", highlight=False)
    sys.exit(USER_ERROR)
