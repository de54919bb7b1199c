"""Work on a set of images that can be interrupted, continued and divided over processes."""

import glob
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, TypeVar

from lbp.distributed import Workers
from lbp.results.file import Record, ResultsError, ResultsFile, read_lines, read_records
from lbp.settings import Settings

Emit = Callable[[list[Record]], None]
Work = Callable[[list[int], Emit], None]
T = TypeVar("T")


def run_images(
    work: Work,
    total: int,
    *,
    settings: Mapping[str, Any],
    kind: type[Settings] | None = None,
    labels: Sequence[int] | None = None,
    path: Path | None = None,
    resume: bool = False,
    group: Workers | None = None,
    progress: Callable[[list[Record], int], None] | None = None,
) -> list[Record]:
    """Runs `work` on every image exactly once, over all processes and all continued runs.

    The first process appends to `path` itself, each of the others to a part beside it, `path.part-RANK`, so that no two
    write to one file; at the end the first adds what the parts hold to `path`, and the parts are removed. A continued
    run reads the file and all parts, and may have another number of processes; the files need not be visible to all of
    them. From before they are read until the end all these files are locked against other runs.

    Args:
        work: called with the indices of this process's images and a function to be called with the records of finished
            images, which have their image's number under "index".
        total: number of images; the indices are 0, ..., total - 1.
        settings: everything that the results depend on, JSON values.
        kind: what a record must be; those of a file are checked before anything is built on them. None: anything.
        labels: of the images; a record of a file with another "label" is refused. None: not compared.
        path: results file; None: the records are only returned.
        resume: continue what `path` holds; else it must not exist.
        group: the processes.
        progress: called with the records found in the files, and then with those of this process as they come, and
            with the number of both together at the end.

    Returns:
        the records of all images in the order of their indices, in every process.

    Raises:
        ResultsError: existing results without `resume`, other settings, damaged or contradictory records or those of
            other images, files in use by another run or that cannot be written, or images that `work` left out.
    """
    group = group or Workers()
    with ExitStack() as stack:
        files = None
        if path is not None:
            files = stack.enter_context(closing(_Files(path, settings, kind, resume, group)))
        found = [] if files is None else files.records
        done = _by_index(record for part in group.gather(found) for record in part)
        _check_images(done, total, labels, path)
        todo = [index for index in range(total) if index not in done][group.rank :: group.size]
        if progress is not None:
            progress(list(done.values()), len(done) + len(todo))
        new: list[Record] = []

        def emit(records: list[Record]) -> None:
            if files is not None:
                files.own.append(records)
            new.extend(records)
            if progress is not None:
                progress(records, len(done) + len(todo))

        work(todo, emit)
        records = _by_index(record for part in group.gather(new) for record in part) | done
        if missing := [index for index in range(total) if index not in records]:
            raise ResultsError(f"{len(missing)} of {total} images have no result, the first is image {missing[0]}")
        ordered = [records[index] for index in range(total)]
        if files is not None:
            files.collect(ordered)
        return ordered


def existing_files(path: Path) -> list[Path]:
    """What is there of a results file and its parts."""
    parts = sorted(path.parent.glob(f"{glob.escape(path.name)}.part-*"))
    return [name for name in (path, *parts) if name.exists()]


class _Files:
    """The results file of a run and its parts, locked.

    Args:
        path, settings, kind, resume, group: as for `run_images`.

    Attributes:
        own: the file that this process appends to.
        records: what the files held that this process sees.

    Raises:
        ResultsError: in every process, where one of them cannot go on; no new file is left then.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], kind: type[Settings] | None, resume: bool, group: Workers
    ) -> None:
        self._path, self._settings, self._resume, self._group = path, settings, resume, group
        self._locked: list[ResultsFile] = []
        # Before any process makes a file of its own.
        self._existing = _together(group, self._find)
        try:
            _together(group, self._lock)
            self.records = _together(group, lambda: self._read(kind))
        except ResultsError:
            for file in self._locked:
                if file.is_new:
                    file.remove()
            self.close()
            raise
        self.own = self._locked[0]

    def collect(self, records: Iterable[Record]) -> None:
        """Adds those of all records that the results file lacks to it, and removes the parts once they are there."""
        _together(self._group, lambda: self._add_missing(records))
        parts = [name for name in (*self._existing, self.own.path) if name != self._path]
        for name in parts:
            name.unlink(missing_ok=True)

    def close(self) -> None:
        """Gives up the locks."""
        for file in self._locked:
            file.close()

    def _find(self) -> list[Path]:
        existing = existing_files(self._path)
        if existing and not self._resume:
            raise _exists(existing[0])
        return existing

    def _lock(self) -> None:
        """Locks the own file, and in the first process parts that processes of an earlier run have left."""
        fellows = [self._path, *(self._part(rank) for rank in range(1, self._group.size))]
        left = [name for name in self._existing if name not in fellows] if self._group.leads else []
        for name in (fellows[self._group.rank], *left):
            self._locked.append(ResultsFile(name, self._settings))
        if not self._resume and not self._locked[0].is_new:
            raise _exists(self._locked[0].path)

    def _read(self, kind: type[Settings] | None) -> list[Record]:
        # Another run may have ended since they were looked for.
        there = (name for name in dict.fromkeys((*self._existing, self._locked[0].path)) if name.exists())
        return [record for name in there for record in read_records(name, kind, self._settings)[1]]

    def _add_missing(self, records: Iterable[Record]) -> None:
        if self._group.leads:
            there = {record["index"] for record in read_lines(self._path)[1]}
            self.own.append(record for record in records if record["index"] not in there)

    def _part(self, rank: int) -> Path:
        return self._path.with_name(f"{self._path.name}.part-{rank}")


def _exists(path: Path) -> ResultsError:
    return ResultsError(f"{path} exists; continue it by --resume (resume=True), or name another file")


def _together(group: Workers, step: Callable[[], T]) -> T:
    """Takes a step in every process; an error in one stops all of them, so that none waits for it."""
    results, refusal = [], None
    try:
        results.append(step())
    except ResultsError as error:
        refusal = str(error)
    if refusals := [text for text in group.gather(refusal) if text is not None]:
        raise ResultsError(refusals[0])
    return results[0]


def _check_images(records: Mapping[int, Record], total: int, labels: Sequence[int] | None, path: Path | None) -> None:
    """Refuses results of other images than these: of lines that somebody has changed."""
    for index, record in records.items():
        if not 0 <= index < total:
            raise ResultsError(f"{path}: a result of image {index}, where there are {total}: {record}")
        if labels is not None and record.get("label") != labels[index]:
            raise ResultsError(f"{path}: image {index} has the label {labels[index]}, not that of its line: {record}")


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
