import pytest
import torch
from torch import nn


@pytest.fixture
def point():
    torch.manual_seed(1)
    return torch.randn(2, 4, dtype=torch.float64)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.LeakyReLU(0.1), nn.Linear(5, 3)).double().eval()
