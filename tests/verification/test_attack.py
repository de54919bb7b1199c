"""The attack that verdicts are held against."""

import pytest
import torch
from torch import nn

from lbp.errors import InvalidInputError
from lbp.verification import pgd


def linear_model():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]))
        model[1].bias.zero_()
    return model


def test_the_worst_point_of_a_linear_model_is_found():
    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    worst = pgd(linear_model(), x, torch.tensor([0]), 0.1)
    assert worst[0, :3].tolist() == pytest.approx([0.4, 0.6, 0.4])


def test_points_stay_in_the_region_and_in_the_data_range():
    torch.manual_seed(0)
    x = torch.rand(20, 4, dtype=torch.float64)
    for eps in (0.0, 0.3):
        worst = pgd(linear_model(), x, torch.zeros(20, dtype=torch.int64), eps, clip=(0, 1))
        assert (worst - x).abs().max() <= eps + 1e-12
        assert worst.min() >= 0
        assert worst.max() <= 1


def test_the_same_seed_gives_the_same_points():
    x, labels = torch.rand(5, 4, dtype=torch.float64), torch.ones(5, dtype=torch.int64)
    first, second = (pgd(linear_model(), x, labels, 0.2, steps=2, seed=5) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("eps", [-0.1, float("nan")])
def test_bad_radii_are_refused(eps):
    with pytest.raises(InvalidInputError, match="eps must be >= 0"):
        pgd(linear_model(), torch.rand(1, 4), torch.tensor([0]), eps)
