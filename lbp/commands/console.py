"""Tables on standard output, progress and messages on standard error."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from lbp.training import StepRecord
from lbp.verification import VerificationResult


class TrainingProgress:
    """A progress bar over all steps, with running means of the present epoch; in a log file, a line per epoch."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress = progress
        self._description = description
        self._task = progress.add_task(description, total=None, details="")
        self._epoch = -1
        self._details = ""
        self._seen = self._clean = self._open = 0

    def __call__(self, record: StepRecord) -> None:
        """Shows one step."""
        if record.epoch != self._epoch:
            if self._details and not self._progress.console.is_terminal:
                self._progress.console.print(f"{self._description}: {self._details}", highlight=False, soft_wrap=True)
            self._epoch = record.epoch
            self._seen = self._clean = self._open = 0
        self._seen += record.examples
        self._clean += record.clean_errors
        details = f"epoch {record.epoch + 1}  eps {record.eps:.4f}  loss {record.loss:.3f}"
        details += f"  clean error {100 * self._clean / self._seen:.1f}%"
        if record.verified_errors is not None:
            self._open += record.verified_errors
            details += f"  verified error {100 * self._open / self._seen:.1f}%"
        self._details = details
        self._progress.update(self._task, total=record.total_steps, completed=record.step + 1, details=details)


class VerificationProgress:
    """A progress bar per method."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress = progress
        self._description = description
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, method: str, done: int, total: int) -> None:
        """Shows how far a method is."""
        if method not in self._tasks:
            self._tasks[method] = self._progress.add_task(f"{self._description} {method}", total=total, details="")
        self._progress.update(self._tasks[method], completed=done, total=total)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Live progress bars on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[details]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress


def print_results(results: Sequence[tuple[str, VerificationResult]]) -> None:
    """Prints a table with a row per network and method; a cascade's verified errors count all methods so far."""
    first = results[0][1]
    cascade = ", cascade" if first.cascade else ""
    table = Table(title=f"{len(first)} images, eps {first.eps:g}, {first.strategy} lines{cascade}", box=SIMPLE_HEAD)
    for heading in ("network", "method"):
        table.add_column(heading, no_wrap=True)
    for heading in ("clean error", "verified error", "mean margin bound", "ms per image", "images"):
        table.add_column(heading, justify="right", min_width=len(max(heading.split(), key=len)))
    for name, result in results:
        errors = result.verified_errors()
        for row, method in enumerate(result.methods.values()):
            table.add_row(
                name if row == 0 else "",
                method.method,
                f"{100 * result.clean_error:.2f}%" if row == 0 else "",
                f"{100 * errors[method.method]:.2f}%",
                f"{method.mean_margin:.2f}",
                f"{1e3 * method.mean_seconds:.3g}",
                str(int(method.computed.sum())),
            )
        if len(result.methods) > 1:
            table.add_row("", "any method", "", f"{100 * result.verified_error:.2f}%", "", "", "")
        table.add_section()
    Console().print(table)
