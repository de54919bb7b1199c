"""The cascade: the verdicts of its methods, each image once, costly methods on full batches."""

import math

import pytest
import torch
from torch import nn
from verification.test_evaluate import rounded_away

from lbp.errors import InvalidInputError
from lbp.evaluation import EvaluationSettings, evaluate
from lbp.verification import (
    AttackSettings,
    CascadeSettings,
    count_verdicts,
    falsify,
    run_cascade,
    verify,
)
from lbp.verification.real_margins import RealMargins

EPS = 0.03
QUICK = AttackSettings(steps=20, restarts=2, queries=40)


def cascade(model, digits, batch_size=None, indices=None, on_verdicts=None, **settings):
    settings = CascadeSettings(**{"eps": EPS, "attack": QUICK, **settings})
    return run_cascade(
        model, digits.images.double(), digits.labels, settings,
        indices=indices, batch_size=batch_size, on_verdicts=on_verdicts,
    )  # fmt: skip


def by_index(verdicts):
    return {verdict.index: verdict for verdict in verdicts}


def test_verified_is_what_the_methods_verify_and_falsified_is_misclassified_somewhere(trained, digits):
    verdicts = by_index(cascade(trained, digits))
    assert sorted(verdicts) == list(range(len(digits)))
    methods = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "CROWN")
    reference = verify(trained, digits.images.double(), digits.labels, EPS, clip=(0, 1), methods=methods, cascade=True)
    for index, first in enumerate(reference.verified_by()):
        verdict = verdicts[index]
        assert (verdict.label, verdict.prediction) == (digits.labels[index], reference.predictions[index])
        if verdict.verdict == "verified":
            assert verdict.by == first
            assert all(
                bound == pytest.approx(float(reference.methods[name].margins[index].min()))
                for name, bound in verdict.margins.items()
            )
        else:
            assert first is None
        assert (verdict.verdict == "misclassified") == (not bool(reference.correct[index]))
    counts = count_verdicts(verdicts.values())
    assert sum(counts.values()) == len(digits)
    assert counts["verified"] > 0
    assert counts["falsified"] > 0


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_verdicts_do_not_depend_on_the_batches(trained, digits, batch_size):
    whole, split = (by_index(cascade(trained, digits, batch_size=size)) for size in (None, batch_size))
    for index, verdict in whole.items():
        assert (split[index].verdict, split[index].by) == (verdict.verdict, verdict.by)


def test_parts_of_the_images_give_the_verdicts_of_the_whole(trained, digits):
    whole = by_index(cascade(trained, digits))
    parts = [by_index(cascade(trained, digits, indices=range(start, len(digits), 2))) for start in (0, 1)]
    assert sorted(parts[0]) == list(range(0, len(digits), 2))
    for index, verdict in (parts[0] | parts[1]).items():
        assert (whole[index].verdict, whole[index].by) == (verdict.verdict, verdict.by)


def test_verdicts_are_told_as_soon_as_they_are_known(trained, digits):
    told = []
    returned = cascade(trained, digits, batch_size=5, on_verdicts=told.append)
    assert sum(told, start=[]) == returned  # noqa: RUF017
    assert len(told) > 5
    assert all(told)


def test_costly_methods_wait_for_full_batches(trained, digits, monkeypatch):
    import lbp.verification.cascade as module

    sizes = []
    bound = module.margin_bounds

    def counting(net, x, labels, **options):
        sizes.append((options["method"], len(x)))
        return bound(net, x, labels, **options)

    monkeypatch.setattr(module, "margin_bounds", counting)
    cascade(trained, digits, batch_size=4, attack=None, methods=("IBP", "CROWN"))
    crown = [size for name, size in sizes if name == "CROWN"]
    assert all(size == 4 for size in crown[:-1])
    assert next(position for position, (name, _) in enumerate(sizes) if name == "CROWN") < len(sizes) - len(crown)


def test_a_counterexample_is_found_again_from_what_is_recorded(trained, digits):
    verdict = next(found for found in cascade(trained, digits) if found.verdict == "falsified")
    one = slice(verdict.index, verdict.index + 1)
    again = falsify(
        trained, digits.images[one].double(), digits.labels[one], EPS,
        clip=(0, 1), settings=QUICK, indices=[verdict.index],
    )  # fmt: skip
    assert again.found_by == [verdict.by]
    assert int(again.predictions) == verdict.attack_class != verdict.label
    assert float(again.margins) == pytest.approx(verdict.attack_margin)
    assert verdict.attack_margin < 0


