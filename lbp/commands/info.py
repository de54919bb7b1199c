"""`lbp info`."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lbp.info import collect


def info() -> None:
    """Show versions, instruction set, threads and CUDA."""
    table = Table(show_header=False, box=None)
    for name, value in collect().items():
        table.add_row(name, Text(value))  # brackets are no markup
    Console().print(table)
