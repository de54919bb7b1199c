"""Bounds of the networks of the table: every architecture, activation and normalisation, on a small image."""

import pytest
import torch

from lbp.models import ARCHITECTURES, Normalization, build
from lbp.verification import verify

EPS = 0.02


def assert_sound(model, x, labels, methods):
    """No point of the region, corners and random ones, has a margin below its bound."""
    result = verify(model, x, labels, EPS, clip=(0, 1), methods=methods)
    torch.manual_seed(1)
    steps = torch.empty(30, *x.shape, dtype=x.dtype).uniform_(-1, 1)
    steps[:15] = steps[:15].sign()
    with torch.no_grad():
        logits = model((x + EPS * steps).clamp(0, 1).flatten(0, 1))
    targets = labels.repeat(len(steps))[:, None]
    keep = torch.ones_like(logits, dtype=torch.bool).scatter_(1, targets, False)
    actual = (logits.gather(1, targets) - logits)[keep].view(len(steps), len(x), -1)
    for method in result.methods.values():
        assert bool((method.margins <= actual + 1e-10).all()), method.method


def randomised(model):
    """Gives normalisation layers and ramps other values than their initial ones."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith((".running_mean", ".r")):
            value.uniform_(0.1, 0.6)
        elif name.endswith(".running_var"):
            value.uniform_(0.5, 2.0)
    return model.double().eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("activation", "eta"), [("relu", 0.0), ("leaky-relu", 0.1), ("ramp", 0.05)])
def test_every_architecture_with_every_activation(name, activation, eta):
    torch.manual_seed(0)
    model = randomised(build(name, (1, 5, 5), 3, activation, eta=eta))
    assert_sound(model, torch.rand(2, 1, 5, 5).double(), torch.tensor([0, 2]), ["IBP", "CROWN-IBP", "CROWN-LBP"])


def test_normalisation_inside_the_network():
    torch.manual_seed(0)
    normalization = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    model = randomised(build("DM-Small", (3, 6, 6), 4, "ramp", eta=0.01, normalization=normalization))
    assert_sound(model, torch.rand(2, 3, 6, 6).double(), torch.tensor([1, 3]), ["IBP", "LBP", "CROWN"])
