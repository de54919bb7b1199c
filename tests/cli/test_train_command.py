"""`lbp train`: settings from the command line, logs, and what it refuses."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from lbp import checkpoint, cli
from lbp.commands.train import _is_finished
from lbp.errors import MissingPackageError, OutputError
from lbp.training import ConfigError, EpochRecord, StateError, StepRecord, read_settings
from lbp.training.state import save_state
from lbp.training.tensorboard import TensorBoardLog

runner = CliRunner()
TOML = """
[data]
limit = 40
[training]
eps = 0.02
epochs = 2
batch_size = 20
warm_up_epochs = 1
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "net.toml"
    path.write_text(TOML)
    return path


def invoke(*arguments):
    return runner.invoke(cli.app, ["train", *map(str, arguments), "--device", "cpu"], env={"COLUMNS": "300"})


def test_settings_may_be_changed_on_the_command_line(config, tmp_path):
    changes = (
        "data={ limit = 50 }",
        "training.seed=7",
        "training.selection=test",
        'model.activation={ name = "ramp", eta = 0.25 }',
    )
    result = invoke(config, *(part for change in changes for part in ("--set", change)))
    assert result.exit_code == 0, result.output
    assert "images of the test set" in result.stdout
    record = checkpoint.load(tmp_path / "net.safetensors").training
    assert record["training"]["seed"] == 7
    assert record["selection"]["by"] == "test", "a choice on the test set is named in the record"
    assert record["selection"]["examples"] == 364
    assert record["model"]["activation"]["eta"] == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.sead=7", "training.sead: unknown name, got 7"),
        ("training.eps=wide", "training.eps: expected a number"),
        ("training.seed=true", "training.seed: expected no truth value, got True"),
        ("training.lr=true", "training.lr: expected no truth value, got True"),
        ("training.lr_milestones=[true]", "training.lr_milestones: expected no truth value"),
        ("training.eps.unit=1", "eps is a value, not a table"),
        ("eps=0.1", "eps: settings are named with their table, such as training.eps"),
        ("limit=9", "limit: settings are named with their table, such as data.limit"),
        ("training.eps=none", "training.eps: expected a number"),
        ("training.lr=none", "training.lr: Input should be a valid number"),
        ("training.seed=none", "training.seed: Input should be a valid integer"),
    ],
)
def test_bad_changes_are_named(config, change, message):
    result = invoke(config, "--set", change)
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_a_change_without_a_value_and_an_unknown_device_are_refused(config):
    assert "NAME=VALUE" in invoke(config, "--set", "training.seed").output
    result = runner.invoke(cli.app, ["train", str(config), "--device", "abacus"])
    assert "unknown device 'abacus'" in result.output


