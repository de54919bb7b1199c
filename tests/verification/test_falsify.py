"""Attacks in a row, their confirmation on the network, and certificates held against them."""

import importlib

import pytest
import torch
from torch import nn

from lbp.perturbations import PerturbationLpNorm
from lbp.verification import AttackSettings, ContradictionError, check_consistent, falsify, verify

EPS = 0.03
QUICK = AttackSettings(steps=20, restarts=2, queries=60)


def test_successes_are_misclassified_points_of_the_region(trained, digits):
    x = digits.images.double()
    found = falsify(trained, x, digits.labels, EPS, clip=(0, 1), settings=QUICK)
    region = PerturbationLpNorm(eps=EPS, clip=(0, 1)).region(x)
    logits = trained(found.points)
    wrong = logits.argmax(1) != digits.labels
    assert 0 < int(found.found.sum()) < len(digits)
    assert torch.equal(found.found, wrong)
    assert torch.equal(found.predictions, logits.argmax(1))
    assert torch.equal(found.found, found.margins < 0)
    assert bool(((found.points >= region.lower) & (found.points <= region.upper)).all())


def test_the_outcome_for_an_example_does_not_depend_on_its_batch(trained, digits):
    x = digits.images.double()
    whole = falsify(trained, x, digits.labels, EPS, clip=(0, 1), settings=QUICK)
    part = falsify(trained, x[5:9], digits.labels[5:9], EPS, clip=(0, 1), settings=QUICK, indices=range(5, 9))
    assert whole.found_by[5:9] == part.found_by
    torch.testing.assert_close(whole.points[5:9], part.points)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (AttackSettings(restarts=0, queries=50), {"Square", None}),
        (AttackSettings(steps=10, restarts=1, queries=0), {"PGD cross-entropy", "PGD margin", None}),
        (AttackSettings(restarts=0, queries=0), {None}),
    ],
)
def test_attacks_can_be_left_out(trained, digits, settings, names):
    found = falsify(trained, digits.images.double(), digits.labels, EPS, clip=(0, 1), settings=settings)
    assert set(found.found_by) <= names
    if names == {None}:
        assert torch.equal(found.points, digits.images.double())


@pytest.mark.parametrize("step", [0.2, float("nan")])
def test_points_outside_of_the_region_do_not_count(monkeypatch, step):
    def leave(model, x, labels, eps, **options):
        return x + torch.tensor([1.0, 0.0]) * step

    module = importlib.import_module("lbp.verification.falsify")
    monkeypatch.setattr(module, "_attacks", lambda settings: {"outside": leave})
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, 0.0]]))
        model.bias.copy_(torch.tensor([0.6, 0.0]))
    x, labels = torch.full((1, 2), 0.5), torch.tensor([0])
    assert falsify(model, x, labels, 0.25, settings=QUICK).found.tolist() == [step == 0.2]
    found = falsify(model, x, labels, 0.15, settings=QUICK)
    assert found.found_by == [None]
    assert torch.equal(found.points, x)
    assert found.margins.item() == pytest.approx(0.1)


def test_a_network_that_gives_nan_is_misclassified():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].bias[0] = torch.nan
    found = falsify(model, torch.rand(2, 4), torch.tensor([0, 1]), 0.1, settings=QUICK)
    assert found.predictions.tolist() == [-1, -1]
    assert bool(found.margins.isnan().all())
    assert bool(found.found.all())


def test_a_planted_false_verdict_is_raised_with_the_index_of_its_image(trained, digits):
    x = digits.images.double()
    found = falsify(trained, x, digits.labels, EPS, clip=(0, 1), settings=QUICK)
    honest = verify(trained, x, digits.labels, EPS, clip=(0, 1), methods="CROWN")
    smallest = honest.methods["CROWN"].margins.amin(1)
    certificates = [
        ("CROWN", float(bound)) if ok else None for ok, bound in zip(honest.verified, smallest, strict=True)
    ]
    indices = list(range(100, 100 + len(digits)))
    check_consistent(indices, certificates, found)
    false = int(found.found.nonzero()[0])
    certificates[false] = ("CROWN", 0.25)
    with pytest.raises(ContradictionError, match=rf"image {100 + false} is verified by CROWN \(.*at least 0.25\).*PGD"):
        check_consistent(indices, certificates, found)


def test_points_that_are_not_confirmed_do_not_count_and_are_searched_further(trained, digits):
    x, asked = digits.images.double(), []

    def confirm(points, labels):
        asked.append(len(points))
        assert bool((trained(points).argmax(1) != labels).all())
        return torch.arange(len(points)) % 2 == 1

    plain = falsify(trained, x, digits.labels, EPS, clip=(0, 1), settings=QUICK)
    found = falsify(trained, x, digits.labels, EPS, clip=(0, 1), settings=QUICK, confirm=confirm)
    assert asked[0] == plain.found_by.count("PGD cross-entropy")
    assert asked[1] == (asked[0] + 1) // 2, "the attack goes on where what it found was not confirmed"
    assert asked[2] == (asked[1] + 1) // 2, "the next attack finds again what was not confirmed"
    assert found.found_by.count("PGD cross-entropy") == asked[0] // 2 + asked[1] // 2
    assert int(found.found.sum()) < int(plain.found.sum())


class Sums(nn.Module):
    """Two classes, the margin a sum over the pixels; by `offset` smaller under autocast."""

    def __init__(self, offset):
        super().__init__()
        self.offset = offset
        self.weight = nn.Parameter(torch.rand(64, generator=torch.Generator().manual_seed(0)) - 0.5)

    def forward(self, x):
        margin = 0.8 + ((x - 0.5).flatten(1) * self.weight).sum(1)
        if torch.is_autocast_enabled("cpu"):
            margin = margin - self.offset
        return torch.stack((margin, torch.zeros_like(margin)), 1)


@pytest.mark.parametrize(("offset", "depth"), [(0.2, 0.0), (0.0, 0.3)], ids=["by full precision", "by the caller"])
def test_an_attack_goes_on_where_the_point_at_which_it_stopped_is_rejected(offset, depth):
    model, labels = Sums(offset), torch.zeros(20, dtype=torch.int64)
    x = torch.full((20, 1, 8, 8), 0.5)
    rejected = []

    def confirm(points, labels):
        deep = model(points)[:, 0] < -depth
        rejected.append(int((~deep).sum()))
        return deep

    settings = AttackSettings(restarts=0, queries=400)
    with torch.autocast("cpu"):
        found = falsify(model, x, labels, 0.1, settings=settings, confirm=confirm if depth else None)
    assert found.found_by == ["Square"] * 20
    assert bool((found.margins < -depth).all())
    if depth:
        assert rejected[0] > 0 == rejected[1]
