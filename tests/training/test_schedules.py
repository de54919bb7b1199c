"""Schedules: their ends, their corners and their shape."""

import itertools

import pytest
from pydantic import ValidationError

from lbp.experiments import paper_rows, training_of
from lbp.training import TrainingSettings
from lbp.training.schedules import (
    beta_at,
    candidates_from,
    controls_at,
    eps_at,
    eta_at,
    kappa_at,
    learning_rate_at,
    linear,
    smoothed,
)


def settings(**changes):
    return TrainingSettings(**{"eps": 0.4, "epochs": 100, "warm_up_epochs": 10, "ramp_epochs": 40, **changes})


@pytest.mark.parametrize(
    ("epochs_done", "eps"), [(0, 0.0), (9.99, 0.0), (10, 0.0), (20, 0.1), (30.5, 0.205), (50, 0.4), (99, 0.4)]
)
def test_eps_is_zero_then_linear_then_full(epochs_done, eps):
    assert eps_at(settings(), epochs_done) == pytest.approx(eps)


def test_without_a_ramp_eps_is_full_from_the_end_of_the_warm_up():
    assert eps_at(settings(ramp_epochs=0), 9.5) == 0.0
    assert eps_at(settings(ramp_epochs=0), 10) == 0.4


@pytest.mark.parametrize(("eps", "kappa"), [(0.0, 1.0), (0.2, 0.75), (0.4, 0.5)])
def test_kappa_follows_eps(eps, kappa):
    assert kappa_at(settings(kappa_start=1.0, kappa_end=0.5), eps) == pytest.approx(kappa)


@pytest.mark.parametrize(("eps", "beta"), [(0.0, 1.0), (0.2, 0.6), (0.4, 0.2)])
def test_beta_follows_eps_in_crown_ibp_training_alone(eps, beta):
    assert beta_at(settings(loss="crown-ibp", beta_end=0.2), eps) == pytest.approx(beta)
    assert beta_at(settings(beta_end=0.2), eps) == 0.0


def test_eps_may_start_smoothly():
    chosen = settings(eps_shape="smoothed")
    assert eps_at(chosen, 30) == pytest.approx(0.4 * smoothed(0.5))
    assert eps_at(chosen, 14) < eps_at(settings(), 14)


def test_a_step_has_the_values_of_all_schedules():
    chosen = settings(loss="crown-ibp", regularization=0.5, eta_start=0.01, lr=0.1, lr_milestones=(20,))
    warm, middle, late = (controls_at(chosen, 10 * epoch + 9, 10) for epoch in (9, 29, 80))
    assert (warm.certified, warm.eps, warm.kappa, warm.beta, warm.regularization) == (False, 0.0, 1.0, 0.0, 0.0)
    assert middle.certified
    assert (middle.eps, middle.kappa, middle.beta) == pytest.approx((0.2, 0.75, 0.5))
    assert middle.regularization == pytest.approx(0.25)
    assert middle.lr == pytest.approx(0.01)
    assert (late.eps, late.beta, late.regularization, late.eta) == (0.4, 0.0, 0.0, 0.01)


def test_a_beta_too_small_to_matter_is_none():
    assert controls_at(settings(loss="crown-ibp", beta_end=9e-6), 990, 10).beta == 0.0


def test_networks_are_chosen_at_full_radius():
    assert candidates_from(settings()) == 50
    assert candidates_from(settings(loss="natural")) == 10, "the warm-up has no radius, but no bending points either"
    assert candidates_from(settings(ramp_epochs=90)) == 99, "the last epoch is always a candidate"


@pytest.mark.parametrize("loss", ["ibp", "natural"])
def test_networks_are_chosen_at_the_last_slope(loss):
    falling = settings(loss=loss, eta_start=0.01, eta_end=0.0, eta_keep_epochs=40, eta_fall_epochs=30)
    assert candidates_from(falling) == 70
    assert controls_at(falling, 70 * 7, 7).eta == 0.0
    assert controls_at(falling, 70 * 7 - 1, 7).eta > 0.0
    assert candidates_from(falling.model_copy(update={"eta_end": 0.01})) == candidates_from(settings(loss=loss))
    assert candidates_from(falling.model_copy(update={"eta_end": None})) == candidates_from(settings(loss=loss))


def test_kappa_at_radius_zero_is_its_start():
    assert kappa_at(settings(eps=0.0, kappa_start=0.7), 0.0) == 0.7


