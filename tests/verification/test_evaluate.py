"""Every method and attack on every image, and certificates held against attacks."""

import importlib
from dataclasses import replace

import pytest
import torch
from torch import nn

from lbp.evaluation import EvaluatedImage, EvaluationSettings, errors_of, evaluate, summary_of
from lbp.verification import AttackSettings, ContradictionError, Falsification, falsify, pgd, verify

EPS = 0.03
METHODS = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "CROWN")
QUICK = AttackSettings(steps=20, restarts=2, queries=60)
SETTINGS = EvaluationSettings(eps=EPS, methods=METHODS, attack=QUICK)


def run(model, digits, settings=SETTINGS, **options):
    return evaluate(model, digits.images.double(), digits.labels, settings, **options)


@pytest.fixture(scope="session")
def evaluated(trained, digits):
    """All images of a network, evaluated at once."""
    return run(trained, digits)


def test_verdicts_are_those_of_every_method_with_all_lines(trained, digits, evaluated):
    assert [image.index for image in evaluated] == list(range(len(digits)))
    for strategy in ("tight", "adaptive"):
        reference = verify(
            trained, digits.images.double(), digits.labels, EPS, clip=(0, 1), methods=METHODS, strategy=strategy
        )
        for name, method in reference.methods.items():
            assert [image.verified[f"{name} {strategy}"] for image in evaluated] == method.verified.tolist()
            bounds = [image.margins[f"{name} {strategy}"] for image in evaluated]
            assert bounds == pytest.approx(method.margins.amin(1).tolist())


def test_attacks_are_those_on_the_correct_images(trained, digits, evaluated):
    found = falsify(trained, digits.images.double(), digits.labels, EPS, clip=(0, 1), settings=QUICK)
    for image, attack, margin in zip(evaluated, found.found_by, found.margins.tolist(), strict=True):
        if image.prediction == image.label:
            assert image.attacked_by == attack
            assert image.attack_margin == pytest.approx(margin)
        else:
            assert image.attacked_by is image.attack_margin is None


def test_errors_lie_in_the_order_that_soundness_and_theorem_2_ask_for(evaluated):
    errors = errors_of(evaluated, QUICK)
    assert 0 < errors["clean"] < errors["PGD"] <= errors["attacked"] <= errors["verified"] < 1
    tight = [errors[f"{method} tight"] for method in METHODS]
    assert tight[0] == max(tight)
    assert tight[-1] == min(tight)
    assert errors["verified"] <= min(errors[f"{method} {kind}"] for method in METHODS for kind in ("tight", "adaptive"))


def test_nothing_depends_on_the_batches(trained, digits, evaluated):
    for image in run(trained, digits, indices=range(3, 14), batch_size=4):
        other = evaluated[image.index]
        assert (image.verified, image.attacked_by) == (other.verified, other.attacked_by)
        assert image.margins == pytest.approx(other.margins, rel=1e-9, abs=1e-9)


def test_batches_are_handed_over_as_they_are_done(trained, digits):
    batches = []
    images = run(trained, digits, batch_size=15, on_images=batches.append)
    assert [len(batch) for batch in batches] == [15, 15, 10]
    assert [image for batch in batches for image in batch] == images


