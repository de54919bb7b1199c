"""Specification matrices of classification."""

import pytest
import torch

from lbp.errors import InvalidInputError
from lbp.specification import Flatten, get_spec_matrix, margins


def test_rows_are_label_minus_every_other_class():
    C = margins(torch.tensor([1, 0]), 3)
    assert C.tolist() == [[[-1, 1, 0], [0, 1, -1]], [[1, -1, 0], [1, 0, -1]]]


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_rows_give_the_margins_of_the_outputs(num_classes):
    labels = torch.arange(num_classes)
    z = torch.randn(num_classes, num_classes)
    found = (margins(labels, num_classes) @ z.unsqueeze(-1)).squeeze(-1)
    for example, label in enumerate(labels):
        others = [i for i in range(num_classes) if i != label]
        torch.testing.assert_close(found[example], z[example, label] - z[example, others])


def test_dtype_follows_the_argument_and_the_input():
    labels = torch.tensor([0, 1])
    assert margins(labels, 3).dtype == torch.float32
    assert margins(labels, 3, dtype=torch.float64).dtype == torch.float64
    X = torch.zeros(2, 4, dtype=torch.float64)
    assert torch.equal(get_spec_matrix(X, labels, 3), margins(labels, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (torch.tensor([0, 3]), 3, "between 0 and 2, got 3 at position 1"),
        (torch.tensor([-1]), 3, "between 0 and 2, got -1"),
        (torch.tensor([[0]]), 3, "one-dimensional"),
        (torch.tensor([0.0]), 3, "whole numbers"),
        ([1], 3, r"labels must be a tensor of int64 labels, shape \[B\], got \[1\] \(list\)"),
        (1, 3, "labels must be a tensor of int64 labels"),
        (torch.tensor([0], device="meta"), 3, "labels is on the device meta"),
        (torch.tensor([0]), 1, "num_classes must be at least 2"),
        (torch.tensor([0]), 3.0, r"num_classes must be a whole number, got 3\.0"),
        (torch.tensor([0]), "3", "num_classes must be a whole number, got '3'"),
        (torch.tensor([0]), 2**30, "num_classes must be at most 536,870,912, got 1,073,741,824"),
        (torch.tensor([0]), 2**70, "num_classes must be at most"),
    ],
)
def test_bad_labels_are_refused(labels, classes, message):
    with pytest.raises(InvalidInputError, match=message):
        margins(labels, classes)


def test_labels_are_checked_where_they_are():
    assert margins(torch.tensor([0, 1]), 3, device=torch.device("meta")).shape == (2, 2, 3)
    with pytest.raises(InvalidInputError, match="got 3 at position 0"):
        margins(torch.tensor([3]), 3, device=torch.device("meta"))


def test_no_examples_give_an_empty_specification():
    assert margins(torch.zeros(0, dtype=torch.int64), 4).shape == (0, 3, 4)


def test_flatten_keeps_the_batch():
    assert Flatten()(torch.zeros(2, 3, 4)).shape == (2, 12)
