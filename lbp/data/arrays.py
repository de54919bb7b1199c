"""Images and labels as numpy files, plain (.npy) or compressed (.npy.xz), images possibly in numbered parts."""

import itertools
import lzma
import tokenize
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lbp.data.dataset import DataError

_LARGEST = 1 << 31
_SUFFIXES = (".npy", ".npy.xz")
_NUMBERS = "biuf"
"""Kinds of numpy types."""


def array_files(folder: Path, stem: str) -> list[Path]:
    """Files of an array in order: `stem.npy[.xz]`, or its parts `stem_1.npy[.xz]`, ...; empty if there are none."""
    whole = _either(folder, stem)
    if whole is not None:
        return [whole]
    parts = (_either(folder, f"{stem}_{number}") for number in itertools.count(1))
    return [part for part in itertools.takewhile(lambda part: part is not None, parts) if part is not None]


def read_images(files: list[Path]) -> npt.NDArray[np.uint8]:
    """Reads and joins parts of an image array stored as uint8 [N, H, W, C].

    Returns:
        uint8 [N, C, H, W].

    Raises:
        DataError: a part is damaged, of another type, or of another image shape than the first.
    """
    parts = [_read(path, dimensions=4) for path in files]
    for path, part in zip(files, parts, strict=True):
        if part.dtype != np.uint8:
            raise DataError(f"{path}: type {part.dtype}, expected uint8 images of shape [N, H, W, C]")
        if part.shape[1:] != parts[0].shape[1:]:
            raise DataError(f"{path}: images of shape {part.shape[1:]}, the first part has {parts[0].shape[1:]}")
    return np.concatenate(parts).transpose(0, 3, 1, 2)


def read_labels(path: Path) -> npt.NDArray[np.integer]:
    """Reads a one-dimensional integer array.

    Raises:
        DataError: damaged, or not one-dimensional integers.
    """
    labels = _read(path, dimensions=1)
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path}: type {labels.dtype}, expected integers")
    return labels


def _either(folder: Path, stem: str) -> Path | None:
    return next((path for suffix in _SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)


def _read(path: Path, dimensions: int) -> npt.NDArray[Any]:
    try:
        with _open(path) as stream:
            shape, dtype = _header(stream)
            size = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if dtype.kind not in _NUMBERS or len(shape) != dimensions or size > _LARGEST:
                raise DataError(f"{path}: array of type {dtype} and shape {shape}, expected {dimensions}-d numbers")
            stream.seek(0)
            array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
            # Only at the end of a compressed file are its checksums compared.
            if stream.read(1):
                raise DataError(f"{path}: more than one array, or bytes after it; expected a file of one array")
            return array
    except DataError:
        raise
    except (OSError, EOFError, ValueError, TypeError, lzma.LZMAError, SyntaxError, tokenize.TokenError) as error:
        raise DataError(f"{path}: not a readable numpy array ({error})") from error


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def _open(path: Path) -> IO[bytes]:
    return lzma.open(path, "rb") if path.suffix == ".xz" else path.open("rb")
