"""Files that a power cut leaves complete, and what a file must not replace."""

import errno
import os
import tempfile
from pathlib import Path

from lbp.errors import OutputError


def check_is_file(path: Path) -> None:
    """Refuses a path that is there and no file: to rename a file over a device or a pipe would destroy it.

    Raises:
        OutputError: a folder, a device, a pipe or a socket.
    """
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
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror or error})") from error


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
