"""Data sets by name, from the folder that the user names."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from lbp.data.arrays import array_files, read_images, read_labels
from lbp.data.cifar import read_cifar_binary, read_cifar_python
from lbp.data.dataset import DataError, Dataset, from_bytes
from lbp.data.digits import load_digits
from lbp.data.idx import read_idx_images, read_idx_labels
from lbp.data.tiny_imagenet import read_tiny_imagenet

_CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
_CIFAR10_STD = (0.2470, 0.2435, 0.2616)

_TINY_MEAN = (0.4802, 0.4481, 0.3975)
_TINY_STD = (0.2770, 0.2691, 0.2821)

_IDX_PREFIX = {"train": "train", "test": "t10k"}
_MNIST_ORIGIN = "MNIST's four IDX files are at https://yann.lecun.com/exdb/mnist and in its many mirrors"
_FASHION_ORIGIN = "Fashion-MNIST's four IDX files are at https://github.com/zalandoresearch/fashion-mnist"
_CIFAR_ORIGIN = "CIFAR-10's binary and Python versions are at https://www.cs.toronto.edu/~kriz/cifar.html"
_TINY_ORIGIN = "Tiny-ImageNet's archive is at http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def load(name: str, split: str, data_root: Path | str | None = None) -> Dataset:
    """Loads a split of a data set into memory.

    The files may lie in `data_root` itself or in the usual sub-folder:

    - `digits`: no files; scikit-learn has them.
    - `mnist`, `fashion-mnist`: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...`, plain or `.gz`.
    - `cifar10`: the binary version (`data_batch_1.bin` ...), the Python version (`data_batch_1` ...; never unpickled),
      or numpy files `train_images.npy` (uint8 [N, H, W, C]; `.npy.xz` and numbered parts `train_images_1.npy` ...
      too), `train_labels.npy`, `test_images.npy`, `test_labels.npy`.
    - `tiny-imagenet`: the unpacked archive (`wnids.txt`, `train/`, `val/`; the latter is the test split).

    Args:
        name: one of `DATASETS`; case and punctuation do not matter.
        split: "train" or "test".
        data_root: folder with the files; not needed for `digits`.

    Raises:
        DataError: unknown name or split; a missing or damaged file, with its path and what was expected.
    """
    if split not in ("train", "test"):
        raise DataError(f"unknown split {split!r}; choose train or test")
    for known, reader in _READERS.items():
        if plain_name(name) == plain_name(known):
            return reader(split, None if data_root is None else Path(data_root))
    raise DataError(f"unknown data set {name!r}; choose one of {', '.join(DATASETS)}")


def plain_name(name: str) -> str:
    """The name of a data set without what does not matter in it: case and punctuation."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _digits(split: str, data_root: Path | None) -> Dataset:
    return load_digits(split)


def _mnist(split: str, data_root: Path | None) -> Dataset:
    return _idx_dataset("mnist", ("mnist", "MNIST/raw", "MNIST"), split, data_root, _MNIST_ORIGIN)


def _fashion_mnist(split: str, data_root: Path | None) -> Dataset:
    folders = ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "FashionMNIST")
    return _idx_dataset("fashion-mnist", folders, split, data_root, _FASHION_ORIGIN)


def _idx_dataset(name: str, folders: Iterable[str], split: str, data_root: Path | None, origin: str) -> Dataset:
    images, labels = f"{_IDX_PREFIX[split]}-images-idx3-ubyte", f"{_IDX_PREFIX[split]}-labels-idx1-ubyte"
    candidates = _folders(name, folders, data_root, origin)
    for folder in candidates:
        image_file, label_file = (_plain_or_gz(folder, stem) for stem in (images, labels))
        if image_file is None and label_file is None:
            continue
        if image_file is None or label_file is None:
            raise DataError(f"{folder / (images if image_file is None else labels)}[.gz] is missing. {origin}.")
        pixels, classes = read_idx_images(image_file)[:, None], read_idx_labels(label_file)
        if pixels.shape[1:] != (1, 28, 28):
            raise DataError(f"{image_file}: images of {pixels.shape[2]}x{pixels.shape[3]}, expected 28x28")
        return from_bytes(name, pixels, classes, 10, source=f"{image_file} and {label_file.name}")
    raise _missing(name, f"{images}[.gz] and {labels}[.gz]", candidates, origin)


def _cifar10(split: str, data_root: Path | None) -> Dataset:
    folders = ("cifar10", "cifar-10", "cifar-10-batches-bin", "cifar-10-batches-py", "CIFAR10")
    candidates = _folders("cifar10", folders, data_root, _CIFAR_ORIGIN)
    stems = [f"data_batch_{number}" for number in range(1, 6)] if split == "train" else ["test_batch"]
    for folder in candidates:
        for suffix, read in ((".bin", read_cifar_binary), ("", read_cifar_python)):
            files = [folder / f"{stem}{suffix}" for stem in stems]
            if any(path.is_file() for path in files):
                _all_there(files, _CIFAR_ORIGIN)
                images, labels = zip(*(read(path) for path in files), strict=True)
                return _cifar_dataset(np.concatenate(images), np.concatenate(labels), source=str(folder))
        parts = array_files(folder, f"{split}_images")
        if parts:
            label_files = array_files(folder, f"{split}_labels")
            if len(label_files) != 1:
                raise DataError(f"{folder / f'{split}_labels.npy'}[.xz] is missing beside {parts[0].name}")
            return _cifar_dataset(read_images(parts), read_labels(label_files[0]), source=str(folder))
    wanted = f"{stems[0]}.bin (binary), {stems[0]} (Python) or {split}_images.npy[.xz] (numpy)"
    raise _missing("cifar10", wanted, candidates, _CIFAR_ORIGIN)


def _cifar_dataset(images: np.ndarray, labels: np.ndarray, source: str) -> Dataset:
    if images.shape[1:] != (3, 32, 32):
        raise DataError(f"{source}: images of shape {images.shape[1:]} (channels, height, width), expected (3, 32, 32)")
    return from_bytes("cifar10", images, labels, 10, source=source, mean=_CIFAR10_MEAN, std=_CIFAR10_STD)


def _tiny_imagenet(split: str, data_root: Path | None) -> Dataset:
    candidates = _folders("tiny-imagenet", ("tiny-imagenet-200", "tiny-imagenet"), data_root, _TINY_ORIGIN)
    for folder in candidates:
        if (folder / "wnids.txt").is_file():
            images, labels, classes = read_tiny_imagenet(folder, split)
            return from_bytes(
                "tiny-imagenet", images, labels, classes, source=str(folder), mean=_TINY_MEAN, std=_TINY_STD
            )
    raise _missing("tiny-imagenet", "wnids.txt", candidates, _TINY_ORIGIN)


def _folders(name: str, subfolders: Iterable[str], data_root: Path | None, origin: str) -> list[Path]:
    if data_root is None:
        raise DataError(f"{name} is read from files: name their folder by --data-root (data_root=). {origin}.")
    if not data_root.is_dir():
        raise DataError(f"data root {data_root} is not a folder. {origin}.")
    return [folder for folder in (*(data_root / sub for sub in subfolders), data_root) if folder.is_dir()]


def _plain_or_gz(folder: Path, stem: str) -> Path | None:
    return next((path for end in ("", ".gz") if (path := folder / f"{stem}{end}").is_file()), None)


def _all_there(files: Iterable[Path], origin: str) -> None:
    for path in files:
        if not path.is_file():
            raise DataError(f"{path} is missing. {origin}.")


def _missing(name: str, wanted: str, folders: Iterable[Path], origin: str) -> DataError:
    places = ", ".join(str(folder) for folder in folders)
    return DataError(f"{name}: looked for {wanted} in {places} and found nothing. {origin}.")


_READERS: dict[str, Callable[[str, Path | None], Dataset]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "tiny-imagenet": _tiny_imagenet,
}

DATASETS = tuple(_READERS)
"""Names that `load` knows."""
