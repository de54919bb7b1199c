"""The 8x8 digits that come with scikit-learn (Alpaydin and Kaynak, 1998): real scans, no download."""

import numpy as np
import torch

from lbp.data.dataset import Dataset

_TEST_SHARE = 5
_SEED = 0


def load_digits(split: str) -> Dataset:
    """Loads the digits, scaled to [0, 1]: [N, 1, 8, 8].

    A fifth of every class, drawn with a fixed seed, is the test split; the order within a split is random but fixed.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    # RandomState's streams never change between releases of numpy.
    generator = np.random.RandomState(_SEED)
    order = generator.permutation(len(bunch.target))
    labels = bunch.target[order]
    rank = np.empty(len(labels), dtype=np.int64)
    for label in range(10):
        rank[labels == label] = np.arange(np.count_nonzero(labels == label))
    chosen = order[(rank % _TEST_SHARE == 0) == (split == "test")]
    images = torch.from_numpy(bunch.images[chosen]).to(torch.float32).unsqueeze(1) / 16.0
    return Dataset("digits", images, torch.from_numpy(bunch.target[chosen].astype(np.int64)), num_classes=10)