def test_images_that_were_not_attacked_have_no_attack_margin(trained, digits):
    for verdict in cascade(trained, digits):
        attacked = verdict.verdict in ("open", "falsified") or verdict.by in ("LBP", "CROWN-LBP", "CROWN")
        assert (verdict.attack_margin is not None) == attacked


def test_without_attack_nothing_is_falsified(trained, digits):
    counts = count_verdicts(cascade(trained, digits, attack=None))
    assert counts["falsified"] == 0
    assert counts["open"] > 0


def test_other_norms_are_verified_without_attack(trained, digits):
    verdicts = by_index(cascade(trained, digits, norm=2.0, eps=0.1, attack=None, methods=("CROWN",)))
    reference = verify(trained, digits.images.double(), digits.labels, 0.1, norm=2, clip=(0, 1), methods="CROWN")
    assert [verdicts[index].verdict == "verified" for index in range(len(digits))] == reference.verified.tolist()
    with pytest.raises(InvalidInputError, match="the norm is 2; verify without attack"):
        cascade(trained, digits, norm=2.0)


@pytest.mark.parametrize("fate", ["NaN", "overflow"])
def test_bounds_that_are_not_finite_verify_nothing(digits, fate):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)).double()
    with torch.no_grad():
        if fate == "NaN":
            model[3].bias[0] = math.nan
        else:
            model[1].weight.abs_().mul_(1e300)
            model[3].weight.mul_(1e300)
    counts = count_verdicts(cascade(model, digits, attack=None))
    assert counts["verified"] == 0
    if fate == "NaN":
        assert counts["misclassified"] == len(digits)


@pytest.mark.parametrize("fate", ["NaN", "crossed"])
def test_hidden_bounds_that_are_no_intervals_concern_their_images_alone(trained, digits, monkeypatch, fate):
    """As after an overflow, or by rounding to nearest: CROWN-LBP then finds the hidden bounds itself."""
    import lbp.verification.cascade as module

    settings = {"attack": None, "methods": ("LBP", "CROWN-LBP")}
    whole, chosen = by_index(cascade(trained, digits, **settings)), module._chosen

    def spoilt(node, places):
        lower, upper = (side.clone() for side in chosen(node, places))
        odd = [number for number, place in enumerate(places) if place % 2]
        lower[odd, 0] = math.nan if fate == "NaN" else upper[odd, 0] + 1e-9
        return lower, upper

    monkeypatch.setattr(module, "_chosen", spoilt)
    found = by_index(cascade(trained, digits, **settings))
    assert sum("CROWN-LBP" in verdict.margins for verdict in found.values()) > 3
    for index, verdict in whole.items():
        assert (found[index].verdict, found[index].by) == (verdict.verdict, verdict.by)
        assert found[index].margins == pytest.approx(verdict.margins)


