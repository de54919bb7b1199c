"""Small networks and data for the tests of training."""

import pytest
import torch

from lbp.data import Dataset, load


@pytest.fixture(scope="session")
def digits():
    return load("digits", "train").first(200)


@pytest.fixture
def synthetic():
    """Makes a data set of random images with random labels."""

    def make(count=24, shape=(1, 8, 8), classes=10, seed=0):
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(count, *shape, generator=generator)
        labels = torch.randint(classes, (count,), generator=generator)
        channels = shape[0]
        return Dataset("synthetic", images, labels, classes, mean=(0.5,) * channels, std=(0.25,) * channels)

    return make
