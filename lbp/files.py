"""Files that a power cut leaves complete, that one process writes at a time, and what a file must not replace."""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lbp.errors import OutputError, reason_of


def check_is_file(path: Path) -> None:
    """Refuses a path that is there and no file: to rename a file over a device or a pipe would destroy it.

    Raises:
        OutputError: a folder, a device, a pipe or a socket, or a path that no file can have.
    """
    if "\0" in str(path):
        raise OutputError(f"{str(path)!r} is no file name, it holds a NUL character")
    if path.is_dir():
        raise OutputError(f"{path} is a folder, expected a file name")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is a device or a pipe, expected a file name")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that it is complete or as before, even if the machine stops; creates its folder.

    A link stays one: what it leads to is written.

    Raises:
        OutputError: the file cannot be written; the path is as before.
    """
    try:
        check_is_file(path)
        _replace(path.resolve(), content)
    except OutputError:
        raise
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {path} ({reason_of(error)})") from error


def append_durably(descriptor: int, content: bytes) -> None:
    """Adds to the end of a file by one write; afterwards the content is on the disk, or nothing of it in the file.

    Raises:
        OSError: the disk is full or gone.
    """
    end = os.fstat(descriptor).st_size
    try:
        written = os.write(descriptor, content)
        if written < len(content):
            raise OSError(errno.ENOSPC, f"wrote {written} of {len(content)} bytes")
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        raise


def sync_folder(path: Path) -> None:
    """Brings the names in a folder to the disk: a new file outlives a power cut only together with its name."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Some file systems have nothing to bring there, and some folders may be written to but not read.
        if error.errno not in (errno.EINVAL, errno.EACCES):
            raise


def remove_leftovers(path: Path) -> None:
    """Removes what `write_atomically` leaves beside a file when it is killed; for who alone writes that file."""
    path = path.resolve()
    if path.parent.is_dir():
        for part in path.parent.iterdir():
            if part.name.startswith(f".{path.name}.") and part.is_file():
                part.unlink(missing_ok=True)


def open_locked(path: Path, known_as: Path | None = None) -> int:
    """A descriptor of a file, made if need be, that keeps other processes of the machine out until it is closed.

    The file that is locked has to be the one that the path names: another process may have removed or replaced it
    since it was opened.

    Args:
        path: of the file.
        known_as: what the error names; the file itself by default.

    Raises:
        OutputError: another process has it.
        OSError: it cannot be made, opened or locked.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                name = known_as or path
                raise OutputError(f"{name} is in use by another process; wait for it, or name another file") from None
            raise
        os.close(descriptor)


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Keeps other processes of the machine that ask for it from writing a file, by a lock file beside it.

    Raises:
        OutputError: another process writes it.
    """
    try:
        path = path.resolve()
        lock = path.with_name(f"{path.name}.lock")
        descriptor = open_locked(lock, known_as=path)
    except OutputError:
        raise
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {path}.lock ({reason_of(error)})") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files private; give the file the permissions that open() would.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
