"""Training on a GPU: steps as CUDA graphs, steps that wait for nothing, images in host memory, several GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lbp
import lbp.checkpoint
from lbp.data import Dataset
from lbp.models import build
from lbp.training import Augmentation, Trainer, TrainingSettings, World, batches, read_settings, run
from lbp.training.benchmark import make_step

SETTINGS = {
    "eps": 0.05, "epochs": 6, "batch_size": 8, "warm_up_epochs": 2, "ramp_epochs": 2, "eta_start": 0.1, "eta_end": 0.0,
    "eta_fall_epochs": 5, "r_noise": 0.1, "regularization": 0.5, "gradient_clip": 10.0, "lr_milestones": [5],
    "augmentation": Augmentation(padding=1, flip=True),
}  # fmt: skip
LOSSES = [{"loss": "natural"}, {"loss": "ibp"}, {"loss": "crown-ibp"}, {"loss": "crown-ibp", "fusion": True}]


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(44, 1, 8, 8, generator=generator), torch.randint(10, (44,), generator=generator)
    return Dataset("random", images, labels, 10)


def trainer_of(data, architecture="DM-Small", capture=True, **settings):
    torch.manual_seed(0)
    model = build(architecture, (1, 8, 8), 10, "ramp", eta=0.1).cuda()
    world = World(device=torch.device("cuda"))
    return Trainer(model, data, TrainingSettings(**{**SETTINGS, **settings}), world=world, capture=capture)


def trained(trainer):
    steps = []
    for _ in range(SETTINGS["epochs"]):
        trainer.run_epoch(steps.append)
    return steps


@pytest.mark.parametrize("architecture", ["DM-Small", "CNN-7+BN"])
@pytest.mark.parametrize("settings", LOSSES)
def test_a_training_from_graphs_is_that_of_steps_run_one_by_one(data, architecture, settings, monkeypatch):
    # Left to itself, cuDNN adds up gradients in the order of arrival, and batch normalisation makes much of the rest.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    by_graphs, one_by_one = (trainer_of(data, architecture, capture, **settings) for capture in (True, False))
    steps, expected = trained(by_graphs), trained(one_by_one)
    assert by_graphs.step.captured is not None
    assert one_by_one.step.captured is None
    assert [record.loss for record in steps] == [record.loss for record in expected]
    assert [record.eps for record in steps] == [record.eps for record in expected]


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("loss", ["natural", "ibp", "crown-ibp"])
def test_a_step_waits_for_nothing(loss, capture):
    step = make_step("DM-Small", "ramp", loss, batch_size=16, device="cuda", capture=capture)
    for _ in range(5):
        step()
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(2_000_000_000)  # cycles: about a second
        step()
        done.record()
        assert not done.query(), "the step returned only after the work before it"
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_batches_wait_for_nothing_wherever_the_images_lie(data, share, monkeypatch):
    monkeypatch.setattr(batches, "_DEVICE_SHARE", share)
    changes, size = Augmentation(padding=1, flip=True), (8, 8)
    found = []
    for device in (torch.device("cpu"), World(device=torch.device("cuda")).device):
        source = batches.Batches(data, size, changes, 8, 0, device)
        plan = source.plan(0)
        torch.cuda.set_sync_debug_mode("error")
        try:
            images, labels = source.batch(plan, 2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert images.device == labels.device == device
        found.append((images.cpu(), labels.cpu()))
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


CONFIG = """
[data]
limit = 60
[model]
activation = { name = "ramp", eta = 0.01 }
[training]
loss = "crown-ibp"
eps = 0.02
epochs = 4
batch_size = 18
warm_up_epochs = 1
ramp_epochs = 1
regularization = 0.5
"""


def history_of(folder, *launcher):
    """What `lbp train` writes about a training of the digits on GPUs."""
    pytest.importorskip("sklearn")
    (folder / "net.toml").write_text(CONFIG)
    paths = [str(Path(lbp.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", *launcher, "lbp", "train", str(folder / "net.toml"), "--device", "cuda"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return lbp.checkpoint.load(folder / "net.safetensors").training["history"]


def test_the_command_trains_on_the_gpu_what_it_trains_on_the_cpu(tmp_path):
    found = history_of(tmp_path)
    expected = run(read_settings(tmp_path / "net.toml")).history
    assert [epoch["loss"] for epoch in found] == pytest.approx([epoch.loss for epoch in expected], rel=1e-2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_like_one(tmp_path):
    (tmp_path / "one").mkdir()
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    one, two = history_of(tmp_path / "one"), history_of(tmp_path, *launcher)
    assert [epoch["loss"] for epoch in two] == pytest.approx([epoch["loss"] for epoch in one], rel=1e-3)
