"""CIFAR-10 in its three layouts; nothing in a file is ever executed."""

import lzma
import os
import pickle
from functools import partial

import numpy as np
import pytest

from lbp.data import DataError, load

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
LABELS = np.arange(10)[::-1].copy()


def write_binary(folder, images=IMAGES, labels=LABELS):
    folder.mkdir(parents=True, exist_ok=True)
    records = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(images), -1)], axis=1)
    for number in range(5):
        part = records[2 * number : 2 * number + 2]
        (folder / f"data_batch_{number + 1}.bin").write_bytes(part.tobytes())
    (folder / "test_batch.bin").write_bytes(records.tobytes())


def batch(images=IMAGES, labels=LABELS):
    names = [f"image_{label}.png".encode() for label in labels]
    return {
        b"batch_label": b"testing batch 1 of 1",
        b"labels": [int(label) for label in labels],
        b"data": images.reshape(len(images), -1),
        b"filenames": names,
    }


def write_python(folder, protocol=2):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(5):
        part = slice(2 * number, 2 * number + 2)
        content = pickle.dumps(batch(IMAGES[part], LABELS[part]), protocol)
        (folder / f"data_batch_{number + 1}").write_bytes(content)
    (folder / "test_batch").write_bytes(pickle.dumps(batch(), protocol))


def write_numpy(folder, parts, suffix):
    folder.mkdir(parents=True, exist_ok=True)

    def put(stem, array):
        path = folder / f"{stem}{suffix}"
        with lzma.open(path, "wb") if suffix.endswith(".xz") else path.open("wb") as stream:
            np.save(stream, array)

    channels_last = IMAGES.transpose(0, 2, 3, 1)
    for split in ("train", "test"):
        if parts == 1:
            put(f"{split}_images", channels_last)
        else:
            for number, part in enumerate(np.array_split(channels_last, parts), start=1):
                put(f"{split}_images_{number}", part)
        put(f"{split}_labels", LABELS)


LAYOUTS = {
    "binary": lambda root: write_binary(root / "cifar-10-batches-bin"),
    "python": lambda root: write_python(root / "cifar-10-batches-py"),
    "python, protocol 0": lambda root: write_python(root / "cifar10", protocol=0),
    "python, protocol 4": lambda root: write_python(root, protocol=4),
    "numpy": lambda root: write_numpy(root / "cifar10", 1, ".npy"),
    "numpy parts, compressed": lambda root: write_numpy(root, 3, ".npy.xz"),
}


@pytest.fixture
def small_files(monkeypatch):
    """Lets binary files have another number of images than the official ones."""
    return partial(monkeypatch.setattr, "lbp.data.cifar._RECORDS")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_layout_gives_the_same_data(tmp_path, layout, split, small_files):
    small_files({"train": 2, "test": 10}[split])
    LAYOUTS[layout](tmp_path)
    data = load("CIFAR-10", split, tmp_path)
    assert np.array_equal(data.images.numpy(), IMAGES.astype(np.float32) / np.float32(255))
    assert data.labels.tolist() == LABELS.tolist()
    assert len(data.mean) == len(data.std) == 3


def test_a_binary_file_of_the_official_length_is_read(tmp_path):
    first = np.concatenate([LABELS[:1].astype(np.uint8), IMAGES[0].reshape(-1)])
    path = tmp_path / "test_batch.bin"
    path.write_bytes(first.tobytes())
    os.truncate(path, 10_000 * 3073)
    data = load("cifar10", "test", tmp_path)
    assert len(data) == 10_000
    assert int(data.labels[0]) == LABELS[0]


@pytest.mark.parametrize("length", [0, 3073, 9_999 * 3073, 10_000 * 3073 - 1, 10_001 * 3073])
@pytest.mark.parametrize("split", ["train", "test"])
def test_binary_files_of_another_length_are_refused_though_they_end_with_a_record(tmp_path, split, length):
    write_binary(tmp_path)
    name = "data_batch_1.bin" if split == "train" else "test_batch.bin"
    os.truncate(tmp_path / name, length)
    with pytest.raises(DataError, match=rf"{name}: {length} bytes, expected 30730000 \(10000 images"):
        load("cifar10", split, tmp_path)


