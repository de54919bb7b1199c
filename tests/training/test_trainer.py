"""Training: the life cycle of ParamRamp, reproducibility, and what stops it."""

import math

import pytest
import torch
from torch import nn

from lbp.data import Dataset, load
from lbp.errors import InvalidInputError
from lbp.models import build
from lbp.nn import ParamRamp
from lbp.training import (
    TrainingDivergedError,
    TrainingSettings,
    end_warm_up,
    mean_activations,
    start_warm_up,
    train,
)


@pytest.fixture(scope="module")
def digits():
    return load("digits", "train").first(200)


def small_network(activation="ramp"):
    torch.manual_seed(1)
    return build("DM-Small", (1, 8, 8), 10, activation)


def settings(**changes):
    return TrainingSettings(
        **{"eps": 0.05, "epochs": 2, "warm_up_epochs": 1, "ramp_epochs": 1, "batch_size": 64, **changes}
    )


def test_r_is_the_mean_activation_of_every_neuron():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), ParamRamp(4, eta=0.1, warm_up=True), nn.Linear(4, 2)).double()
    x = torch.randn(37, 3, dtype=torch.float64)
    expected = nn.functional.leaky_relu(model[0](x), model[1].eta.item()).mean(0)
    for batch_size in (5, 37, 100):
        torch.testing.assert_close(mean_activations(model, x, batch_size)["1"], expected)
    end_warm_up(model, x)
    torch.testing.assert_close(model[1].r.detach(), expected.detach())
    assert not model[1].warm_up
    assert (model[1].r < 0).any(), "the mean of a mostly negative neuron is negative, and kept"


def test_a_shared_r_is_the_mean_over_its_neurons():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), ParamRamp((2, 1, 1)))
    x = torch.rand(5, 1, 6, 6)
    torch.testing.assert_close(mean_activations(model, x)["1"].float(), model(x).mean((0, 2, 3)).view(2, 1, 1))


def test_mean_activations_leave_mode_and_hooks_alone():
    model = small_network().train()
    mean_activations(model, torch.rand(3, 1, 8, 8))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(InvalidInputError, match="empty"):
        mean_activations(model, torch.rand(0, 1, 8, 8))


def test_the_warm_up_ends_with_r_from_the_whole_training_set(digits):
    model = small_network()
    start_warm_up(model)
    assert all(ramp.effective_r() == math.inf for ramp in (model.act1, model.act2, model.act3))
    seen = {}

    def watch(record):
        if record.epoch == 0:
            seen["expected"] = mean_activations(model, digits.images)["act1"]
            seen["warm"] = model.act1.warm_up
        elif "first" not in seen:
            seen["first"] = model.act1.r.detach().clone()

    train(model, digits, settings(lr=1e-6), watch)
    assert seen["warm"]
    assert not model.act1.warm_up
    torch.testing.assert_close(seen["first"].double(), seen["expected"], rtol=1e-3, atol=1e-4)


def test_r_is_trained_after_the_warm_up(digits):
    model = small_network()
    at_start = {}

    def watch(record):
        if record.epoch == 1 and not at_start:
            at_start["r"] = model.act1.r.detach().clone()

    train(model, digits, settings(), watch)
    assert not torch.equal(model.act1.r, at_start["r"])


@pytest.mark.parametrize("activation", ["relu", "ramp"])
def test_training_lowers_the_loss_and_reports_it(digits, activation):
    steps = []
    schedule = settings(eps=0.02, lr=5e-3, epochs=10, warm_up_epochs=2, ramp_epochs=2)
    history = train(small_network(activation), digits, schedule, steps.append)
    assert [record.epoch for record in history] == list(range(10))
    assert [record.step for record in steps] == list(range(10 * 4))
    assert all(record.total_steps == 40 for record in steps)
    assert history[1].loss < history[0].loss, "clean"
    assert history[-1].loss < 0.8 * history[4].loss, "at full eps"
    assert history[0].verified_error is None
    assert history[-1].verified_error > history[-1].clean_error
    assert history[-1].eps == 0.02
    assert [record.eps for record in steps[8:12]] == pytest.approx([0.02 * k / 8 for k in (1, 2, 3, 4)])


def test_the_same_seed_gives_the_same_network(digits):
    states = []
    for seed in (0, 0, 1):
        model = small_network()
        train(model, digits, settings(seed=seed))
        states.append(model.output.weight.detach().clone())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_eta_follows_its_schedule(digits):
    model = small_network()
    train(model, digits, settings(eta_start=0.5, eta_end=0.25, eta_keep_epochs=0, eta_fall_epochs=1))
    assert model.act2.eta == 0.25


def test_natural_training_uses_no_bounds(digits):
    history = train(small_network("relu"), digits, settings(loss="natural"))
    assert all(record.verified_error is None and record.eps == 0.0 for record in history)


def test_batch_norm_is_trained_with_bounds():
    data = load("digits", "train").first(8)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    history = train(model, data, settings(batch_size=8, warm_up_epochs=0))
    assert math.isfinite(history[-1].loss)
    assert model[2].num_batches_tracked == 2, "one clean pass a step, and no other, updates the statistics"


def test_a_loss_that_is_nan_stops_with_epoch_and_step(digits):
    model = small_network("relu")

    def poison(record):
        if record.step == 5:
            with torch.no_grad():
                model.output.bias[0] = torch.nan

    with pytest.raises(TrainingDivergedError, match="nan in epoch 1, step 6"):
        train(model, digits, settings(), poison)


def test_empty_data_is_refused():
    empty = Dataset("none", torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), 10)
    with pytest.raises(InvalidInputError, match="empty"):
        train(small_network(), empty, settings())
