"""Verdicts: sound, ordered as theorem 2 says, and the same however the work is divided."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from lbp.bounded import BoundedModule, BoundedTensor
from lbp.errors import LbpError
from lbp.perturbations import PerturbationLpNorm
from lbp.specification import margins
from lbp.verification import METHODS, certainly_above, method_names, pgd, verify

EPS = 0.03


def verify_digits(model, digits, **options):
    return verify(model, digits.images.to(next(model.parameters()).dtype), digits.labels, EPS, clip=(0, 1), **options)


def test_no_image_is_both_verified_and_attacked(trained, digits):
    result = verify_digits(trained, digits)
    attacked = pgd(trained, digits.images.double(), digits.labels, EPS, clip=(0, 1))
    fooled = trained(attacked).argmax(1) != digits.labels
    assert (attacked - digits.images).abs().max() <= EPS + 1e-12
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert bool(result.verified.any()), "the test has nothing to say otherwise"
    assert bool(fooled.any()), "the test has nothing to say otherwise"
    for method in result.methods.values():
        assert not bool((method.verified & fooled).any())


def test_margin_bounds_hold_at_attacked_points(untrained, digits):
    result = verify_digits(untrained, digits)
    attacked = pgd(untrained, digits.images.double(), digits.labels, EPS, clip=(0, 1))
    logits = untrained(attacked)
    for index, label in enumerate(digits.labels.tolist()):
        others = [other for other in range(10) if other != label]
        actual = logits[index, label] - logits[index, others]
        for method in result.methods.values():
            assert bool((method.margins[index] <= actual + 1e-12).all()), method.method


def assert_ordered(result):
    methods = result.methods
    for looser, tighter in (
        ("IBP", "LBP"),
        ("IBP", "CROWN-IBP"),
        ("LBP", "CROWN-LBP"),
        ("CROWN-IBP", "CROWN-LBP"),
        ("CROWN-LBP", "CROWN"),
    ):
        assert bool((methods[looser].margins <= methods[tighter].margins + 1e-10).all()), (looser, tighter)
    errors = result.verified_errors()
    assert errors["IBP"] >= errors["CROWN"] == result.verified_error


def test_tight_methods_are_ordered_by_theorem_2_on_trained_networks(trained, digits):
    assert_ordered(verify_digits(trained, digits))


def test_tight_methods_are_ordered_by_theorem_2_on_untrained_networks(untrained, digits):
    assert_ordered(verify_digits(untrained, digits))


@pytest.mark.parametrize("untrained", ["relu", "ramp"], indirect=True)
def test_crown_is_the_textbook_s_and_bounds_every_hidden_neuron_by_back_substitution_alone(untrained, digits):
    x, labels, how = digits.images[:4].double(), digits.labels[:4], {"methods": "CROWN", "strategy": "adaptive"}
    found = verify(untrained, x, labels, 0.3, rounding="nearest", **how).methods["CROWN"].margins
    region = BoundedTensor(x, PerturbationLpNorm(eps=0.3))
    rows = margins(labels, 10, dtype=torch.float64)

    def bounds(sparse):
        options = {"sparse_intermediate_bounds": sparse, "activation_bound_option": "adaptive"}
        net = BoundedModule(untrained, region[:1], options)
        return net.compute_bounds(x=(region,), C=rows, method="CROWN", bound_upper=False)[0].detach()

    torch.testing.assert_close(found, bounds(sparse=False))
    assert not torch.allclose(found, bounds(sparse=True))


def test_the_error_of_a_method_is_its_own_outside_of_a_cascade(trained, digits):
    result = verify_digits(trained, digits, methods=("CROWN", "IBP"))
    errors = result.verified_errors()
    assert list(errors) == ["CROWN", "IBP"]
    for name, method in result.methods.items():
        assert errors[name] == pytest.approx(1 - int(method.verified.sum()) / len(digits))
    assert errors["CROWN"] < errors["IBP"]


def test_a_radius_of_zero_gives_the_margins_themselves(trained, digits):
    x = digits.images.double()
    result = verify(trained, x, digits.labels, 0.0)
    logits = trained(x)
    for index, label in enumerate(digits.labels.tolist()):
        others = [other for other in range(10) if other != label]
        exact = logits[index, label] - logits[index, others]
        for method in result.methods.values():
            torch.testing.assert_close(method.margins[index], exact, rtol=1e-9, atol=1e-9)
    assert torch.equal(result.verified, result.correct)


def test_the_cascade_reaches_the_same_verdicts(trained, digits):
    whole, cascade = (verify_digits(trained, digits, cascade=cascade) for cascade in (False, True))
    assert torch.equal(whole.verified, cascade.verified)
    assert whole.verified_by() == cascade.verified_by()
    errors = list(cascade.verified_errors().values())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == cascade.verified_error
    left = cascade.correct.clone()
    for method in cascade.methods.values():
        assert torch.equal(method.computed, left), "a method sees what is left by the cheaper ones"
        assert bool(method.margins[~method.computed].isnan().all())
        left &= ~method.verified


def test_the_cascade_runs_the_cheapest_method_first(trained, digits):
    shuffled = ("CROWN", "Relaxed-CROWN-3", "lbp", "Relaxed-CROWN-2", "IBP", "forward+backward", "crown-ibp")
    result = verify_digits(trained, digits.first(3), methods=shuffled, cascade=True)
    expected = ["IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "Relaxed-CROWN-2", "Relaxed-CROWN-3", "CROWN"]
    assert list(result.methods) == expected


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_verdicts_do_not_depend_on_the_batches(trained, digits, batch_size):
    few = digits.first(10)
    whole, split = verify_digits(trained, few), verify_digits(trained, few, batch_size=batch_size)
    for name in METHODS:
        torch.testing.assert_close(split.methods[name].margins, whole.methods[name].margins, rtol=1e-9, atol=1e-9)
    assert torch.equal(split.verified, whole.verified)


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_every_norm_is_sound_against_random_points(trained, digits, norm):
    torch.manual_seed(0)
    radius = 10 * EPS if norm == 1 else EPS
    x = digits.images.double()
    result = verify(trained, x, digits.labels, radius, norm=norm, methods=["IBP", "CROWN-LBP"])
    step = torch.randn(20, *x.shape, dtype=torch.float64)
    step *= radius / step.flatten(2).norm(p=norm, dim=2)[..., None, None, None]
    labels = digits.labels.expand(20, -1).flatten()
    wrong = (trained((x + step).flatten(0, 1)).argmax(1) != labels).view(20, -1).any(0)
    assert bool(result.verified.any())
    assert not bool((result.verified & wrong).any())


def test_misclassified_examples_are_never_verified(trained, digits):
    wrong = (digits.labels + 1) % 10
    result = verify(trained, digits.images.double(), wrong, 0.0)
    assert torch.equal(result.verified, trained(digits.images.double()).argmax(1) == wrong)


@pytest.mark.parametrize("fate", ["NaN", "overflow"])
def test_a_network_that_gives_no_finite_bounds_verifies_nothing(digits, fate):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    with torch.no_grad():
        if fate == "NaN":
            model[3].bias[digits.labels[0]] = math.nan
        else:
            model[1].weight.abs_().mul_(1e37)
            model[3].weight.mul_(1e38)
    result = verify(model, digits.images, digits.labels, EPS)
    assert not bool(result.verified.any())
    assert result.verified_error == 1.0


def test_mode_and_gradients_of_the_model_are_left_alone(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10)).train()
    model[3].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = verify(model, digits.images, digits.labels, EPS)
    assert model.training
    assert not model[3].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not result.methods["CROWN"].margins.requires_grad


def test_progress_is_reported_per_method(trained, digits):
    calls = []
    verify_digits(trained, digits, methods=["IBP", "LBP"], batch_size=15, progress=lambda *call: calls.append(call))
    assert calls == [(name, done, 40) for name in ("IBP", "LBP") for done in (15, 30, 40)]


def test_figures_and_records_are_json_and_agree_with_the_result(trained, digits):
    result = verify_digits(trained, digits, cascade=True)
    summary = json.loads(json.dumps(result.summary(), allow_nan=False))
    records = json.loads(json.dumps(result.records(), allow_nan=False))
    assert summary["verified_error"] == pytest.approx(sum(record["verified_by"] is None for record in records) / 40)
    assert summary["clean_error"] == pytest.approx(sum(r["label"] != r["prediction"] for r in records) / 40)
    assert summary["methods"]["IBP"]["computed"] == int(result.correct.sum())
    assert {record["verified_by"] for record in records} <= {None, *METHODS}


@pytest.mark.parametrize("methods", ["IBP", " ibp"])
def test_one_method_may_be_given_by_its_name(trained, digits, methods):
    one, several = (verify_digits(trained, digits.first(5), methods=given) for given in (methods, ["IBP"]))
    assert list(one.methods) == ["IBP"]
    assert torch.equal(one.methods["IBP"].margins, several.methods["IBP"].margins)


@pytest.mark.parametrize("cascade", [False, True])
def test_an_example_with_nan_among_its_logits_is_not_classified_correctly(digits, cascade):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    with torch.no_grad():
        model[3].bias[3] = math.nan
    labels = torch.full_like(digits.labels, 3)
    result = verify(model, digits.images, labels, EPS, cascade=cascade)
    assert result.clean_error == 1.0
    assert not bool(result.correct.any())
    assert not bool(result.verified.any())


@pytest.mark.parametrize("eps", [torch.tensor(EPS, dtype=torch.float64), torch.tensor([EPS], dtype=torch.float64)])
def test_the_radius_may_be_a_tensor_with_one_element(trained, digits, eps):
    x = digits.images.double()
    one = verify(trained, x, digits.labels, eps, methods="CROWN-IBP")
    number = verify(trained, x, digits.labels, EPS, methods="CROWN-IBP")
    assert one.eps == EPS
    assert torch.equal(one.methods["CROWN-IBP"].margins, number.methods["CROWN-IBP"].margins)


def test_method_names_are_canonical_and_unique():
    assert method_names(["backward", "CROWN", " ibp", "relaxed-crown-5"]) == ["CROWN", "IBP", "Relaxed-CROWN-5"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": -0.1}, "eps"),
        ({"eps": math.nan}, "eps"),
        ({"eps": torch.full((40,), EPS)}, r"eps must be one number for all examples, got a tensor of shape \[40\]"),
        ({"eps": "0.1"}, r"eps must be a number, got '0.1' \(str\)"),
        ({"eps": True}, r"eps must be a number, got True \(bool\)"),
        ({"batch_size": 2.0}, "batch_size must be a whole number of at least 1, got 2.0"),
        ({"x": [[0.0]], "labels": [0]}, "x must be a tensor, got list"),
        ({"eps": None}, "eps must be a number, got None"),
        ({"norm": 0.5}, "norm"),
        ({"clip": (1, 0)}, "clip"),
        ({"methods": ["DROWN"]}, "DROWN"),
        ({"methods": "IBP,CROWN"}, "'IBP,CROWN' is not known"),
        ({"methods": [3]}, "methods must be names, got 3"),
        ({"methods": 3}, "methods must be names, got 3"),
        ({"methods": None}, "methods must be names, got None"),
        ({"methods": "Relaxed-CROWN-\N{ARABIC-INDIC DIGIT TWO}"}, "is not known"),
        ({"methods": "Relaxed-CROWN-" + "9" * 5000}, "is not known"),
        ({"methods": []}, "no method"),
        ({"strategy": "tihgt"}, "tihgt"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": True}, "batch_size must be a whole number of at least 1, got True"),
        ({"eps": torch.tensor(0.1, device="meta")}, "eps is on the device meta"),
        ({"eps": torch.tensor(0.1 + 0.2j)}, "eps must be a real number"),
        ({"labels": torch.zeros(40, dtype=torch.int64, device="meta")}, "labels is on the device meta"),
        ({"x": torch.zeros(40, 1, 8, 8, device="meta")}, "x is on the device meta"),
        ({"num_classes": 9}, "the model has 10"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels must be int64"),
        ({"labels": torch.zeros(40)}, "labels must be int64"),
        ({"labels": torch.full((40,), 10)}, "labels run from 10 to 10"),
        ({"labels": torch.full((40,), -1)}, "labels run from -1 to -1"),
        ({"x": torch.zeros(0, 1, 8, 8), "labels": torch.zeros(0, dtype=torch.int64)}, "N >= 1"),
        ({"x": torch.zeros(40, dtype=torch.float64)}, "batch of inputs"),
        ({"x": torch.full((40, 1, 8, 8), math.nan)}, "NaN"),
        ({"x": torch.zeros(40, 1, 8, 8, dtype=torch.float64)}, "float64"),
        ({"x": torch.zeros(40, 1, 7, 7)}, "shape"),
    ],
)
def test_bad_input_is_refused(digits, change, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    call = {"x": digits.images, "labels": digits.labels, "eps": EPS, **change}
    with pytest.raises(LbpError, match=message):
        verify(model, call.pop("x"), call.pop("labels"), call.pop("eps"), **call)


def test_a_model_without_values_is_refused(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, device="meta"))
    for x in (digits.images, digits.images.to("meta")):
        with pytest.raises(LbpError, match=r"1\.weight of the model is on the device meta"):
            verify(model, x, digits.labels, EPS)


def test_the_batch_size_may_be_a_number_of_numpy(trained, digits):
    x = digits.images.double()
    whole, parts = (
        verify(trained, x, digits.labels, EPS, methods="IBP", batch_size=size) for size in (None, np.int64(7))
    )
    assert torch.equal(parts.methods["IBP"].verified, whole.methods["IBP"].verified)


def test_the_model_itself_is_asked_for(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(LbpError, match="not a BoundedModule"):
        verify(BoundedModule(model, digits.images[:1]), digits.images, digits.labels, EPS)
    with pytest.raises(LbpError, match=r"must be a torch\.nn\.Module, got function"):
        verify(lambda x: x, digits.images, digits.labels, EPS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bound_must_be_above_its_limit_by_more_than_rounding(dtype):
    room = 256 * torch.finfo(dtype).eps
    bounds = torch.tensor([math.nan, math.inf, -math.inf, -1.0, 0.0, room / 2, 2 * room, 1.0], dtype=dtype)
    assert certainly_above(bounds).tolist() == [False] * 6 + [True] * 2
    assert certainly_above(bounds.new_tensor([1000.0 + 100 * room, 1000.0 + 2000 * room]), 1000.0).tolist() == [
        False,
        True,
    ]
    assert certainly_above(bounds, rounding="outward").tolist() == [False] * 5 + [True] * 3


@pytest.mark.parametrize("rounding", ["nearest", "outward"])
def test_a_margin_that_rounding_could_explain_verifies_only_where_bounds_account_for_it(rounding):
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([1e-6, 0.0]))
    result = verify(model, torch.zeros(1, 1), torch.tensor([0]), 0.1, rounding=rounding)
    assert bool(result.correct)
    assert all(bool(method.verified) == (rounding == "outward") for method in result.methods.values())
    assert result.summary()["rounding"] == rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_rounding_loses_of_sums_that_cancel_on_the_way_is_accounted_for(dtype):
    # Around 0.5 the second layer is 5e19 - 5e19 - 0.2 at its lower end, and rounding to nearest loses the 0.2 before
    # Hardtanh makes small numbers of it.
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.Hardtanh(), nn.Linear(1, 2)).to(dtype)
    with torch.no_grad():
        for layer, weight, bias in ((0, [1.0], [0.0]), (2, [1.0], [-0.2]), (4, [1.0, 0.0], [0.1, 0.0])):
            model[layer].weight.copy_(torch.tensor(weight)[:, None])
            model[layer].bias.copy_(torch.tensor(bias))
    assert model(torch.tensor([[-5.0]], dtype=dtype)).argmax() == 1
    x, label = torch.tensor([[0.5]], dtype=dtype), torch.tensor([0])
    for method in ("IBP", "LBP", "CROWN"):
        result = verify(model, x, label, 1e20, methods=method).methods[method]
        assert not result.verified.any()
        assert (result.margins <= -0.1 + 1e-6).all()