def test_an_image_whose_hidden_bounds_overflow_stays_open_beside_one_that_is_verified():
    # Around (0, 0) the second layer has bounds of size 1e40, too large for float32; around (-10, 0) nothing is active.
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        for layer, weight in ((0, 1e20), (2, 1e20), (4, 1e-30)):
            model[layer].weight.copy_(weight * torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
            nn.init.zeros_(model[layer].bias)
        model[4].bias[0] = 1
    x, labels = torch.tensor([[0.0, 0.0], [-10.0, 0.0]]), torch.zeros(2, dtype=torch.int64)
    settings = CascadeSettings(eps=1, clip=None, attack=None, methods=("LBP", "CROWN-LBP"))
    verdicts = by_index(run_cascade(model, x, labels, settings))
    assert verdicts[0].margins == {"LBP": None, "CROWN-LBP": None}
    assert [verdicts[index].verdict for index in (0, 1)] == ["open", "verified"]


@pytest.mark.parametrize(
    ("rounding", "verdicts"), [("outward", ["open", "falsified"]), ("inference", ["falsified", "falsified"])]
)
def test_what_rounding_alone_misclassifies_is_not_falsified_where_bounds_speak_of_real_arithmetic(
    monkeypatch, rounding, verdicts
):
    """Two images whose clean predictions are planted; the network misclassifies both in float32, one in any case."""
    import lbp.verification.cascade as module

    model, x = rounded_away(), torch.tensor([[2.0**20, 2.0**20], [2.0**19, 2.0**20]])
    monkeypatch.setattr(module, "predicted_classes", lambda logits: torch.zeros(len(logits), dtype=torch.int64))
    settings = CascadeSettings(eps=0.0, clip=None, methods=("CROWN",), attack=QUICK, rounding=rounding)
    found = by_index(run_cascade(model, x, torch.tensor([0, 0]), settings, batch_size=1))
    assert all(verdict.attack_margin < 0 for verdict in found.values())
    assert [found[index].verdict for index in (0, 1)] == verdicts


def identity(pairs):
    """Layers that give a > b > 0 back, while the radii of intervals double with every pair."""
    layers = []
    for _ in range(pairs):
        for weight in ([[1.0, 1.0], [1.0, -1.0]], [[0.5, 0.5], [0.5, -0.5]]):
            linear = nn.Linear(2, 2, bias=False)
            linear.weight = nn.Parameter(torch.tensor(weight))
            layers += [linear, nn.ReLU()]
    return layers


def deep():
    """A network whose margin of class 0 at (a, b) is a - 0.9."""
    last = nn.Linear(2, 2)
    with torch.no_grad():
        last.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        last.bias.copy_(torch.tensor([-0.9, 0.0]))
    return nn.Sequential(*identity(60), last).eval()


def test_clear_counterexamples_of_deep_networks_are_confirmed():
    settings = CascadeSettings(eps=0.3, clip=None, methods=("IBP",), attack=QUICK)
    (verdict,) = run_cascade(deep(), torch.tensor([[1.0, 0.5]]), torch.tensor([0]), settings)
    assert verdict.verdict == "falsified"


@pytest.mark.parametrize("at_once", [1, 2, 512])
def test_points_that_intervals_cannot_tell_are_asked_of_back_substitution_in_parts(monkeypatch, at_once):
    import lbp.verification.real_margins as module

    monkeypatch.setattr(module, "LARGEST_BATCH", at_once)
    points = torch.tensor([[0.7, 0.5], [1.0, 0.5], [0.8, 0.4], [0.95, 0.1], [0.5, 0.1]])
    real = module.RealMargins(deep(), points[:1], 2)
    labels = torch.tensor([0, 0, 0, 0, 1])
    assert real.certainly_misclassified(points, labels).tolist() == [True, False, True, False, False]
    assert real.certainly_misclassified(points[:0], labels[:0]).tolist() == []


def test_methods_that_the_memory_budget_does_not_allow_confirm_nothing():
    points, labels = torch.tensor([[0.7, 0.5]]), torch.tensor([0])
    assert RealMargins(deep(), points, 2, "1GiB").certainly_misclassified(points, labels).tolist() == [True]
    assert RealMargins(deep(), points, 2, 1000).certainly_misclassified(points, labels).tolist() == [False]


def test_labels_that_do_not_fit_are_refused(trained, digits):
    with pytest.raises(
        InvalidInputError, match=r"labels must be int64 of shape \[40\], got torch.int64 of shape \[39\]"
    ):
        run_cascade(trained, digits.images.double(), digits.labels[1:], CascadeSettings(eps=EPS))
    with pytest.raises(InvalidInputError, match="labels run from 1 to 10, expected 0 to 9"):
        run_cascade(trained, digits.images.double(), digits.labels + 1, CascadeSettings(eps=EPS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(40, 1, 8, 8)}, "x is torch.float32, the model's weights are torch.float64; convert one"),
        ({"x": torch.zeros(40, dtype=torch.float64)}, r"x must be a batch of inputs .* got shape \[40\]"),
        ({"indices": [3, 1, 3]}, "indices must differ, 3 is among them twice"),
        ({"indices": [40]}, "those of the 40 images, 0 to 39, got 40"),
        ({"indices": [0, -1]}, "those of the 40 images, 0 to 39, got -1"),
        ({"batch_size": -1}, "batch_size must be a whole number of at least 1, got -1"),
        ({"batch_size": 1.5}, "batch_size must be a whole number of at least 1, got 1.5"),
        ({"x": [0.0] * 40}, "x must be a tensor, got list; convert it"),
        ({"labels": [0] * 40}, "labels must be a tensor, got list; convert it"),
        (
            {"x": torch.zeros(40, 64).double().to_sparse()},
            "x must be a dense tensor, got one of layout torch.sparse_coo",
        ),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
    ],
)
@pytest.mark.parametrize(
    ("run", "settings"), [(run_cascade, CascadeSettings(eps=EPS)), (evaluate, EvaluationSettings(eps=EPS))]
)
def test_images_indices_and_batch_sizes_that_do_not_fit_are_refused(digits, run, settings, change, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
    call = {"x": digits.images.double(), "labels": digits.labels, **change}
    with pytest.raises(InvalidInputError, match=message):
        run(model, call.pop("x"), call.pop("labels"), settings, **call)
