"""CIFAR-10 in its binary format and in its Python format."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lbp.data.dataset import DataError
from lbp.data.plain_pickle import PickleRefusedError, read_plain_pickle
from lbp.errors import reason_of

_PIXELS = 3 * 32 * 32
_RECORD = 1 + _PIXELS
_RECORDS = 10_000
"""Records of every file of the binary version, which says nowhere how many it holds."""

_LARGEST = 1 << 28
"""Bytes of one file; the official ones have 31 million."""

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def read_cifar_binary(path: Path) -> tuple[Images, Labels]:
    """Reads one file of the binary version: records of one label byte and 3072 pixels.

    Returns:
        images uint8 [N, 3, 32, 32], labels int64 [N].

    Raises:
        DataError: another length than that of the official files.
    """
    content = _content(path)
    if len(content) != _RECORDS * _RECORD:
        raise DataError(
            f"{path}: {len(content)} bytes, expected {_RECORDS * _RECORD} ({_RECORDS} images of 1 label and {_PIXELS} "
            "pixels); the file is cut or another one"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, _RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def read_cifar_python(path: Path) -> tuple[Images, Labels]:
    """Reads one batch of the Python version without unpickling it.

    Returns:
        images uint8 [N, 3, 32, 32], labels int64 [N].

    Raises:
        DataError: damaged, not a CIFAR-10 batch, or a pickle that holds more than plain data.
    """
    try:
        batch = read_plain_pickle(_content(path))
    except PickleRefusedError as error:
        raise DataError(f"{path}: {error}") from error
    entries = {_text(key): value for key, value in batch.items()} if isinstance(batch, dict) else {}
    data, labels = entries.get("data"), entries.get("labels")
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS:
        raise DataError(
            f"{path}: no 'data' entry of shape [N, {_PIXELS}], expected a batch of CIFAR-10's Python version"
        )
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DataError(f"{path}: no 'labels' entry that is a list of integers")
    if not all(0 <= label < 256 for label in labels):
        raise DataError(f"{path}: labels must be in [0, 9]")
    if len(labels) != len(data):
        raise DataError(f"{path}: {len(data)} images but {len(labels)} labels")
    return data.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{path}: {path.stat().st_size} bytes, more than a CIFAR-10 file can have")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason_of(error)})") from error


def _text(key: object) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)
