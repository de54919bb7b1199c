"""Small networks, trained and untrained, and digits to verify."""

import pytest
import torch
from torch import nn

from lbp.data import load
from lbp.nn import ParamRamp
from lbp.training import TrainingSettings, train

ACTIVATIONS = {
    "relu": lambda size: nn.ReLU(),
    "leaky-relu": lambda size: nn.LeakyReLU(0.1),
    "ramp": lambda size: ParamRamp(size, eta=0.05, r=0.7),
}


def make_network(activation):
    torch.manual_seed(3)
    layers = [nn.Flatten()]
    for inputs, outputs in ((64, 24), (24, 16), (16, 12)):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation](outputs)]
    return nn.Sequential(*layers, nn.Linear(12, 10))


@pytest.fixture(scope="session")
def digits():
    return load("digits", "test").first(40)


@pytest.fixture(scope="session", params=ACTIVATIONS)
def trained(request):
    """A network of every activation, trained with interval bounds for a few epochs, in float64."""
    model = make_network(request.param)
    settings = TrainingSettings(
        eps=0.04, epochs=14, batch_size=64, lr=5e-3, warm_up_epochs=2, ramp_epochs=6, kappa_end=0.3
    )
    train(model, load("digits", "train").first(800), settings)
    return model.double().eval()


@pytest.fixture(params=ACTIVATIONS)
def untrained(request):
    return make_network(request.param).double().eval()
