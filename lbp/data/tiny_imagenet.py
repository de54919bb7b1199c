"""Tiny-ImageNet as it is distributed: a folder of JPEG files per class."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lbp.data.dataset import DataError
from lbp.errors import reason_of

SIDE = 64

Entry = tuple[Path, int]
"""A file and its label."""


def read_tiny_imagenet(folder: Path, split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], int]:
    """Reads a split from `wnids.txt`, `train/CLASS/images/*.JPEG`, and `val/images/*.JPEG` with `val_annotations.txt`.

    Labels count the classes of `wnids.txt` in alphabetical order.

    Args:
        folder: that holds `wnids.txt`.
        split: "train", or "test", which is the validation set, as the labels of the test set are not public.

    Returns:
        images uint8 [N, 3, 64, 64], labels [N], number of classes.

    Raises:
        DataError: a missing file, an unknown class, a name that is a path, or an image that is damaged, no JPEG or not
            of 64x64 pixels.
    """
    classes = sorted(_text(folder / "wnids.txt").split())
    label_of = {name: label for label, name in enumerate(classes)}
    if len(label_of) < len(classes):
        raise DataError(f"{folder / 'wnids.txt'}: a class is named twice")
    for name in classes:
        if not _is_plain(name):
            raise DataError(f"{folder / 'wnids.txt'}: {name!r} is no name of a class, but a path")
    entries = list(_train(folder / "train", label_of) if split == "train" else _validation(folder / "val", label_of))
    if not entries:
        raise DataError(f"{folder}: no images of the {split} split")
    images = np.empty((len(entries), SIDE, SIDE, 3), dtype=np.uint8)

    def decode(position: int) -> None:
        images[position] = _pixels(entries[position][0])

    # Decoding leaves the interpreter lock.
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode, range(len(entries)), chunksize=64):
            pass
    return images.transpose(0, 3, 1, 2), np.array([label for _, label in entries], dtype=np.int64), len(classes)


def _train(folder: Path, label_of: dict[str, int]) -> Iterator[Entry]:
    for name, label in label_of.items():
        files = sorted((folder / name / "images").glob("*.JPEG"))
        if not files:
            raise DataError(f"{folder / name / 'images'}: no *.JPEG files")
        yield from ((path, label) for path in files)


def _validation(folder: Path, label_of: dict[str, int]) -> Iterator[Entry]:
    annotations = folder / "val_annotations.txt"
    for number, line in enumerate(_text(annotations).splitlines(), start=1):
        columns = line.split("\t")
        if len(columns) < 2 or columns[1] not in label_of:
            raise DataError(f"{annotations}, line {number}: expected a file and a class of wnids.txt, got {line!r}")
        if not _is_plain(columns[0]):
            raise DataError(f"{annotations}, line {number}: {columns[0]!r} is no name of a file in {folder / 'images'}")
        yield folder / "images" / columns[0], label_of[columns[1]]


def _is_plain(name: str) -> bool:
    """Whether a name stays in its folder: no path, neither absolute nor upward."""
    return name not in ("", ".", "..") and Path(name).name == name


def _pixels(path: Path) -> npt.NDArray[np.uint8]:
    from PIL import Image  # only this data set needs it

    try:
        # Other decoders, of which Pillow has dozens, fail in ways of their own; one starts Ghostscript.
        with Image.open(path, formats=("JPEG",)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable JPEG image ({error})") from error
    if pixels.shape != (SIDE, SIDE, 3):
        raise DataError(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels, expected {SIDE}x{SIDE}")
    return pixels


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({reason_of(error)})") from error
