"""What `lbp verify` and `lbp evaluate` share: results image by image, and the report on them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lbp.commands.console import ImageProgress, progress_bars, told_to_resume, warn
from lbp.commands.network import Subject
from lbp.distributed import Workers
from lbp.results import existing_files, run_images
from lbp.settings import Settings

Result = TypeVar("Result", bound=Settings)


def image_results(
    command: str,
    subject: Subject,
    settings: Settings,
    kind: type[Result],
    work: Callable[[list[int], Callable[[list[Result]], None]], object],
    *,
    counted: Sequence[str],
    counted_as: Callable[[dict[str, Any]], str],
    path: Path | None,
    resume: bool,
    group: Workers,
) -> list[Result]:
    """Runs a command on all images of its subject, divided over the processes, with a progress bar.

    Args:
        command: its name.
        subject: the network and the images.
        settings: all that decides the results, beside the subject.
        kind: of a result.
        work: takes the numbers of the images to do, and what it hands over results to as they come.
        counted: what the progress bar counts.
        counted_as: which of them a result is, as JSON values.
        path: results file; None keeps none.
        resume: go on with that file.
        group: this process among its fellows.

    Returns:
        the results of all images in their order, in every process.

    Raises:
        ResultsError: as `run_images`.
    """

    def run(todo: list[int], emit: Callable[[list[dict[str, Any]]], None]) -> None:
        work(todo, lambda found: emit([result.model_dump(mode="json") for result in found]))

    if resume and path is not None and group.leads and not existing_files(path):
        warn(f"nothing to resume, there is no {path}: `lbp {command}` starts anew")
    with told_to_resume(path if group.leads else None), progress_bars(visible=group.leads) as bars:
        records = run_images(
            run, len(subject.data), settings=subject.identity() | {command: settings.model_dump(mode="json")},
            kind=kind, labels=subject.data.labels.tolist(), path=path, resume=resume, group=group,
            progress=ImageProgress(bars, command, counted, counted_as),
        )  # fmt: skip
    return [kind.model_validate(record) for record in records]


def report(
    subject: Subject, settings: Settings, summary: dict[str, Any], results: Sequence[Settings], **more: Any
) -> dict[str, Any]:
    """The report of a command as JSON values: subject, settings, whatever more there is, summary and every image."""
    return {
        **subject.describe(),
        "settings": settings.model_dump(mode="json"),
        **more,
        "summary": summary,
        "images": [result.model_dump(mode="json") for result in results],
    }
