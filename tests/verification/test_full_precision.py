"""Verdicts are claimed from evaluations in full precision, whatever the switches of the process say."""

import pytest
import torch
from torch import nn

from lbp.evaluation import EvaluationSettings, evaluate
from lbp.verification import AttackSettings, CascadeSettings, falsify, run_cascade, verify
from lbp.verification.properties import Verdict, verify_property
from lbp.vnnlib import parse_vnnlib

SWITCHES = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
QUICK = AttackSettings(steps=5, restarts=1, queries=20)
UNTIL_THE_END = CascadeSettings(eps=0.05, methods=("CROWN",), attack=QUICK)


@pytest.fixture(autouse=True)
def shortcuts():
    """TF32 is on around every test."""
    before = [switch.fp32_precision for switch in SWITCHES]
    for switch in SWITCHES:
        switch.fp32_precision = "tf32"
    yield
    for switch, value in zip(SWITCHES, before, strict=True):
        switch.fp32_precision = value


def is_full():
    return all(switch.fp32_precision == "ieee" for switch in SWITCHES) and not torch.backends.cudnn.enabled


class Watched(nn.Module):
    """Notes for what it is evaluated on whether that is in full precision."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        if type(x) is torch.Tensor:
            self.seen.extend((row, is_full()) for row in x.detach().clone())
        return x

    def certain(self, point):
        """Whether a point was evaluated in full precision."""
        return any(full and torch.equal(row, point) for row, full in self.seen)


@pytest.fixture
def model(digits):
    torch.manual_seed(0)
    return nn.Sequential(Watched(), nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).eval()


@pytest.fixture
def images(model, digits):
    """Images, and what the network takes them for."""
    x = digits.images[:6]
    labels = model(x).argmax(1)
    model[0].seen.clear()
    return x, labels


@pytest.mark.parametrize(
    "run",
    [
        lambda model, x, labels: verify(model, x, labels, 0.05, methods="IBP"),
        lambda model, x, labels: run_cascade(model, x, labels, UNTIL_THE_END.model_copy(update={"attack": None})),
        lambda model, x, labels: evaluate(
            model, x, labels, EvaluationSettings(eps=0.05, attack=AttackSettings(restarts=0, queries=0))
        ),
    ],
    ids=["verify", "cascade", "evaluate"],
)
def test_clean_predictions_are_those_of_full_precision(model, images, run):
    run(model, *images)
    assert all(model[0].certain(point) for point in images[0])
    assert all(full for _, full in model[0].seen)


def test_a_misclassified_point_is_evaluated_in_full_precision(model, images):
    x, labels = images
    found = falsify(model, x, labels, 0.4, clip=(0, 1), settings=QUICK)
    assert bool(found.found.all())
    assert all(model[0].certain(point) for point in found.points)
    assert all(model[0].certain(point) for point in x), "an attack leaves alone what is misclassified to begin with"


def test_every_evaluation_of_a_counterexample_is_in_full_precision():
    calls = []

    def evaluation(x):
        calls.append(is_full())
        return x.sum().reshape(1)

    class Sum(nn.Module):
        def forward(self, x):
            return x.sum(1, keepdim=True)

    box = "".join(f"(declare-const X_{i} Real)(assert (>= X_{i} 0))(assert (<= X_{i} 1))" for i in range(2))
    problem = parse_vnnlib(box + "(declare-const Y_0 Real)(assert (>= Y_0 1.5))")
    found = verify_property(Sum(), problem, (2,), evaluations=[evaluation], rounding="nearest")
    assert found.verdict is Verdict.VIOLATED
    assert calls
    assert all(calls)


def test_autocast_around_a_verification_misclassifies_nothing():
    """In bfloat16 both logits are 1."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.001]]))
    x, labels = torch.ones(1, 2), torch.tensor([1])
    settings = CascadeSettings(eps=0.0, attack=QUICK, methods=("CROWN",))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).argmax(1).tolist() == [0]
        assert verify(model, x, labels, 0.0, methods="IBP").predictions.tolist() == [1]
        assert falsify(model, x, labels, 0.0, settings=QUICK).found_by == [None]
        assert [found.verdict for found in run_cascade(model, x, labels, settings)] == ["verified"]
