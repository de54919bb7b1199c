"""LeakyReLU with a slope in its state."""

import math

import pytest
import torch

from lbp.nn import LeakyReLU


@pytest.mark.parametrize("eta", [-0.5, 2.0, math.nan])
def test_a_state_with_a_slope_that_has_no_bounds_is_refused(eta):
    with pytest.raises(RuntimeError, match=r"eta must be in \[0, 1\]"):
        LeakyReLU().load_state_dict({"eta": torch.tensor(eta)})


def test_a_state_gives_its_slope():
    activation = LeakyReLU(0.5)
    activation.load_state_dict(LeakyReLU(0.25).state_dict())
    assert activation(torch.tensor([-1.0])) == -0.25
