"""What float32 leaves open by rounding alone is decided in float64, rounded outward; what is wrong stays unverified."""

import pytest
import torch
from rounding.test_verdict import SIZE, deceptive_network
from torch import nn

import lbp
from lbp.verification import CascadeSettings, close_calls, run_cascade

# Tight lines let bounds jump as eps grows, so that no radius is close. These do not.
STRATEGY = "same-slope"
X = torch.tensor([[0.2, 0.9, 0.4, 0.6]])
IMAGES = torch.cat([1 - X, X, 0.1 * X])  # products of several images round otherwise than those of one
METHODS = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "CROWN")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 3)).eval()


def verified(x, eps, method, **keywords):
    model = network()
    return lbp.verify(model, x, model(x).argmax(1), eps, methods=method, strategy=STRATEGY, **keywords).methods[method]


def just_open(method):
    """The radius just beyond those at which float32 alone verifies the second image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(close_calls, "CLOSE", 0.0)
        low, high = 0.0, 1.0
        for _ in range(28):
            middle = (low + high) / 2
            low, high = (middle, high) if verified(IMAGES, middle, method).verified[1] else (low, middle)
    return high


@pytest.mark.parametrize("method", METHODS)
def test_a_close_call_is_verified_in_float64(method, monkeypatch):
    eps, x = just_open(method), IMAGES
    found, labels = verified(x, eps, method), network()(x).argmax(1)
    assert found.verified[1]
    in_float64 = lbp.verify(network().double(), x.double(), labels, eps, methods=method, strategy=STRATEGY)
    assert (found.margins <= in_float64.methods[method].margins).all()
    settings = CascadeSettings(eps=eps, methods=(method,), clip=None, strategy=STRATEGY, attack=None)
    verdicts = {verdict.index: verdict.verdict for verdict in run_cascade(network(), x, labels, settings)}
    assert verdicts[1] == "verified"
    # "inference" speaks of the evaluation in float32, of which float64 knows nothing.
    assert not verified(X, eps, method, rounding="inference").verified.any()
    monkeypatch.setattr(close_calls, "CLOSE", 0.0)
    alone = verified(x, eps, method)
    assert not alone.verified[1]
    assert torch.equal(found.margins[::2], alone.margins[::2])


@pytest.mark.parametrize("method", METHODS)
def test_what_only_rounding_makes_look_safe_is_no_close_call_that_passes(method, monkeypatch):
    monkeypatch.setattr(close_calls, "CLOSE", torch.inf)
    x, labels = torch.full((1, 2), SIZE), torch.tensor([0])
    assert not lbp.verify(deceptive_network(), x, labels, 0.0, methods=method).methods[method].verified.any()
