"""A results file: JSON lines, the settings first and then one line per image, appended as results come in.

What is promised: the lines of one `append` go to the file by one write and reach the disk (fsync) before it returns, so
that a killed process or a power cut loses none of them; a line that was being written at that moment is torn, which
only the last line can be, and is removed when the file is next opened. A lock keeps other processes of the machine out
from before anything is read until the file is closed.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from lbp.errors import LbpError, OutputError, reason_of
from lbp.files import append_durably, check_is_file, open_locked, sync_folder
from lbp.settings import Settings, validation_message

FORMAT = "lbp-results"
FORMAT_VERSION = 1
"""Version that this release writes, and the only one that it reads."""

Record = dict[str, Any]


class ResultsError(LbpError, RuntimeError):
    """A results file cannot be read, written, or continued with these settings."""


class ResultsFile:
    """A results file open for appending; a context manager.

    Args:
        path: an existing file continues, a new one is made with its first line.
        settings: everything that the results depend on, JSON values.

    Attributes:
        path: of the file.
        is_new: whether it was made now; so is one that was killed in its first line.

    Raises:
        ResultsError: the file was made with other settings, is damaged, in use by another process, or not writable.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._descriptor = -1
        head = _line({"format": FORMAT, "version": FORMAT_VERSION, "settings": dict(settings)})
        try:
            check_is_file(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = open_locked(path)
            content = path.read_bytes()
            self.is_new = head.startswith(content) and content != head
            if self.is_new:
                os.ftruncate(self._descriptor, 0)
                append_durably(self._descriptor, head)
                sync_folder(path.parent)
            else:
                read_lines(path, settings)
                os.ftruncate(self._descriptor, _complete_length(content))
        except OutputError as error:
            raise ResultsError(str(error)) from error
        except (OSError, ValueError) as error:
            self.close()
            raise ResultsError(f"cannot write the results to {path} ({reason_of(error)})") from error
        except ResultsError:
            self.close()
            raise

    def append(self, records: Iterable[Record]) -> None:
        """Adds one line per record; they are on the disk when this returns.

        Raises:
            ResultsError: the disk is full or gone; the file then ends with the last complete append.
        """
        content = b"".join(map(_line, records))
        if not content:
            return
        try:
            append_durably(self._descriptor, content)
        except OSError as error:
            raise ResultsError(f"cannot write the results to {self.path} ({error.strerror})") from error

    def remove(self) -> None:
        """Removes the file and closes it; another process that has opened it meanwhile finds that it is gone."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Closes the file and gives up the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read_lines(path: Path | str, settings: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], list[Record]]:
    """Reads a results file, whether or not it is complete.

    Args:
        path: of the file.
        settings: that the file must have been made with; None: any.

    Returns:
        its settings, and its records in the order in which they were written, without a torn last line.

    Raises:
        ResultsError: no such file, not a results file, damaged before its last line, or other settings, each named.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot read the results {path} ({reason_of(error)})") from error
    lines = content[: _complete_length(content)].splitlines()
    try:
        head = _parse(path, 1, lines[0]) if lines else {}
    except ResultsError:
        head = {}
    if head.get("format") != FORMAT:
        raise ResultsError(f"{path}: not a results file of lbp, or its first line is damaged")
    if head.get("version") != FORMAT_VERSION or not isinstance(head.get("settings"), dict):
        raise ResultsError(f"{path}: results of version {head.get('version')}, this release reads {FORMAT_VERSION}")
    if settings is not None:
        _check_settings(path, head["settings"], json.loads(_line(dict(settings))))
    return head["settings"], [_parse(path, number, line) for number, line in enumerate(lines[1:], start=2)]


def read_records(
    path: Path | str, kind: type[Settings] | None, settings: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[Record]]:
    """As `read_lines`, with every record checked.

    Args:
        path: of the file.
        kind: what a record must be; None: anything.
        settings: that the file must have been made with; None: any.

    Raises:
        ResultsError: as `read_lines`, and a line that is no such record.
    """
    found, records = read_lines(path, settings)
    if kind is None:
        return found, records
    for number, record in enumerate(records, start=2):
        try:
            kind.model_validate(record)
        except ValidationError as error:
            raise ResultsError(
                f"{path}: line {number} is no result of this kind ({validation_message(error)})"
            ) from error
    return found, records


def _check_settings(path: Path | str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    was, now = _flat(found), _flat(wanted)
    different = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
    if different:
        parts = "; ".join(f"{name} was {was.get(name)}, now {now.get(name)}" for name in different)
        raise ResultsError(f"{path} was made with other settings ({parts}); repeat them, or name another file")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full names, such as "verify.attack.steps"."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return flat


def _complete_length(content: bytes) -> int:
    """Bytes up to the end of the last complete line."""
    return content.rfind(b"\n") + 1


def _line(record: Record) -> bytes:
    return (json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n").encode()


def _parse(path: Path | str, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ResultsError(f"{path}: line {number} is damaged ({error})") from error
    if not isinstance(record, dict):
        raise ResultsError(f"{path}: line {number} is damaged (not an object)")
    return record
