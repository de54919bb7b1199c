"""Data sets by name."""

import pytest
import torch

from lbp.data import DATASETS, DataError, load


@pytest.fixture(scope="module")
def digits():
    return {split: load("digits", split) for split in ("train", "test")}


@pytest.mark.parametrize(("split", "count"), [("train", 1433), ("test", 364)])
def test_digits_are_real_images_in_the_unit_range(digits, split, count):
    data = digits[split]
    assert data.images.shape == (count, 1, 8, 8)
    assert data.images.dtype == torch.float32
    assert data.labels.dtype == torch.int64
    assert (data.images.min(), data.images.max()) == (0.0, 1.0)


def test_digits_are_split_evenly_over_the_classes(digits):
    train, test = (digits[split].labels.bincount() for split in ("train", "test"))
    assert torch.equal(test, ((train + test) + 4) // 5)


def test_the_split_of_digits_is_fixed_and_disjoint(digits):
    rows = [{tuple(image.flatten().tolist()) for image in digits[split].images} for split in ("train", "test")]
    assert not rows[0] & rows[1]
    assert digits["test"].labels[:10].tolist() == load("Digits", "test").labels[:10].tolist()


def test_first_limits_the_examples(digits):
    assert len(digits["test"].first(5)) == 5
    assert digits["test"].first(None) is digits["test"]


def test_unknown_names_and_splits_are_refused():
    with pytest.raises(DataError, match=", ".join(DATASETS)):
        load("imagenet", "test")
    with pytest.raises(DataError, match="train or test"):
        load("digits", "validation")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_files_need_an_existing_data_root(tmp_path, name):
    with pytest.raises(DataError, match="--data-root"):
        load(name, "test")
    with pytest.raises(DataError, match="is not a folder"):
        load(name, "test", tmp_path / "nowhere")