def test_python_batches_whose_labels_only_agree_with_the_images_in_total_are_refused(tmp_path):
    write_python(tmp_path)
    for number, labels in ((1, LABELS[:1]), (2, LABELS[:3])):
        content = {**batch(IMAGES[:2], LABELS[:2]), b"labels": labels.tolist()}
        (tmp_path / f"data_batch_{number}").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(DataError, match="data_batch_1: 2 images but 1 labels"):
        load("cifar10", "train", tmp_path)


@pytest.mark.parametrize("layout", ["binary", "python"])
def test_a_missing_batch_is_named(tmp_path, layout):
    (write_binary if layout == "binary" else write_python)(tmp_path)
    name = f"data_batch_3{'.bin' if layout == 'binary' else ''}"
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing.*kriz"):
        load("cifar10", "train", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": None}, "no 'data' entry"),
        ({b"data": IMAGES.reshape(10, -1)[:, :100].copy()}, "no 'data' entry of shape"),
        ({b"data": IMAGES.reshape(10, -1).astype(np.float32)}, "only uint8"),
        ({b"labels": "abc"}, "no 'labels' entry"),
        ({b"labels": [0.5] * 10}, "no 'labels' entry"),
        ({b"labels": [2**70] * 10}, "labels must be in"),
        ({b"labels": [0] * 9}, "10 images but 9 labels"),
        ({b"labels": [12] * 10}, "labels run from 12 to 12"),
    ],
)
def test_a_batch_with_wrong_contents_is_refused(tmp_path, change, message):
    (tmp_path / "test_batch").write_bytes(pickle.dumps({**batch(), **change}, 2))
    with pytest.raises(DataError, match=message):
        load("cifar10", "test", tmp_path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("test_images", IMAGES.astype(np.float64).transpose(0, 2, 3, 1), "type float64, expected uint8"),
        ("test_images", IMAGES[:, 0], "expected 4-d"),
        ("test_images", IMAGES, r"expected \(3, 32, 32\)"),
        ("test_images", np.array([[[[{"a": 1}]]]], dtype=object), "type object"),
        ("test_labels", LABELS.astype(np.float32), "type float32, expected integers"),
        ("test_labels", LABELS.astype("m8[s]"), "expected 1-d numbers"),
        ("test_labels", LABELS[:5], "10 images but 5 labels"),
        ("test_labels", LABELS - 1, "labels run from -1 to 8"),
    ],
)
def test_numpy_files_with_wrong_contents_are_refused(tmp_path, name, array, message):
    write_numpy(tmp_path, 1, ".npy")
    np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        load("cifar10", "test", tmp_path)


@pytest.mark.parametrize("suffix", [".npy", ".npy.xz"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY\x01\x00",
        b"no array at all",
        b"\x93NUMPY\x01\x00\x10\x00{'descr': (       \n",
        b"\x93NUMPY\x01\x00\x16\x00{b'descr': 1, 'a': 2}\n",
        None,
    ],
)
def test_damaged_numpy_files_are_refused(tmp_path, suffix, content):
    write_numpy(tmp_path, 1, suffix)
    path = tmp_path / f"test_images{suffix}"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(DataError, match="test_images"):
        load("cifar10", "test", tmp_path)


@pytest.mark.parametrize("suffix", [".npy", ".npy.xz"])
def test_a_file_of_two_arrays_is_refused(tmp_path, suffix):
    write_numpy(tmp_path, 1, suffix)
    path = tmp_path / f"test_images{suffix}"
    # Streams of xz may follow one another, as arrays in a file may.
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(DataError, match=r"test_images.*: more than one array"):
        load("cifar10", "test", tmp_path)


def test_a_compressed_file_without_its_end_is_refused(tmp_path):
    write_numpy(tmp_path, 1, ".npy.xz")
    path = tmp_path / "test_images.npy.xz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"test_images.npy.xz: not a readable numpy array"):
        load("cifar10", "test", tmp_path)


def test_missing_labels_and_missing_data_are_named(tmp_path):
    with pytest.raises(DataError, match=r"looked for test_batch.bin.*nothing.*kriz"):
        load("cifar10", "test", tmp_path)
    write_numpy(tmp_path, 1, ".npy")
    (tmp_path / "test_labels.npy").unlink()
    with pytest.raises(DataError, match=r"test_labels.npy.* is missing"):
        load("cifar10", "test", tmp_path)
