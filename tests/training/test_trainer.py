"""Training: the life cycle of ParamRamp, reproducibility, and what stops it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from lbp.data import Dataset, load
from lbp.errors import InvalidInputError
from lbp.models import build
from lbp.nn import ParamRamp
from lbp.training import (
    Augmentation,
    Trainer,
    TrainingDivergedError,
    TrainingSettings,
    end_warm_up,
    mean_activations,
    start_warm_up,
    train,
)
from lbp.training.distributed import World
from lbp.training.selection import held_out_errors
from lbp.training.state import restore_state, save_state
from lbp.verification import verify


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


def normalised_network():
    """A network whose outputs in training mode differ from those in evaluation mode."""
    torch.manual_seed(2)
    layers = (nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), ParamRamp(16, eta=0.1, warm_up=True))
    model = nn.Sequential(*layers, nn.Linear(16, 10))
    with torch.no_grad():
        model[2].running_mean.fill_(0.3)
        model[2].running_var.fill_(2.0)
    return model.train()


def test_mean_activations_are_those_of_evaluation_mode(digits):
    model, images = normalised_network(), digits.first(20).images
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    found = mean_activations(model, images)["3"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name in before)
    with torch.no_grad():
        expected = model.eval()[:4](images).mean(0)
    torch.testing.assert_close(found.float(), expected)


def test_held_out_errors_are_those_of_evaluation_mode_over_the_valid_range(digits):
    few = digits.first(60)
    few = replace(few, images=few.images.round())  # half of every ball lies outside of the range
    model = normalised_network()
    end_warm_up(model, few.images)
    trainer = Trainer(model, few, settings(epochs=1, warm_up_epochs=0, ramp_epochs=0, eps=0.02, lr=0.05, batch_size=20))
    for _ in range(30):
        trainer.run_epoch()
    bounded = trainer.step.objective.bounded
    for eps in (0.005, 0.02, 0.05, 0.1):
        before = {name: value.clone() for name, value in model.named_buffers()}
        clean, verified = held_out_errors(bounded, model, few, settings(eps=eps), World())
        assert model.training
        assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
        result, whole = (
            verify(model, few.images, few.labels, eps, clip=clip, methods="IBP", rounding="nearest")
            for clip in ((0, 1), None)
        )
        assert (clean, verified) == pytest.approx((result.clean_error, result.verified_error))
        if verified < whole.verified_error:
            return
    pytest.fail("the range must matter")


def test_an_epoch_trains_a_network_that_somebody_has_put_into_evaluation_mode(digits):
    model = normalised_network()
    trainer = Trainer(model, digits.first(64), settings())
    model.eval()
    trainer.run_epoch(lambda record: pytest.fail("evaluation mode") if not model.training else None)
    assert model.training


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


@pytest.mark.parametrize(
    ("parameter", "place"), [("output.bias", "output.bias"), ("conv2.weight", "conv2.weight"), ("act1.r", "act1.r")]
)
def test_a_parameter_that_is_nan_stops_with_epoch_step_and_layer(digits, parameter, place):
    model = small_network()

    def poison(record):
        if record.step == 5:
            with torch.no_grad():
                model.get_parameter(parameter).view(-1)[0] = torch.nan

    with pytest.raises(TrainingDivergedError, match=f"the loss is nan in epoch 1, step 6: the parameter {place} has"):
        train(model, digits, settings(), poison)


def test_a_layer_whose_output_overflows_is_named(digits):
    model = small_network("relu")

    def poison(record):
        if record.step == 5:
            with torch.no_grad():
                model.conv2.weight.fill_(3e38)

    with pytest.raises(
        TrainingDivergedError, match="step 6: in the clean pass the output of layer conv2 is not finite"
    ):
        train(model, digits, settings(), poison)


def test_a_layer_whose_bounds_alone_overflow_is_named(digits):
    torch.manual_seed(0)
    layer = nn.Linear(64, 2)
    with torch.no_grad():
        # Equal and opposite on every image: the clean pass cancels, and the radius adds up.
        layer.weight[:, 0::2], layer.weight[:, 1::2] = 2e37, -2e37
    model = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Linear(2, 10))
    data = replace(digits, images=torch.full_like(digits.images, 0.5))
    with pytest.raises(TrainingDivergedError, match="epoch 1, step 4: the bounds of layer 1 are not finite"):
        train(model, data, settings(eps=10.0, clip=None, lr=1e-9))


def test_the_best_epoch_on_held_out_images_is_kept(digits):
    held_out = load("digits", "train").chosen(torch.arange(200, 300))
    model = small_network()
    schedule = settings(epochs=5, lr=5e-3, eps=0.02)
    history = train(model, digits, schedule, held_out=held_out)
    assert [record.held_out_verified_error is None for record in history] == [True, True, False, False, False]
    best = min(record.held_out_verified_error for record in history[2:])
    result = verify(model, held_out.images, held_out.labels, 0.02, clip=(0, 1), methods="IBP")
    assert result.verified_error == pytest.approx(best)


@pytest.mark.parametrize(
    ("loss", "errors", "kept"),
    [
        ("ibp", [(0.2, 0.5), (0.1, 0.6), (0.3, 0.5)], 0),
        ("ibp", [(0.2, 0.5), (0.1, 0.5), (0.3, 0.5)], 1),
        ("ibp", [(0.2, 0.5), (0.2, 0.6), (0.2, 0.5)], 2),
        ("natural", [(0.2, 0.5), (0.3, 0.4), (0.2, 0.6)], 0),
        ("natural", [(0.2, 0.5), (0.2, 0.4), (0.2, 0.4)], 2),
    ],
)
def test_of_equally_good_epochs_the_better_in_the_other_error_is_kept_and_then_the_later(
    digits, monkeypatch, loss, errors, kept
):
    """Errors are clean and verified; training with bounds looks at the verified one first, natural at the clean one."""
    measured = iter(errors)
    monkeypatch.setattr("lbp.training.trainer.held_out_errors", lambda *arguments: next(measured))
    data, states = digits.first(20), []
    schedule = settings(loss=loss, epochs=3, warm_up_epochs=0, ramp_epochs=0, batch_size=20)
    trainer = Trainer(small_network("relu"), data, schedule, held_out=data)
    for _ in range(3):
        trainer.run_epoch()
        states.append(trainer.model.output.weight.detach().clone())
    assert trainer.progress.choice.epoch == kept
    assert torch.equal(trainer.progress.choice.state["output.weight"], states[kept])


def test_augmented_images_may_be_larger_than_the_network_takes(digits):
    torch.manual_seed(0)
    model = build("DM-Small", (1, 6, 6), 10, "ramp")
    schedule = settings(augmentation=Augmentation(flip=True, padding=1))
    trainer = Trainer(model, digits, schedule, input_size=(6, 6))
    assert trainer.run_epoch().clean_error < 1.0


@pytest.mark.parametrize("count", [65, 129])
def test_a_last_batch_of_one_example_is_refused_with_batch_normalisation(digits, count):
    model = build("CNN-7+BN", (1, 8, 8), 10)
    with pytest.raises(InvalidInputError, match=f"the last batch of an epoch has 1 of {count} examples"):
        train(model, digits.first(count), settings())


def test_images_of_another_type_than_the_weights_are_refused(digits):
    with pytest.raises(InvalidInputError, match=r"images are torch.float32, the model's weights are torch.float64"):
        train(small_network().double(), digits, settings())


def test_images_that_are_nan_are_refused(digits):
    images = digits.images.clone()
    images[3, 0, 0, 0] = torch.nan
    with pytest.raises(InvalidInputError, match="hold NaN"):
        train(small_network(), replace(digits, images=images), settings())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip": (0.1, 1.0)}, r"values from 0 to 1, outside of the valid range clip = \(0.1, 1\)"),
        ({"clip": (0.0, 0.5)}, "outside of the valid range"),
    ],
)
def test_images_outside_of_the_valid_range_are_refused(digits, changes, message):
    with pytest.raises(InvalidInputError, match=message):
        Trainer(small_network(), digits, settings(**changes))


def test_a_border_of_zeros_outside_of_the_valid_range_is_refused(digits):
    bright = replace(digits, images=digits.images / 2 + 0.5)
    Trainer(small_network(), bright, settings(clip=(0.5, 1.0)))
    with pytest.raises(InvalidInputError, match="values from 0 to 1, "):
        Trainer(small_network(), bright, settings(clip=(0.5, 1.0), augmentation=Augmentation(padding=1)))


def test_empty_data_is_refused():
    empty = Dataset("none", torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), 10)
    with pytest.raises(InvalidInputError, match="empty"):
        train(small_network(), empty, settings())


@pytest.mark.parametrize("use", ["training", "choosing"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels.clone().index_fill_(0, torch.tensor(3), -100), "run from -100 to 9, expected 0 to 9"),
        (lambda labels: labels + 1, "run from 1 to 10, expected 0 to 9"),
        (lambda labels: labels[:-1], r"of shape \[200\], one per image, got torch.int64 of shape \[199\]"),
        (lambda labels: labels.int(), "must be int64 .* got torch.int32"),
        (lambda labels: labels[:0], "digits is empty"),
    ],
)
def test_labels_that_are_not_one_class_per_image_are_refused(digits, use, change, message):
    wrong = replace(digits, labels=change(digits.labels))
    data, held_out = (wrong, None) if use == "training" else (digits, wrong)
    with pytest.raises(InvalidInputError, match=message):
        Trainer(small_network(), data, settings(loss="natural"), held_out=held_out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: replace(data, images=data.images.double()), r"images are torch.float64, .* are torch.float32"),
        (lambda data: replace(data, images=data.images / 0), "the held-out images hold NaN"),
        (lambda data: replace(data, images=data.images * 2), "held-out images have values from 0 to 2, outside"),
        (lambda data: replace(data, images=data.images.flatten(1)), r"must be \[N, C, H, W\], got shape \[200, 64\]"),
        (lambda data: replace(data, num_classes=11), "have 11 classes and 1 channels, those of the training 10 and 1"),
        (lambda data: replace(data, images=data.images.expand(-1, 3, -1, -1)), "have 10 classes and 3 channels"),
    ],
)
def test_held_out_images_that_could_not_be_measured_are_refused_before_the_training(digits, change, message):
    with pytest.raises(InvalidInputError, match=message):
        Trainer(small_network(), digits, settings(), held_out=change(digits))


def test_the_network_that_is_kept_has_left_the_warm_up(digits, monkeypatch):
    monkeypatch.setattr("lbp.training.trainer.held_out_errors", lambda *arguments: (next(measured), 1.0))
    measured = iter([0.1, 0.2])
    model = small_network()
    train(model, digits.first(64), settings(loss="natural", epochs=3, ramp_epochs=0), held_out=digits)
    assert not any(ramp.warm_up for ramp in (model.act1, model.act2, model.act3))


def test_other_objects_than_a_model_a_data_set_and_settings_are_named(digits):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(digits.images, digits.labels))
    with pytest.raises(InvalidInputError, match=r"data must be a lbp.data.dataset.Dataset, got DataLoader"):
        train(small_network(), loader, settings())
    with pytest.raises(InvalidInputError, match=r"held_out must be a .*, got DataLoader"):
        train(small_network(), digits, settings(), held_out=loader)
    with pytest.raises(InvalidInputError, match=r"settings must be a .*TrainingSettings, got dict"):
        train(small_network(), digits, {"eps": 0.1, "epochs": 1})
    with pytest.raises(InvalidInputError, match=r"model must be a .*Module, got function"):
        train(lambda images: images, digits, settings())


def test_vectors_are_refused_as_images(digits):
    with pytest.raises(InvalidInputError, match=r"images must be \[N, C, H, W\], got shape \[200, 64\]"):
        train(nn.Linear(64, 10), replace(digits, images=digits.images.flatten(1)), settings())


def test_a_model_without_a_parameter_to_train_is_refused(digits):
    frozen = small_network().requires_grad_(False)
    for model in (frozen, nn.Flatten()):
        with pytest.raises(InvalidInputError, match="no parameter to train"):
            train(model, digits, settings())


def test_the_network_that_is_kept_has_the_slope_that_was_asked_for(digits, monkeypatch):
    """The second epoch is at full eps, but on the way to the last slope: it is not measured."""
    measured = iter([(0.3, 0.3), (0.4, 0.4)])
    monkeypatch.setattr("lbp.training.trainer.held_out_errors", lambda *arguments: next(measured))
    model = small_network()
    schedule = settings(
        epochs=4, warm_up_epochs=0, ramp_epochs=1, eta_start=0.5, eta_end=0.1, eta_keep_epochs=1, eta_fall_epochs=1
    )
    history = train(model, digits, schedule, held_out=digits)
    assert [record.held_out_verified_error for record in history] == [None, None, 0.3, 0.4]
    assert [ramp.eta.item() for ramp in (model.act1, model.act2, model.act3)] == pytest.approx([0.1] * 3)


def test_autocast_around_a_training_changes_nothing(digits):
    histories = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            history = train(small_network(), digits, settings(epochs=3, lr=5e-3), held_out=digits)
        histories.append([replace(record, seconds=0.0) for record in history])
    assert histories[0] == histories[1]


def test_a_failure_under_autocast_is_explained(digits):
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(TrainingDivergedError, match="epoch 0, step 1"):
        train(small_network(), digits, settings(warm_up_epochs=0, lr=1e30))


def test_networks_are_trained_and_continued_where_float64_is_the_default(digits, tmp_path):
    data, chosen = replace(digits, images=digits.images.double()), settings(epochs=3)
    torch.set_default_dtype(torch.float64)
    try:
        trainers = [Trainer(small_network(), data, chosen) for _ in range(2)]
        for _ in range(2):
            trainers[0].run_epoch()
        save_state(tmp_path / "state", trainers[0], {})
        restore_state(tmp_path / "state", trainers[1], {})
        last = [replace(trainer.run_epoch(), seconds=0.0) for trainer in trainers]
    finally:
        torch.set_default_dtype(torch.float32)
    assert last[0] == last[1]


@pytest.mark.parametrize("loss", ["natural", "ibp"])
@pytest.mark.parametrize("outputs", [9, 12])
def test_a_network_needs_an_output_per_class(digits, loss, outputs):
    model = build("DM-Small", (1, 8, 8), outputs)
    with pytest.raises(InvalidInputError, match=rf"the data has 10 classes, the network .* \[{outputs}\]"):
        train(model, digits, settings(loss=loss))


def test_a_warm_up_that_would_never_end_is_refused(digits):
    model = small_network()
    start_warm_up(model)
    with pytest.raises(InvalidInputError, match="act1 is a ParamRamp in its warm-up, which warm_up_epochs = 0 never"):
        train(model, digits.first(64), settings(warm_up_epochs=0, epochs=1))
    end_warm_up(model, digits.images)
    train(model, digits.first(64), settings(warm_up_epochs=0, epochs=1))


@pytest.mark.parametrize("without_gradients", [torch.no_grad, torch.inference_mode])
def test_training_where_no_gradients_are_kept_is_refused(digits, without_gradients):
    with without_gradients(), pytest.raises(InvalidInputError, match="training needs gradients"):
        train(small_network(), digits.first(64), settings())
