"""Tiny-ImageNet's folders."""

import re

import numpy as np
import pytest
import torch
from PIL import Image, features

from lbp.data import DataError, load

CLASSES = ("n02", "n01", "n10")
GREY = {"n02": 40, "n01": 120, "n10": 200}


def write(path, grey, mode="RGB", side=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), grey, dtype=np.uint8)).convert(mode).save(path, format="JPEG")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    folder.mkdir()
    (folder / "wnids.txt").write_text("\n".join(CLASSES))
    for name in CLASSES:
        for number in range(2):
            write(folder / "train" / name / "images" / f"{name}_{number}.JPEG", GREY[name], "L" if number else "RGB")
        write(folder / "val" / "images" / f"val_{name}.JPEG", GREY[name])
    (folder / "val" / "val_annotations.txt").write_text(
        "".join(f"val_{name}.JPEG\t{name}\t0\t0\t9\t9\n" for name in CLASSES)
    )
    return tmp_path


@pytest.mark.parametrize(("split", "labels"), [("train", [0, 0, 1, 1, 2, 2]), ("test", [1, 0, 2])])
def test_labels_count_the_classes_in_alphabetical_order(root, split, labels):
    data = load("Tiny-ImageNet", split, root)
    assert data.labels.tolist() == labels
    assert data.num_classes == 3
    assert data.images.shape == (len(labels), 3, 64, 64)
    greys = torch.tensor([GREY[sorted(CLASSES)[label]] for label in labels]) / 255
    torch.testing.assert_close(data.images.mean((1, 2, 3)), greys, atol=0.01, rtol=0)


def test_the_middle_is_cut_out(root):
    data = load("tiny-imagenet", "test", root)
    assert torch.equal(data.cropped(56, 56).images, data.images[:, :, 4:60, 4:60])
    assert data.cropped(64, 64) is data
    with pytest.raises(DataError, match="cannot cut 65x64 out of images of 64x64"):
        data.cropped(65, 64)


@pytest.mark.parametrize("kind", ["AVIF", "PNG"])
@pytest.mark.parametrize("damaged", [False, True])
def test_images_of_another_format_are_refused_whole_or_damaged(root, kind, damaged):
    path = root / "tiny-imagenet-200" / "train" / "n01" / "images" / "n01_0.JPEG"
    if not features.check("avif") and kind == "AVIF":
        pytest.skip("this Pillow does not write AVIF")
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(path, format=kind)
    if damaged:
        content = path.read_bytes()
        path.write_bytes(content[:-8] + b"\0" * 8)
    with pytest.raises(DataError, match=r"n01_0\.JPEG: not a readable JPEG image"):
        load("tiny-imagenet", "train", root)


def test_what_is_wrong_is_named(root):
    folder = root / "tiny-imagenet-200"
    write(folder / "train" / "n01" / "images" / "n01_0.JPEG", 3, side=32)
    with pytest.raises(DataError, match=r"n01_0.JPEG: 32x32 pixels, expected 64x64"):
        load("tiny-imagenet", "train", root)
    (folder / "train" / "n01" / "images" / "n01_0.JPEG").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"n01_0\.JPEG: not a readable JPEG image"):
        load("tiny-imagenet", "train", root)
    (folder / "val" / "val_annotations.txt").write_text("val_n01.JPEG\tn99\n")
    with pytest.raises(DataError, match="line 1: expected a file and a class"):
        load("tiny-imagenet", "test", root)
    (folder / "wnids.txt").write_text("n01\nn02\nn01\n")
    with pytest.raises(DataError, match=r"wnids\.txt: a class is named twice"):
        load("tiny-imagenet", "train", root)
    (folder / "wnids.txt").unlink()
    with pytest.raises(DataError, match=r"looked for wnids\.txt"):
        load("tiny-imagenet", "test", root)


@pytest.mark.parametrize("name", ["../images/val_n01.JPEG", "{root}/val_n01.JPEG", "..", "."])
def test_names_that_lead_out_of_their_folder_are_refused(root, name):
    folder = root / "tiny-imagenet-200"
    name = name.format(root=folder / "val" / "images")
    annotations, classes = folder / "val" / "val_annotations.txt", folder / "wnids.txt"
    annotations.write_text(f"val_n02.JPEG\tn02\n{name}\tn01\n")
    with pytest.raises(DataError, match=rf"val_annotations\.txt, line 2: '{re.escape(name)}' is no name of a file"):
        load("tiny-imagenet", "test", root)
    classes.write_text(f"n01\n{name}\n")
    with pytest.raises(DataError, match=rf"wnids\.txt: '{re.escape(name)}' is no name of a class"):
        load("tiny-imagenet", "train", root)


def test_an_empty_name_is_no_file(root):
    (root / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text("\tn01\n")
    with pytest.raises(DataError, match="line 1: '' is no name of a file"):
        load("tiny-imagenet", "test", root)