def test_eta_is_kept_then_falls_to_its_end():
    chosen = settings(eta_start=0.01, eta_end=0.0, eta_keep_epochs=20, eta_fall_epochs=40)
    values = [eta_at(chosen, epoch) for epoch in range(100)]
    assert values[:21] == [0.01] * 21
    assert values[60:] == pytest.approx([0.0] * 40)
    assert all(later < earlier for earlier, later in itertools.pairwise(values[20:61]))


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_eta_stays_within_one_epoch_of_the_fall_in_the_papers_code(data):
    """There it changes between epochs alone, and the first and the last epoch of the fall have its two ends."""
    row = next(row for row in paper_rows() if row.data == data and row.eta_start != row.eta_end)
    chosen, steps = TrainingSettings.model_validate(training_of(row)), 10
    keep, fall = chosen.eta_keep_epochs, chosen.eta_fall_epochs
    values = []
    for epoch in range(keep - 1, keep + fall + 1):
        theirs = chosen.eta_start * (1 - smoothed((epoch - keep) / (fall - 1)))
        largest_step = chosen.eta_start * (smoothed(1) - smoothed(1 - 1 / (fall - 1)))
        ours = [controls_at(chosen, epoch * steps + step, steps).eta for step in range(steps)]
        assert max(abs(eta - theirs) for eta in ours) <= largest_step
        values += ours
    falling = values[steps : (fall + 1) * steps + 1]
    assert all(later < earlier for earlier, later in itertools.pairwise(falling)), "with every batch"


def test_eta_may_fall_linearly_or_stay():
    chosen = settings(eta_start=0.01, eta_end=0.0, eta_shape="linear", eta_fall_epochs=40)
    assert eta_at(chosen, 10) == pytest.approx(0.0075)
    assert eta_at(settings(eta_start=0.01), 70) == 0.01
    assert eta_at(settings(), 70) is None


def test_eta_may_jump():
    chosen = settings(eta_start=0.1, eta_end=0.2, eta_keep_epochs=5, eta_fall_epochs=0)
    assert [eta_at(chosen, epoch) for epoch in (4, 5)] == pytest.approx([0.1, 0.2])


def test_the_smoothed_schedule_is_quartic_then_linear_and_has_no_kink():
    assert smoothed(0) == 0
    assert smoothed(1) == pytest.approx(1)
    assert smoothed(0.2) / smoothed(0.1) == pytest.approx(16)
    step = 1e-6
    assert smoothed(0.25 - step) == pytest.approx(smoothed(0.25), abs=1e-5)
    before, after = ((smoothed(t + step) - smoothed(t)) / step for t in (0.25 - step, 0.25))
    assert before == pytest.approx(after, rel=1e-4)
    assert smoothed(0.8) - smoothed(0.7) == pytest.approx(smoothed(0.5) - smoothed(0.4))


@pytest.mark.parametrize("schedule", [linear, smoothed])
def test_schedules_are_constant_outside_their_range(schedule):
    assert schedule(-3.0) == 0.0
    assert schedule(7.0) == pytest.approx(1.0)


def test_the_learning_rate_falls_at_its_milestones():
    chosen = settings(lr=0.1, lr_milestones=(30, 60), lr_factor=0.5)
    assert [learning_rate_at(chosen, epoch) for epoch in (29, 30, 59, 60)] == pytest.approx([0.1, 0.05, 0.05, 0.025])


@pytest.mark.parametrize(("text", "eps"), [("8/255", 8 / 255), ("2.2/255", 2.2 / 255), ("0.3", 0.3)])
def test_eps_may_be_a_quotient(text, eps):
    assert settings(eps=text).eps == pytest.approx(eps)


@pytest.mark.parametrize(
    "wrong",
    [
        {"eps": -0.1},
        {"eps": float("nan")},
        {"eps": "8/0"},
        {"eps": "nan"},
        {"eps": "1_0"},
        {"eps": "\N{ARABIC-INDIC DIGIT ONE}/255"},
        {"eps": "much"},
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": float("inf")},
        {"kappa_end": 1.1},
        {"eta_start": -0.1},
        {"eta_end": 0.1},
        {"eta_start": 0.1, "eta_end": 0.0, "eta_keep_epochs": 50, "eta_fall_epochs": 50},
        {"eta_start": 0.1, "eta_end": 0.0, "eta_keep_epochs": 100},
        {"r_noise": -1.0},
        {"gradient_clip": 0.0},
        {"validation_share": 1.0},
        {"selection": "best"},
        {"augmentation": {"padding": -1}},
        {"warm_up_epochs": -1},
        {"warm_up_epochs": 80},
        {"clip": (1.0, 0.0)},
        {"loss": "hinge"},
        {"epoch": 5},
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        settings(**wrong)
