"""Captured steps: recordings of operations, which give what running the steps gives, through a whole training.

No GPU is needed to see what would break a CUDA graph: a value read by the host, a number of the host that changes from
step to step, memory that is replaced, a phase that a recording does not know of.
"""

import pytest
import torch
from torch import nn
from training.recording import HostNeededError, OperationRecorder

from lbp.nn import ParamRamp
from lbp.training import Augmentation, Trainer, TrainingSettings, capture
from lbp.training.capture import CapturedSteps

EPOCHS = 5
PLAIN = {
    "eps": 0.05, "epochs": EPOCHS, "batch_size": 4, "warm_up_epochs": 1, "ramp_epochs": 2, "lr": 5e-3,
    "lr_milestones": [4],
}  # fmt: skip
EVERYTHING = {
    "loss": "crown-ibp", "eta_start": 0.1, "eta_end": 0.0, "eta_keep_epochs": 1, "eta_fall_epochs": 3, "r_noise": 0.1,
    "regularization": 0.5, "gradient_clip": 1.0, "eps_shape": "smoothed", "augmentation": Augmentation(padding=1),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_step_of_a_kind_before_it_is_recorded(monkeypatch):
    monkeypatch.setattr(capture, "_EAGER_STEPS", 1)


def network(normalised):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if normalised else nn.Identity(), ParamRamp((4, 6, 6), 0.1), nn.Flatten(),
        nn.Linear(144, 12), ParamRamp(12, 0.1), nn.Linear(12, 10),
    )  # fmt: skip


def trainer_of(data, model, settings, recorder=None):
    chosen = TrainingSettings(**{**PLAIN, **settings})
    trainer = Trainer(model, data, chosen)
    # As on a GPU, where a graph reads the learning rate from the device.
    trainer.step.optimizer.param_groups[0]["lr"] = torch.tensor(chosen.lr, dtype=torch.float64)
    if recorder is not None:
        trainer.step.captured = CapturedSteps(trainer.step.update, recorder)
    return trainer


def trained(trainer):
    steps = []
    for _ in range(EPOCHS):
        trainer.run_epoch(steps.append)
    return steps, trainer.model.state_dict()


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(
    "settings",
    [EVERYTHING, {"kappa_start": 0.0, "kappa_end": 0.0}, {"loss": "natural"}, {"loss": "crown-ibp", "fusion": True}],
    ids=["everything", "bounds alone", "natural", "fusion"],
)
def test_a_training_from_recordings_is_that_of_steps_run_one_by_one(synthetic, settings, normalised):
    # Three batches of 4 and one of 2 in every epoch.
    data, recorder = synthetic(14), OperationRecorder()
    steps, state = trained(trainer_of(data, network(normalised), settings, recorder))
    expected, weights = trained(trainer_of(data, network(normalised), settings))
    assert recorder.replayed >= 2 * recorder.recorded >= 4
    assert steps == expected
    assert all(torch.equal(value, weights[name]) for name, value in state.items())


def test_a_recording_repeats_what_the_host_said_for_ever(synthetic):
    data, recorder = synthetic(14), OperationRecorder()
    trainer, expected = (trainer_of(data, network(False), {}, chosen) for chosen in (recorder, None))
    trainer.step.optimizer.param_groups[0]["lr"] = 5e-3
    assert trained(trainer)[0] != trained(expected)[0], "this is how the test above finds a number of the host"


@pytest.mark.parametrize(
    ("work", "complaint"),
    [
        (lambda x: x * x.sum().item(), "reads a value"),
        (lambda x: x[x > 0].sum(), "size depends on values"),
        (lambda x: x + torch.as_tensor(1.0), "takes a value from the host"),
    ],
)
def test_work_that_needs_the_host_is_found(work, complaint):
    with pytest.raises(HostNeededError, match=complaint):
        OperationRecorder().record(lambda: work(torch.ones(3)))