def test_a_false_verdict_is_raised_with_the_image_and_loses_nothing_before_it(trained, digits, monkeypatch):
    # A bound that claims too much, from the first image on that an attack fools.
    x, labels = digits.images.double(), digits.labels
    fooled = falsify(trained, x, labels, EPS, clip=(0, 1), settings=QUICK).found & (trained(x).argmax(1) == labels)
    target = int(fooled.nonzero()[0])
    verification = importlib.import_module("lbp.verification.close_calls")
    honest = verification.margin_bounds

    def planted(net, images, labels, *, method, **options):
        bounds = honest(net, images, labels, method=method, **options)
        hit = (images == x[target]).flatten(1).all(1)
        return torch.where(hit[:, None] & (method == "LBP"), bounds.abs() + 1, bounds)

    monkeypatch.setattr(verification, "margin_bounds", planted)
    seen = []
    with pytest.raises(ContradictionError, match=rf"image {target} is verified by LBP tight lines .*found a point"):
        run(trained, digits, batch_size=5, on_images=seen.extend)
    assert [image.index for image in seen] == list(range(target // 5 * 5))


def rounded_away():
    """A network whose first logit is the larger one at (2^20, 2^20), and the smaller one in any float32 evaluation.

    (1 + 2^-12)^2 is 1 + 2^-11 + 2^-24, of which float32 loses the last term.
    """
    rough = 1 + 2.0**-12
    layers = [nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2)]
    with torch.no_grad():
        layers[0].weight.copy_(torch.diag(torch.tensor([rough, 1.0])))
        layers[2].weight.copy_(torch.diag(torch.tensor([rough, 1 + 2.0**-11])))
        layers[4].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        layers[4].bias.copy_(torch.tensor([-(2.0**-5), 0.0]))
    return nn.Sequential(*layers).eval()


def test_what_rounding_alone_misclassifies_is_recorded_and_no_contradiction(monkeypatch):
    # Two images that somebody verifies, both misclassified in float32, the second one in real arithmetic as well.
    model, x = rounded_away(), torch.tensor([[2.0**20, 2.0**20], [2.0**19, 2.0**20]])
    labels = torch.tensor([0, 0])
    assert model(x).argmax(1).tolist() == [1, 1]
    evaluation = importlib.import_module("lbp.evaluation.evaluate")
    honest = evaluation.verify

    def planted(*arguments, **options):
        found = honest(*arguments, **options)
        holds = torch.ones(len(found.labels), dtype=torch.bool)
        method = replace(found.methods["IBP"], verified=holds, margins=torch.ones(len(holds), 1))
        return replace(found, predictions=found.labels, methods={"IBP": method})

    def attacked(model, x, labels, eps, **options):
        return Falsification(["PGD"] * len(x), x, torch.full((len(x),), -0.1), 1 - labels)

    monkeypatch.setattr(evaluation, "verify", planted)
    monkeypatch.setattr(evaluation, "falsify", attacked)
    settings = EvaluationSettings(eps=0.0, clip=None, methods=("IBP",), strategies=("tight",))
    (image,) = evaluate(model, x, labels, settings, indices=[0])
    assert (image.verified["IBP tight"], image.attacked_by, image.attacked_by_rounding) == (True, None, "PGD")
    assert summary_of([image], QUICK)["verified_but_misclassified_by_rounding"] == 1
    strict = settings.model_copy(update={"rounding": "inference"})
    for index, level in ((1, settings), (0, strict)):
        with pytest.raises(ContradictionError, match=f"image {index} is verified by IBP tight"):
            evaluate(model, x, labels, level, indices=[index])


def test_descent_of_many_steps_is_what_the_attack_settings_say():
    assert (EvaluationSettings(eps=0.1).attack.steps, EvaluationSettings(eps=0.1).attack.restarts) == (200, 10)


def test_the_pgd_error_counts_every_image_that_descent_fools(trained, digits):
    settings = EvaluationSettings(eps=EPS, attack=AttackSettings(steps=20, restarts=2, queries=0), methods=("IBP",))
    x, labels = digits.images.double(), digits.labels
    errors = errors_of(run(trained, digits, settings), settings.attack)
    wrong = trained(x).argmax(1) != labels
    seeds = [1_000_003 * index for index in range(len(x))]
    for loss in ("margin", "cross-entropy"):
        points = pgd(trained, x, labels, EPS, clip=(0, 1), steps=20, restarts=2, loss=loss, early_stop=True, seed=seeds)
        wrong |= trained(points).argmax(1) != labels
    assert errors["PGD"] == errors["attacked"] == pytest.approx(float(wrong.double().mean()))


def test_figures_of_the_summary_are_means():
    def image(index, prediction, verified, margin, attacked_by=None):
        return EvaluatedImage(
            index=index, label=0, prediction=prediction, attacked_by=attacked_by,
            verified={"IBP tight": verified}, margins={"IBP tight": margin},
        )  # fmt: skip

    images = [
        image(0, 0, True, 1.0),
        image(1, 0, False, -2.0, "PGD margin"),
        image(2, 0, False, None, "Square"),
        image(3, 1, False, -1.0),
    ]
    summary = summary_of(images, QUICK)
    expected = {"clean": 0.25, "IBP tight": 0.75, "verified": 0.75, "PGD": 0.5, "attacked": 0.75}
    assert summary["errors"] == expected
    assert summary["mean_margin"] == {"IBP tight": None}
    assert summary["falsified_by"] == {"PGD margin": 1, "Square": 1}
    assert summary_of(images[:2], QUICK)["mean_margin"] == {"IBP tight": -0.5}


@pytest.mark.parametrize(
    ("restarts", "queries", "missing"), [(1, 1, set()), (1, 0, set()), (0, 1, {"PGD"}), (0, 0, {"PGD", "attacked"})]
)
def test_an_attack_that_did_not_run_has_no_error(evaluated, restarts, queries, missing):
    errors = errors_of(evaluated, AttackSettings(restarts=restarts, queries=queries))
    assert {name for name, share in errors.items() if share is None} == missing