@pytest.fixture
def curve(monkeypatch):
    """Reads a curve as TensorBoard does: positions and values."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    # Files of one second and process are read in the order of their counter's text.
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    monkeypatch.setattr(writer, "_global_uid", writer.AtomicCounter(100))

    def read(folder, name):
        events = accumulator.EventAccumulator(str(folder)).Reload().Scalars(name)
        return [event.step for event in events], [event.value for event in events]

    return read


def test_tensorboard_gets_every_step_and_epoch(config, tmp_path, curve):
    result = invoke(config, "--tensorboard", tmp_path / "log")
    assert result.exit_code == 0, result.output
    steps, epochs = tmp_path / "log" / "steps", tmp_path / "log" / "epochs"
    assert curve(steps, "step/loss")[0] == [0, 1, 2, 3]
    history = checkpoint.load(tmp_path / "net.safetensors").training["history"]
    for name, key in (("train/loss", "loss"), ("train/clean error", "clean_error")):
        assert curve(epochs, name) == ([1, 2], pytest.approx([record[key] for record in history]))
    held_out = [history[1]["held_out_verified_error"]]
    assert curve(epochs, "held out/verified error") == ([2], pytest.approx(held_out))


def test_a_log_that_is_continued_has_every_point_once(config, tmp_path, curve, monkeypatch):
    class Killed(Exception):
        pass

    def dies(log, record):
        on_step(log, record)
        if record.step == 3:
            raise Killed

    log, on_step = tmp_path / "log", TensorBoardLog.on_step
    with monkeypatch.context() as patch:
        patch.setattr(TensorBoardLog, "on_step", dies)
        assert isinstance(invoke(config, "--tensorboard", log, "--set", "training.epochs=3").exception, Killed)
    assert curve(log / "steps", "step/loss")[0] == [0, 1, 2, 3], "one step of the epoch that is lost"
    result = invoke(config, "--tensorboard", log, "--set", "training.epochs=3", "--resume")
    assert result.exit_code == 0, result.output
    assert curve(log / "steps", "step/loss")[0] == [0, 1, 2, 3, 4, 5]
    assert curve(log / "epochs", "train/loss")[0] == [1, 2, 3]


def test_the_points_of_a_finished_epoch_are_written(tmp_path, curve):
    with TensorBoardLog(tmp_path) as log:
        log.on_step(StepRecord(0, 0, 2, 20, 1.5, 3, None, 0.0))
        log.on_epoch(EpochRecord(0, 1.5, 0.5, None, 0.1, 1.0))
        assert curve(tmp_path / "steps", "step/loss") == ([0], [1.5])
        assert curve(tmp_path / "epochs", "train/loss") == ([1], [1.5])


def test_a_run_that_begins_anew_replaces_the_curves(config, tmp_path, curve):
    for epochs in (3, 2):
        result = invoke(config, "--tensorboard", tmp_path / "log", "--set", f"training.epochs={epochs}")
        assert result.exit_code == 0, result.output
    assert curve(tmp_path / "log" / "steps", "step/loss")[0] == [0, 1, 2, 3]
    assert curve(tmp_path / "log" / "epochs", "train/loss")[0] == [1, 2]


def test_a_log_that_cannot_be_written_is_refused(config, tmp_path):
    pytest.importorskip("tensorboard")
    result = invoke(config, "--tensorboard", config)
    assert isinstance(result.exception, OutputError)
    assert f"cannot make the folder {config}" in str(result.exception)
    record = EpochRecord(0, 1.0, 0.5, None, 0.1, 1.0)
    with TensorBoardLog(tmp_path / "log") as log:
        log.on_epoch(record)
        log._writers["epochs"].add_scalar = lambda *arguments: (_ for _ in ()).throw(OSError("disk full"))
        with pytest.raises(OutputError, match=r"cannot write the TensorBoard log into .* \(disk full\)"):
            log.on_epoch(record)


@pytest.mark.parametrize("written", [0, 3, 8])
def test_a_training_goes_on_where_its_log_cannot_be_written(config, tmp_path, monkeypatch, written):
    """Records that fit on the disk: none, some of the first epoch, some of the last."""
    writers = pytest.importorskip("tensorboard.summary.writer.record_writer")
    write, calls, printed = writers.RecordWriter.write, iter(range(100)), []

    def full(writer, data):
        if next(calls) >= written:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, data)

    monkeypatch.setattr(writers.RecordWriter, "write", full)
    monkeypatch.setattr(threading, "excepthook", printed.append)
    result = invoke(config, "--tensorboard", tmp_path / "log")
    assert isinstance(result.exception, OutputError)
    reason = f"cannot write the TensorBoard log into {tmp_path / 'log'} (No space left on device)"
    assert str(result.exception) == f"{reason}; the network itself is complete"
    assert f"{reason}; the training goes on without it" in result.stderr
    assert printed == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "net.safetensors", "net.toml"]
    assert len(checkpoint.load(tmp_path / "net.safetensors").training["history"]) == 2
    assert threading.excepthook == printed.append


def test_a_log_prints_the_errors_of_other_threads(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    printed = []
    monkeypatch.setattr(threading, "excepthook", printed.append)
    with TensorBoardLog(tmp_path):
        thread = threading.Thread(target=open, args=(tmp_path / "missing",))
        thread.start()
        thread.join()
    assert [arguments.exc_type for arguments in printed] == [FileNotFoundError]


def test_without_the_package_the_log_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'lbp\[tensorboard\]'"):
        TensorBoardLog(tmp_path)


def test_who_interrupts_a_run_is_told_how_it_goes_on(config, monkeypatch):
    def interrupted(progress, record):
        if record.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lbp.commands.train.TrainingProgress.__call__", interrupted)
        result = invoke(config)
    assert result.exit_code != 0
    assert "interrupted; the same command with --resume goes on" in result.stderr
    assert invoke(config, "--resume").exit_code == 0


def test_who_interrupts_the_first_epoch_is_told_that_nothing_is_kept(config, monkeypatch):
    def interrupted(progress, record):
        raise KeyboardInterrupt

    monkeypatch.setattr("lbp.commands.train.TrainingProgress.__call__", interrupted)
    result = invoke(config)
    assert result.exit_code == 130
    assert "interrupted; nothing is kept yet" in result.stderr


def test_a_full_disk_leaves_the_state_of_the_epoch_before_and_says_how_it_goes_on(config, monkeypatch):
    saved = []

    def full(path, trainer, settings):
        if trainer.progress.epoch == 2:
            raise OutputError(f"cannot write {path} (No space left on device)")
        save_state(path, trainer, settings)
        saved.append(path.read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["lbp.training.run"], "save_state", full)
        result = invoke(config)
    assert "No space left on device" in str(result.exception)
    assert "stopped; the same command with --resume goes on" in result.stderr
    assert config.with_suffix(".state.safetensors").read_bytes() == saved[0]
    assert invoke(config, "--resume").exit_code == 0


def test_a_run_that_only_the_first_process_sees_finished_is_finished_for_all(config, tmp_path):
    assert invoke(config).exit_code == 0
    folders = [tmp_path / f"rank{rank}" for rank in range(2)]
    for folder in folders:
        folder.mkdir()
        shutil.copy(config, folder)
    shutil.move(tmp_path / "net.safetensors", folders[0])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "--no-python"]
    train = 'cd "rank$LOCAL_RANK" && exec "$0" -m lbp train net.toml --resume --device cpu'
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "300"}
    result = subprocess.run(
        [*launch, "sh", "-c", train, sys.executable],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("net.safetensors is finished already") == 1
    assert list(folders[1].iterdir()) == [folders[1] / "net.toml"]


def world_of_two(rank, *answers):
    """A process whose questions to both have these answers; more questions than answers would wait for ever."""
    told = list(answers)
    return SimpleNamespace(leads=rank == 0, size=2, gather=lambda value: told.pop(0))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_state_that_not_all_processes_find_is_refused_by_all(config, tmp_path, rank):
    state = tmp_path / "net.state.safetensors"
    with pytest.raises(StateError, match=rf"of 2 processes only 1 find {state}; keep it where all can read it"):
        _is_finished(world_of_two(rank, [False, True]), state, tmp_path / "net.safetensors", read_settings(config))


def test_a_refusal_of_the_first_process_is_one_of_all(config, tmp_path):
    reason = "net.safetensors was trained with other settings"
    world = world_of_two(1, [False, False], [(False, reason), (False, None)])
    with pytest.raises(OutputError, match=reason):
        _is_finished(world, tmp_path / "state", tmp_path / "net.safetensors", read_settings(config))


def test_training_leaves_the_random_state_alone(config):
    state = torch.get_rng_state()
    invoke(config)
    assert torch.equal(torch.get_rng_state(), state)
