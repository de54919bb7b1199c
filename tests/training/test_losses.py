"""Losses on margin bounds."""

import pytest
import torch
from torch.nn import functional as F

from lbp.specification import margins
from lbp.training import certified_loss, margin_loss


def test_exact_margins_give_the_cross_entropy():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 2])
    exact = torch.einsum("bsk,bk->bs", margins(labels, 5).double(), logits)
    torch.testing.assert_close(margin_loss(exact), F.cross_entropy(logits, labels))


def test_looser_margins_cost_more():
    tight = torch.randn(4, 3, dtype=torch.float64)
    assert margin_loss(tight - 0.1) > margin_loss(tight)


def test_huge_margins_neither_overflow_nor_vanish():
    assert margin_loss(torch.full((1, 9), -1e4)).item() == pytest.approx(1e4, rel=1e-3)
    assert margin_loss(torch.full((1, 9), 1e4)).item() == 0.0


@pytest.mark.parametrize("kappa", [0.0, 0.25, 1.0, torch.tensor(0.5)])
def test_kappa_mixes_the_clean_loss_and_the_bound_loss(kappa):
    logits, labels, lower = torch.randn(3, 4), torch.tensor([0, 3, 1]), torch.randn(3, 3)
    expected = kappa * F.cross_entropy(logits, labels) + (1 - kappa) * margin_loss(lower)
    torch.testing.assert_close(certified_loss(logits, labels, lower, kappa), expected)
