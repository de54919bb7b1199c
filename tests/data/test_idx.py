"""IDX files: read exactly, and refused with the reason when damaged."""

import gzip
import struct

import numpy as np
import pytest

from lbp.data import DataError, load

IMAGES = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
LABELS = np.array([7, 0, 9], dtype=np.uint8)


def idx_images(images=IMAGES, magic=0x803):
    return struct.pack(">4I", magic, *images.shape) + images.tobytes()


def idx_labels(labels=LABELS, magic=0x801):
    return struct.pack(">2I", magic, len(labels)) + labels.tobytes()


def write(folder, images=None, labels=None, prefix="t10k", compress=False):
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
        if content is not None:
            path = folder / (f"{stem}.gz" if compress else stem)
            path.write_bytes(gzip.compress(content) if compress else content)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "mnist"), ("MNIST", "."), ("fashion_mnist", "FashionMNIST/raw")]
)
@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_images_and_labels_are_read(tmp_path, compress, name, folder, split, prefix):
    write(tmp_path / folder, idx_images(), idx_labels(), prefix, compress)
    data = load(name, split, tmp_path)
    assert data.images.shape == (3, 1, 28, 28)
    assert np.array_equal(data.images.numpy(), IMAGES[:, None].astype(np.float32) / np.float32(255))
    assert data.labels.tolist() == [7, 0, 9]
    assert data.num_classes == 10
    assert data.image_shape == (1, 28, 28)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (idx_images(magic=0x801), idx_labels(), "magic number 0x00000801, expected 0x00000803"),
        (idx_images(), idx_labels(magic=0x1234), "magic number 0x00001234, expected 0x00000801"),
        (idx_images()[:-1], idx_labels(), r"announces \[3, 28, 28\] = 2352 bytes of data, the file has only 2351"),
        (idx_images() + b"x", idx_labels(), "the file has more"),
        (b"\x00\x00", idx_labels(), "shorter than an IDX header"),
        (b"", idx_labels(), "shorter than an IDX header"),
        (idx_images(), idx_labels(LABELS[:2]), "3 images but 2 labels"),
        (idx_images(), idx_labels(np.array([1, 2, 10], np.uint8)), "labels run from 1 to 10, expected 0 to 9"),
        (idx_images(IMAGES[:, :20]), idx_labels(), "20x28, expected 28x28"),
        (idx_images(IMAGES[:0]), idx_labels(LABELS[:0]), "no images"),
        (struct.pack(">4I", 0x803, 2**31, 2**31, 2**31), idx_labels(), "more than"),
        (None, idx_labels(), "images-idx3-ubyte.* is missing"),
        (idx_images(), None, "labels-idx1-ubyte.* is missing"),
    ],
)
def test_damaged_files_are_named_with_what_was_expected(tmp_path, images, labels, message):
    write(tmp_path, images, labels)
    with pytest.raises(DataError, match=message) as caught:
        load("mnist", "test", tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("cut", [5, 30, -4])
def test_truncated_compressed_files_are_refused(tmp_path, cut):
    write(tmp_path, idx_images(), idx_labels(), compress=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz"):
        load("mnist", "test", tmp_path)


def test_a_file_that_is_not_gzip_is_refused(tmp_path):
    write(tmp_path, idx_images(), idx_labels(), compress=True)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(idx_labels())
    with pytest.raises(DataError, match="cannot be read"):
        load("mnist", "test", tmp_path)


@pytest.mark.parametrize(("name", "origin"), [("mnist", "mnist"), ("fashion-mnist", "zalandoresearch")])
def test_missing_files_say_what_was_looked_for_and_where_it_comes_from(tmp_path, name, origin):
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte.*nothing.*{origin}"):
        load(name, "train", tmp_path)
