"""A run that is killed continues as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from lbp import checkpoint, cli
from lbp.commands.options import OutputError
from lbp.data import load
from lbp.files import only_writer
from lbp.training import RunPausedError, RunSettings, StateError, read_settings, run

runner = CliRunner()
ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
SETTINGS = {
    "data": {"name": "digits", "limit": 60},
    "model": {"architecture": "DM-Small", "activation": {"name": "ramp", "eta": 0.01}},
    "training": {
        "eps": 0.05, "epochs": 6, "batch_size": 30, "warm_up_epochs": 1, "ramp_epochs": 2, "r_noise": 0.1,
        "eta_start": 0.01, "eta_end": 0.0, "eta_fall_epochs": 3, "loss": "crown-ibp", "lr_milestones": [4],
        "augmentation": {"padding": 1},
    },
}  # fmt: skip
TOML = """
[data]
limit = 90
[model]
activation = { name = "ramp", eta = 0.01 }
[training]
eps = 0.05
epochs = 6
batch_size = 30
warm_up_epochs = 1
ramp_epochs = 1
r_noise = 0.01
"""


def without_times(history):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in history]


def assert_same(first, second):
    assert without_times(first.record()["history"]) == without_times(second.record()["history"])
    assert first.selection == second.selection
    states = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def paused_after(count, settings, state):
    left = iter(range(count - 1))
    with pytest.raises(RunPausedError, match=f"after .* of {settings.training.epochs} epochs"):
        run(settings, state=state, goes_on=lambda: next(left, None) is not None)


def test_a_run_paused_at_every_epoch_equals_an_uninterrupted_one(tmp_path):
    settings = RunSettings.model_validate(SETTINGS)
    state = tmp_path / "state"
    for _ in range(settings.training.epochs - 1):
        torch.manual_seed(torch.seed() % 1000)
        paused_after(1, settings, state)
    assert_same(run(settings, state=state), run(settings))


def test_a_run_with_other_settings_is_not_continued(tmp_path):
    settings = RunSettings.model_validate(SETTINGS)
    paused_after(1, settings, tmp_path / "state")
    other = RunSettings.model_validate({**SETTINGS, "training": {**SETTINGS["training"], "lr": 0.125}})
    with pytest.raises(StateError, match=r"other settings \(training.lr: 0.125 now, 0.0005 in the file\)"):
        run(other, state=tmp_path / "state")


def test_data_that_has_changed_is_named_without_its_checksums(tmp_path):
    settings = RunSettings.model_validate(SETTINGS)
    paused_after(1, settings, tmp_path / "state")
    other = RunSettings.model_validate({**SETTINGS, "data": {"name": "digits", "limit": 70}})
    with pytest.raises(StateError, match=r"\(content of the data, data.limit: 70 now, 60 in the file\)"):
        run(other, state=tmp_path / "state")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_file_that_is_no_state_is_refused(tmp_path, content):
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(StateError, match="not the state of an lbp run"):
        run(RunSettings.model_validate(SETTINGS), state=tmp_path / "state")


def changed(state, description=lambda text: text, drop=(), kind=None):
    """Writes a state file again with something missing or wrong; `kind`: the tensor that is of another type."""
    with safe_open(state, framework="pt") as stream:
        text = stream.metadata()["lbp-run"]
        tensors = {name: stream.get_tensor(name) for name in stream.keys() if name not in drop}  # noqa: SIM118
    if kind is not None:
        tensors[kind] = tensors[kind].double()
    save_file(tensors, state, {"lbp-run": description(text)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": ["model.output.bias"]}, "output.bias"),
        ({"drop": ["choice.output.bias"]}, "network chosen so far"),
        ({"drop": ["adam.0.exp_avg"]}, "Adam for parameter 0"),
        ({"drop": ["random.cpu"]}, "random.cpu"),
        ({"kind": "adam.0.exp_avg"}, "Adam for parameter 0 lacks exp_avg"),
        ({"kind": "adam.1.step"}, "Adam for parameter 1 lacks step"),
        ({"kind": "model.output.bias"}, "the network lacks output.bias"),
        ({"description": lambda text: text.replace('"clean_error"', '"lost"')}, "lost"),
        (
            {"description": lambda text: text.replace('"epoch": 0', '"epoch": "first"')},
            "history: 0.epoch: .* got 'first'",
        ),
        ({"description": lambda text: text.replace('"epoch": 1', '"epoch": 7')}, "do not follow one another"),
        ({"description": lambda text: text.replace('"choice"', '"choose"')}, "choice"),
    ],
)
def test_a_damaged_state_is_refused_before_any_training(tmp_path, change, message):
    settings = RunSettings.model_validate(SETTINGS)
    state = tmp_path / "state"
    paused_after(4, settings, state)
    changed(state, **change)
    with pytest.raises(StateError, match=f"{message}.*remove it to start anew"):
        run(settings, state=state)


def test_a_run_is_not_continued_on_other_data(tmp_path, monkeypatch):
    settings = RunSettings.model_validate(SETTINGS)
    paused_after(1, settings, tmp_path / "state")
    digits = load("digits", "train")
    mirrored = replace(digits, images=digits.images.flip(3))
    monkeypatch.setattr(sys.modules["lbp.training.run"], "load", lambda *arguments: mirrored)
    with pytest.raises(StateError, match="content of the data"):
        run(settings, state=tmp_path / "state")


def killed_in_the_middle(folder):
    """Starts a training, and kills it where it cannot defend itself once it has left a state."""
    state = folder / "net.state.safetensors"
    command = [sys.executable, "-m", "lbp", "train", str(folder / "net.toml"), "--device", "cpu"]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        while not state.exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the training was over before it could be killed"
    return state


def test_a_killed_training_resumes_bit_for_bit(tmp_path):
    config = tmp_path / "net.toml"
    config.write_text(TOML)
    state = killed_in_the_middle(tmp_path)
    refused = runner.invoke(cli.app, ["train", str(config)])
    assert isinstance(refused.exception, OutputError)
    assert "--resume continues it, --restart throws it away" in str(refused.exception)
    # As if it had been killed while it wrote.
    (tmp_path / ".net.state.safetensors.0a1b").write_bytes(state.read_bytes()[:100])
    resumed = runner.invoke(cli.app, ["train", str(config), "--resume", "--device", "cpu"])
    assert resumed.exit_code == 0, resumed.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.safetensors", "net.toml"], "nothing else is left"
    written = (tmp_path / "net.safetensors").stat().st_mtime_ns
    again = runner.invoke(cli.app, ["train", str(config), "--resume", "--device", "cpu"])
    assert "is finished already" in again.output.replace("\n", " ")
    other = runner.invoke(cli.app, ["train", str(config), "--resume", "--device", "cpu", "--set", "training.seed=5"])
    assert "was trained with other settings" in str(other.exception)
    assert (tmp_path / "net.safetensors").stat().st_mtime_ns == written
    first, second = checkpoint.load(tmp_path / "net.safetensors"), run(read_settings(config))
    assert without_times(first.training["history"]) == without_times(second.record()["history"])
    assert first.training["selection"] == second.selection
    weights = second.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in first.model.state_dict().items())


def test_checkpoints_without_the_usual_ending_have_states_of_their_own(tmp_path):
    config = tmp_path / "net.toml"
    config.write_text(TOML.replace("epochs = 6", "epochs = 3"))
    (tmp_path / "run.lr0.2.state").write_bytes(b"of the other run")
    for name, finished in (("run.lr0.1", True), ("run.lr0.2", False)):
        result = runner.invoke(cli.app, ["train", str(config), "--output", str(tmp_path / name), "--device", "cpu"])
        assert (result.exit_code == 0) == finished, result.output
    assert (tmp_path / "run.lr0.2.state").read_bytes() == b"of the other run"


def test_a_checkpoint_is_written_by_one_run_at_a_time(tmp_path):
    config, target = tmp_path / "net.toml", tmp_path / "net.safetensors"
    config.write_text(TOML.replace("epochs = 6", "epochs = 2"))
    command = ["train", str(config), "--device", "cpu", "--resume"]
    with only_writer(target):
        refused = runner.invoke(cli.app, command)
        assert isinstance(refused.exception, OutputError)
        assert f"{target} is in use by another process" in str(refused.exception)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["net.safetensors.lock", "net.toml"]
    assert runner.invoke(cli.app, command).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.safetensors", "net.toml"]


def test_a_run_that_is_resumed_before_it_has_begun_says_that_it_starts(tmp_path):
    config = tmp_path / "net.toml"
    config.write_text(TOML.replace("epochs = 6", "epochs = 2"))
    command = ["train", str(config), "--device", "cpu"]
    result = runner.invoke(cli.app, [*command, "--resume"])
    assert result.exit_code == 0
    state, target = tmp_path / "net.state.safetensors", tmp_path / "net.safetensors"
    assert f"nothing to resume, there is neither {state} nor {target}: the training starts anew" in result.stderr
    target.unlink()
    assert "nothing to resume" not in runner.invoke(cli.app, command).stderr


def test_a_run_is_continued_or_thrown_away_but_not_both(tmp_path):
    config, state = tmp_path / "net.toml", tmp_path / "net.state.safetensors"
    config.write_text(TOML)
    state.write_bytes(b"of a run")
    result = runner.invoke(cli.app, ["train", str(config), "--resume", "--restart"])
    assert isinstance(result.exception, OutputError)
    assert "give one of them" in str(result.exception)
    assert state.read_bytes() == b"of a run"


def test_an_unfinished_run_may_be_thrown_away(tmp_path):
    config = tmp_path / "net.toml"
    config.write_text(TOML.replace("epochs = 6", "epochs = 3"))
    (tmp_path / "net.state.safetensors").write_bytes(b"of another run")
    assert runner.invoke(cli.app, ["train", str(config), "--restart", "--device", "cpu"]).exit_code == 0
    assert not (tmp_path / "net.state.safetensors").exists()
