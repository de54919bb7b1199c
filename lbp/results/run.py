"""Work on a set of images that can be interrupted, continued and divided over processes."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lbp.distributed import Workers
from lbp.results.file import Record, ResultsError, ResultsFile, read_records, write_results
from lbp.settings import Settings

Emit = Callable[[list[Record]], None]
Work = Callable[[list[int], Emit], None]


def run_images(
    work: Work,
    total: int,
    *,
    settings: Mapping[str, Any],
    kind: type[Settings] | None = None,
    path: Path | None = None,
    resume: bool = False,
    group: Workers | None = None,
    progress: Callable[[list[Record], int], None] | None = None,
) -> list[Record]:
    """Runs `work` on every image exactly once, over all processes and all continued runs.

    A single process appends to `path` itself. Of several, each appends to a part beside it, `path.part-RANK`, so that
    no two write to one file; at the end the first collects all records into `path` and the parts are removed. A
    continued run reads the file and all parts, and may have another number of processes; the files need not be
    visible to all of them.

    Args:
        work: called with the indices of this process's images and a function to be called with the records of finished
            images, which have their image's number under "index".
        total: number of images; the indices are 0, ..., total - 1.
        settings: everything that the results depend on, JSON values.
        kind: what a record must be; those of a file are checked before anything is built on them. None: anything.
        path: results file; None: the records are only returned.
        resume: continue what `path` holds; else it must not exist.
        group: the processes.
        progress: called with the records found in the files, and then with those of this process as they come, and
            with the number of both together at the end.

    Returns:
        the records of all images in the order of their indices, in every process.

    Raises:
        ResultsError: existing results without `resume`, other settings, damaged or contradictory records, or images
            that `work` left out.
    """
    group = group or Workers()
    found: list[Record] = []
    if path is not None:
        _same_everywhere(group, _refusal(path, settings, kind, resume))
        found = [record for name in _files(path) for record in read_records(name, kind, settings)[1]]
    done = _by_index(record for part in group.gather(found) for record in part)
    todo = [index for index in range(total) if index not in done][group.rank :: group.size]
    if progress is not None:
        progress(list(done.values()), len(done) + len(todo))
    new: list[Record] = []
    with ExitStack() as stack:
        target = None
        if path is not None:
            target = stack.enter_context(ResultsFile(_own_file(path, group), settings))

        def emit(records: list[Record]) -> None:
            if target is not None:
                target.append(records)
            new.extend(records)
            if progress is not None:
                progress(records, len(done) + len(todo))

        work(todo, emit)
    records = _by_index(record for part in group.gather(new) for record in part) | done
    if missing := [index for index in range(total) if index not in records]:
        raise ResultsError(f"{len(missing)} of {total} images have no result, the first is image {missing[0]}")
    ordered = [records[index] for index in range(total)]
    if path is not None:
        _collect(path, settings, ordered, group)
    return ordered


def _refusal(path: Path, settings: Mapping[str, Any], kind: type[Settings] | None, resume: bool) -> str | None:
    """What speaks against writing to the results file, if anything."""
    existing = _files(path)
    if existing and not resume:
        return f"{existing[0]} exists; continue it by --resume (resume=True), or name another file"
    try:
        for name in existing:
            read_records(name, kind, settings)
    except ResultsError as error:
        return str(error)
    return None


def _same_everywhere(group: Workers, refusal: str | None) -> None:
    """Stops all processes where one has to stop, so that none waits for it."""
    if refusals := [text for text in group.gather(refusal) if text is not None]:
        raise ResultsError(refusals[0])


def _files(path: Path) -> list[Path]:
    """The results file and its parts, as far as they exist."""
    return [name for name in (path, *sorted(path.parent.glob(f"{path.name}.part-*"))) if name.exists()]


def _own_file(path: Path, group: Workers) -> Path:
    return path if group.size == 1 else path.with_name(f"{path.name}.part-{group.rank}")


def _collect(path: Path, settings: Mapping[str, Any], records: list[Record], group: Workers) -> None:
    """Leaves all records in one file, and removes the parts once it is complete."""
    if group.leads and _files(path) != [path]:
        write_results(path, settings, records)
    group.gather(None)
    for name in _files(path):
        if name != path:
            name.unlink(missing_ok=True)


def _by_index(records: Iterable[Record]) -> dict[int, Record]:
    """Records by their image; the same record may occur twice, in a part and in the collected file."""
    table: dict[int, Record] = {}
    for record in records:
        index = record.get("index")
        if type(index) is not int:
            raise ResultsError(f"a result without the number of its image: {record}")
        if table.setdefault(index, record) != record:
            raise ResultsError(f"image {index} has two different results: {table[index]} and {record}")
    return table
