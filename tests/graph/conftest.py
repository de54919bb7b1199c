import pytest
import torch


@pytest.fixture
def point():
    torch.manual_seed(1)
    return torch.randn(2, 4, dtype=torch.float64)
