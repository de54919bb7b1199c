"""The overview picture."""

import io
import math

import matplotlib.image
import pytest
import torch

from lbp.plots import Panel, plot_overview
from lbp.strategies import STATUSES
from lbp.verification import LayerStatus, MethodResult, VerificationResult


def result(margins):
    methods = {
        name: MethodResult(
            name,
            margins,
            (margins > 0).all(1),
            torch.ones(len(margins), dtype=torch.bool),
            torch.ones(len(margins)).double(),
        )
        for name in ("IBP", "CROWN")
    }
    labels = torch.zeros(len(margins), dtype=torch.int64)
    return VerificationResult(0.1, math.inf, "tight", "outward", False, labels, labels, methods)


@pytest.mark.parametrize("networks", [1, 2])
@pytest.mark.parametrize("margins", [torch.randn(20, 9), torch.zeros(3, 9), torch.full((2, 9), math.nan)])
def test_the_picture_is_a_png_that_grows_with_the_networks(networks, margins):
    status = [LayerStatus(f"act{k}", dict.fromkeys(STATUSES, 1 / 6)) for k in (1, 2)]
    content = plot_overview([Panel(f"net {k}", status, result(margins)) for k in range(networks)], "title")
    pixels = matplotlib.image.imread(io.BytesIO(content))
    assert pixels.shape[1] == 640 * networks
    assert pixels[..., :3].std() > 0.05, "something is drawn"
    assert (pixels[:, [0, -1], :3] == 1).all(), "nothing is cut off at the sides"
