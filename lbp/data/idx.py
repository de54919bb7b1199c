"""IDX files, the format of MNIST and Fashion-MNIST, plain or compressed with gzip."""

import gzip
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from lbp.data.dataset import DataError
from lbp.errors import reason_of

_IMAGES_MAGIC = 0x00000803
_LABELS_MAGIC = 0x00000801
_LARGEST = 1 << 30
"""Bytes that a header may announce; MNIST's largest file has 47 million."""


def read_idx_images(path: Path) -> npt.NDArray[np.uint8]:
    """Reads an IDX file of images.

    Returns:
        uint8 [N, H, W].

    Raises:
        DataError: wrong magic number or size, or a damaged compressed stream.
    """
    return _read(path, _IMAGES_MAGIC, dimensions=3)


def read_idx_labels(path: Path) -> npt.NDArray[np.uint8]:
    """Reads an IDX file of labels.

    Returns:
        uint8 [N].

    Raises:
        DataError: wrong magic number or size, or a damaged compressed stream.
    """
    return _read(path, _LABELS_MAGIC, dimensions=1)


def _read(path: Path, magic: int, dimensions: int) -> npt.NDArray[np.uint8]:
    header_size = 4 + 4 * dimensions
    try:
        with _open(path) as stream:
            header = stream.read(header_size)
            if len(header) < header_size:
                raise DataError(f"{path}: {len(header)} bytes, shorter than an IDX header of {header_size} bytes")
            found, *shape = struct.unpack(f">{1 + dimensions}I", header)
            if found != magic:
                raise DataError(
                    f"{path}: magic number 0x{found:08x}, expected 0x{magic:08x} (IDX, {dimensions}-d uint8)"
                )
            expected = int(np.prod(shape, dtype=object))
            if expected > _LARGEST:
                raise DataError(f"{path}: the header announces {shape} = {expected} bytes, more than {_LARGEST}")
            content = stream.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({reason_of(error)})") from error
    if len(content) != expected:
        more = "more" if len(content) > expected else f"only {len(content)}"
        raise DataError(f"{path}: the header announces {shape} = {expected} bytes of data, the file has {more}")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")
