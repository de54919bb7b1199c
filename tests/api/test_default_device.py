"""Everything is made where the network and its inputs are, whatever device PyTorch makes tensors on by default."""

import copy

import pytest
import torch
from onnx_import.graphs import model, node, normal, save
from torch import nn
from torch.nn import functional
from verification.small_properties import network, stated

import lbp
from lbp.data import load
from lbp.evaluation import EvaluationSettings, evaluate
from lbp.onnx_import import load_onnx
from lbp.training import Trainer
from lbp.training.config import TrainingSettings
from lbp.verification import AttackSettings, CascadeSettings, falsify, run_cascade
from lbp.verification.properties import Verdict, verify_property

METHODS = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "CROWN")
QUICK = AttackSettings(steps=3, restarts=1, queries=5)


class Applied(nn.Module):
    """A convolution, and an operation on its post-activations."""

    def __init__(self, operation):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.operation = operation

    def forward(self, x):
        return self.operation(functional.relu(self.conv(x)))


OPERATIONS = {
    "nothing": lambda y: y,
    "max pooling": lambda y: functional.max_pool2d(y, 3, 1, 1),
    "average pooling": lambda y: functional.avg_pool2d(y, 3, 2, 1),
    "adaptive pooling": lambda y: functional.adaptive_avg_pool2d(y, 3),
    "mean": lambda y: y.mean((2, 3)),
    "moved numbers": lambda y: y.flip(2),
    "repeated numbers": lambda y: y[:, :, [0, 2, 2]],
    "a number added": lambda y: y + 0.1,
    "affine": lambda y: 1 - y / 3,
}


def images(count=2):
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


def labels(model, x):
    return model(x).argmax(1)


# The device "meta" takes everything and tells nothing, so that a tensor made there is an error wherever it is read.
def elsewhere():
    return torch.device("meta")


@pytest.mark.parametrize("rounding", ["nearest", "outward"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_bounds_are_the_same(name, method, rounding):
    applied, x = Applied(OPERATIONS[name]), images()

    def bounds():
        bounded = lbp.BoundedModule(copy.deepcopy(applied), x)
        region = lbp.BoundedTensor(x, lbp.PerturbationLpNorm(eps=0.05))
        return bounded.compute_bounds(region, method=method, rounding=rounding)

    expected = bounds()
    with elsewhere():
        found = bounds()
    assert all(torch.equal(bound, same) for bound, same in zip(found, expected, strict=True))


def test_images_are_verified_attacked_and_evaluated():
    net, x = classifier(), images(6)
    target = labels(net, x)

    def verdicts():
        settings = CascadeSettings(eps=0.05, attack=QUICK)
        found = [(image.verdict, image.margins) for image in run_cascade(net, x, target, settings)]
        result = lbp.verify(net, x, target, 0.05, methods=("IBP", "CROWN"))
        attacked = falsify(net, x, target, 0.3, settings=QUICK)
        evaluated = evaluate(net, x, target, EvaluationSettings(eps=0.05, methods=("IBP",), attack=QUICK))
        return (
            found,
            result.verified_error,
            attacked.found.tolist(),
            [(image.verified, image.margins, image.attacked_by) for image in evaluated],
        )

    expected = verdicts()
    with elsewhere():
        assert verdicts() == expected


@pytest.mark.parametrize(("limit", "verdict"), [(-10.0, Verdict.HOLDS), (10.0, Verdict.VIOLATED)])
def test_properties_are_read_and_decided(limit, verdict):
    net = network()
    with elsewhere():
        assert verify_property(net, stated(-1, 1, f"(<= Y_0 {limit})"), (2,)).verdict is verdict


def test_a_file_is_read(tmp_path):
    statistics = {"scale": normal(2), "b": normal(2), "mean": normal(2), "var": normal(2) ** 2}
    nodes = [
        node("Conv", ["x", "w"], "z"),
        node("BatchNormalization", ["z", *statistics], "n"),
        node("Clip", ["n", "low"]),
    ]
    path = save(tmp_path, model(nodes, [1, 2, 5, 7], {**statistics, "w": normal(2, 2, 3, 3), "low": normal()}))
    x = torch.rand(1, 2, 5, 7)
    expected = load_onnx(path)(x)
    with elsewhere():
        read = load_onnx(path)
    assert torch.equal(read(x), expected)


def test_a_network_is_trained():
    def trained(device):
        net = classifier_of_digits()
        with device:
            Trainer(net, load("digits", "train").first(24), TrainingSettings(eps=0.05, epochs=1)).run_epoch()
        return net[1].weight

    assert torch.equal(trained(elsewhere()), trained(torch.device("cpu")))


def classifier_of_digits():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
