"""`lbp plot`: every picture from a checkpoint."""

import shutil

import pytest
from typer.testing import CliRunner

from lbp import checkpoint, cli
from lbp.errors import LbpError
from lbp.models import ActivationSettings, ModelSettings, build

runner = CliRunner()
HISTORY = [
    {"epoch": epoch, "loss": 1.0, "clean_error": 0.1, "verified_error": 0.3, "eps": 0.1, "seconds": 1.0}
    for epoch in range(3)
]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    for name in ("relu", "leaky-relu", "ramp"):
        settings = ModelSettings(
            architecture="DM-Small", input_shape=(1, 8, 8), num_classes=10, activation=ActivationSettings(name=name)
        )
        training = {"data": {"name": "digits"}, "history": HISTORY}
        checkpoint.save(folder / f"{name}.safetensors", build(settings), settings, training)
    return folder


def invoke(*arguments):
    return runner.invoke(cli.app, ["plot", *map(str, arguments)], env={"COLUMNS": "200"})


def assert_written(result, target):
    assert result.exit_code == 0, result.output
    assert target.read_bytes().startswith(b"\x89PNG")
    assert str(target) in result.stdout


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["tightness", "relu", "--radii", "1/255,0.1", "--methods", "IBP,CROWN-LBP", "--limit", 2], "relu-tightness"),
        (["neuron-status", "relu", "ramp", "--eps", "0.1", "--limit", 5], "relu-neuron-status"),
        (["slope-sweep", "relu", "--eps", "1/255", "--slopes", "0,0.5", "--limit", 2], "relu-slope-sweep"),
        (["slope-sweep", "leaky-relu", "--eps", "1/255", "--slopes", "0.5", "--limit", 2], "leaky-relu-slope-sweep"),
        (["slope-sweep", "ramp", "--eps", "1/255", "--slopes", "0.5", "--limit", 2], "ramp-slope-sweep"),
        (["training", "ramp", "relu"], "ramp-training"),
    ],
)
def test_a_picture_is_written_beside_the_checkpoint(networks, arguments, name):
    kinds = ("relu", "leaky-relu", "ramp")
    arguments = [networks / f"{part}.safetensors" if part in kinds else part for part in arguments]
    assert_written(invoke(*arguments), networks / f"{name}.png")


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["a/best.safetensors"], ["best"]),
        (["a/best.safetensors", "b/best.safetensors", "b/other.safetensors"], ["a/best", "b/best", "other"]),
        (["x/a/best.safetensors", "y/a/best.safetensors", "y/b/best.safetensors"], ["x/a/best", "y/a/best", "b/best"]),
        (["best.safetensors", "a/best.safetensors"], ["work/best", "a/best"]),
        (["run.lr0.1", "run.lr0.2"], ["run.lr0.1", "run.lr0.2"]),
        (["net", "net.safetensors"], ["net", "net.safetensors"]),
    ],
)
def test_curves_are_labelled_by_the_ends_of_paths_that_tell_them_apart(networks, monkeypatch, tmp_path, paths, labels):
    folder = tmp_path / "work"
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(networks / "relu.safetensors", folder / path)
    drawn = []
    monkeypatch.setattr("lbp.commands.plot.plot_training", lambda runs, title: drawn.extend(runs) or b"")
    monkeypatch.chdir(folder)
    assert invoke("training", *paths).exit_code == 0
    assert drawn == labels


def test_pictures_of_checkpoints_in_one_folder_are_files_of_their_own(networks, tmp_path):
    for name in ("run.lr0.1", "run.lr0.2"):
        shutil.copy(networks / "relu.safetensors", tmp_path / name)
        assert_written(invoke("training", tmp_path / name), tmp_path / f"{name}-training.png")


def test_a_picture_is_written_where_asked(networks, tmp_path):
    target = tmp_path / "new" / "picture.png"
    assert_written(invoke("training", networks / "ramp.safetensors", "--output", target), target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tightness", "relu", "--radii", "0.1,much"], "--radii: expected a number"),
        (["slope-sweep", "relu", "--eps", "0.1", "--slopes", "2", "--limit", "2"], "left slopes must be in"),
        (["training", "relu", "relu"], "relu.safetensors is named twice"),
        (["neuron-status", "relu", "relu", "--eps", "0.1"], "relu.safetensors is named twice"),
    ],
)
def test_what_cannot_be_drawn_is_refused(networks, arguments, message):
    result = invoke(*[networks / f"{part}.safetensors" if part in ("relu", "ramp") else part for part in arguments])
    assert isinstance(result.exception, LbpError)
    assert message in str(result.exception)


def test_a_checkpoint_without_history_has_no_curves(networks):
    loaded = checkpoint.load(networks / "relu.safetensors")
    damaged = [{"eps": "wide"}, {"verified_error": [0.5]}, {"held_out_clean_error": "x"}, {"epoch": 10**400}]
    histories = [[HISTORY[0] | change] for change in damaged]
    for history in (None, [], [{"epoch": 0}], [{"epoch": 0, "loss": "small"}], ["first"], 7, *histories):
        checkpoint.save(networks / "bare.safetensors", loaded.model, loaded.settings, {"history": history})
        refusal = invoke("training", networks / "bare.safetensors").exception
        assert isinstance(refusal, LbpError)
        assert "bare.safetensors: holds no history" in str(refusal)
