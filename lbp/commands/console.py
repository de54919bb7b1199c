"""Tables on standard output, progress and messages on standard error."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from lbp.errors import OutputError
from lbp.results import ResultsError
from lbp.training import StepRecord
from lbp.verification import CascadeSettings, VerificationResult

_SECONDS_BETWEEN_LINES = 30


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


class ImageProgress:
    """A progress bar over images with the number of every kind; in a log file, a line every half minute."""

    def __init__(
        self, progress: Progress, description: str, kinds: Sequence[str], kind_of: Callable[[dict[str, Any]], str]
    ) -> None:
        self._progress = progress
        self._description = description
        self._counts = dict.fromkeys(kinds, 0)
        self._kind_of = kind_of
        self._task: TaskID | None = None
        self._told = time.monotonic()

    def __call__(self, records: list[dict[str, Any]], total: int) -> None:
        """Counts further images."""
        for record in records:
            self._counts[self._kind_of(record)] += 1
        details = "  ".join(f"{kind} {count}" for kind, count in self._counts.items())
        done = sum(self._counts.values())
        if self._task is None:
            self._task = self._progress.add_task(self._description, total=total, completed=done, details=details)
        self._progress.update(self._task, total=total, completed=done, details=details)
        if not self._progress.console.is_terminal and time.monotonic() - self._told > _SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            line = f"{self._description}: {done} of {total} images  {details}"
            self._progress.console.print(line, highlight=False, soft_wrap=True)


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
def progress_bars(*, visible: bool = True) -> Iterator[Progress]:
    """Live progress bars on standard error, or none where another process shows them."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[details]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not visible) as progress:
        yield progress


@contextmanager
def told_to_resume(kept: Path | None) -> Iterator[None]:
    """Tells a user who interrupts the block, or whose disk is full, how to go on, where a file keeps what is done."""
    try:
        yield
    except (KeyboardInterrupt, OutputError, ResultsError) as error:
        # Other results errors refuse what the files hold: the same command would be refused again.
        if isinstance(error, ResultsError) and not isinstance(error.__cause__, OSError):
            raise
        what = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
        if kept is not None:
            warn(f"{what}; the same command with --resume goes on" if kept.exists() else f"{what}; nothing is kept yet")
        raise


def say(text: str) -> None:
    """Prints a text as it is: brackets in the name of a file are no markup, and long lines stay whole."""
    Console().print(text, highlight=False, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Prints a text as it is on standard error."""
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


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


def print_verdicts(name: str, settings: CascadeSettings, summary: dict[str, Any]) -> None:
    """Prints the summary of a cascade: a row per method, the numbers of images by verdict below."""
    radius = f"eps {settings.eps:g}" + ("" if settings.norm is None else f" (l_{settings.norm:g})")
    title = f"{name}, {summary['examples']} images, {radius}, {settings.strategy} lines, cascade"
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    for heading in ("images", "verified", "verified error so far", "mean margin bound"):
        table.add_column(heading, justify="right", min_width=len(max(heading.split(), key=len)))
    for method, figures in summary["methods"].items():
        margin = figures["mean_margin"]
        table.add_row(
            method,
            str(figures["computed"]),
            str(figures["verified"]),
            f"{100 * figures['verified_error']:.2f}%",
            "" if margin is None else f"{margin:.3g}",
        )
    console = Console()
    console.print(table)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in summary["verdicts"].items())
    console.print(f"{counts}; {1e3 * summary['seconds_per_image']:.3g} ms per image", highlight=False, soft_wrap=True)
    share = summary["attacked_error"]
    attacked = "" if share is None else f", attacked error {100 * share:.2f}%"
    console.print(
        f"clean error {100 * summary['clean_error']:.2f}%{attacked}, "
        f"verified error {100 * summary['verified_error']:.2f}%",
        highlight=False,
        soft_wrap=True,
    )
    if settings.attack is None:
        reason = (
            "" if settings.norm is None else f": the attacks search l_inf balls, this is an l_{settings.norm:g} ball"
        )
        console.print(f"no attack was run{reason}", highlight=False, soft_wrap=True)
