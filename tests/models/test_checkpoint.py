"""Checkpoints: complete, atomic, and refused with the reason when they are not what they claim."""

import hashlib
import json
import pickle

import pytest
import safetensors.torch
import torch

from lbp import checkpoint
from lbp.checkpoint import CheckpointError
from lbp.errors import InvalidInputError
from lbp.models import ActivationSettings, ModelSettings, Normalization, build
from lbp.nn import ParamRamp

RAMP = ModelSettings(
    architecture="DM-Small",
    input_shape=(1, 8, 8),
    num_classes=3,
    activation=ActivationSettings(name="ramp", eta=0.1, r=2.0),
)


def described(settings=RAMP, version=1, **other):
    return {
        "lbp": json.dumps(
            {"format_version": version, "model": settings.model_dump(mode="json"), "training": {}, **other}
        )
    }


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "folder" / "net.safetensors"
    checkpoint.save(target, build(RAMP), RAMP, training={"epochs": 3})
    return target


@pytest.mark.parametrize(
    "settings",
    [
        RAMP,
        RAMP.model_copy(update={"activation": ActivationSettings()}),
        RAMP.model_copy(update={"activation": ActivationSettings(name="leaky-relu", eta=0.2)}),
        RAMP.model_copy(update={"architecture": "CNN-7+BN"}),
        RAMP.model_copy(update={"normalization": Normalization(mean=(0.5,), std=(0.25,))}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(tmp_path, settings, dtype):
    model = build(settings).to(dtype)
    x = torch.rand(4, 1, 8, 8, dtype=dtype)
    model(x)
    checkpoint.save(tmp_path / "net", model, settings, training={"eps": 0.1, "milestones": [1, 2]})
    loaded = checkpoint.load(tmp_path / "net")
    assert loaded.settings == settings
    assert loaded.training == {"eps": 0.1, "milestones": [1, 2]}
    assert not loaded.model.training
    assert torch.equal(loaded.model(x), model.eval()(x))
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())


def test_the_state_of_ramps_comes_back(tmp_path):
    model = build(RAMP)
    model.act1.set_eta(0.25)
    model.act1.warm_up = True
    model.act2.end_warm_up(-0.5)
    checkpoint.save(tmp_path / "net", model, RAMP)
    loaded = checkpoint.load(tmp_path / "net").model
    assert loaded.act1.eta == 0.25
    assert loaded.act1.warm_up
    assert loaded.act2.r.eq(-0.5).all()
    assert isinstance(loaded.act3, ParamRamp)


def test_a_failed_write_leaves_the_old_file_alone(path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, build(RAMP), RAMP)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_network_of_other_settings_cannot_be_saved(tmp_path):
    with pytest.raises(CheckpointError, match=r"act1\.r"):
        checkpoint.save(tmp_path / "net", build("DM-Small", (1, 8, 8), 3), RAMP)
    with pytest.raises(CheckpointError, match=r"output.weight has shape \[4, 100\]"):
        checkpoint.save(tmp_path / "net", build("DM-Small", (1, 8, 8), 4, "ramp"), RAMP)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "training", [{"a": {1, 2}}, {"a": torch.ones(2)}, {"a": float("nan")}, {(1, 2): 3}, {1: 2, "a": 3}, [1], "abc"]
)
def test_only_json_values_are_saved_about_the_training(path, training):
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"training must .* JSON values"):
        checkpoint.save(path, build(RAMP), RAMP, training)
    assert path.read_bytes() == before


def test_only_a_network_with_values_and_its_settings_are_saved(tmp_path):
    for model, settings in ((None, RAMP), (build(RAMP), {"architecture": "DM-Small"})):
        with pytest.raises(CheckpointError, match=r"takes a torch\.nn\.Module and its ModelSettings"):
            checkpoint.save(tmp_path / "net", model, settings)
    with pytest.raises(InvalidInputError, match=r"conv1\.weight of the model is on the device meta"):
        checkpoint.save(tmp_path / "net", build(RAMP).to("meta"), RAMP)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_truncated_files_are_refused(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        checkpoint.load(path)


def test_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            import os

            return os.mkdir, (str(tmp_path / "touched"),)

    (tmp_path / "net").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        checkpoint.load(tmp_path / "net")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("overwritten", [True, False])
def test_what_becomes_of_the_file_does_not_change_the_network(path, overwritten):
    loaded = checkpoint.load(path)
    content, before = path.read_bytes(), loaded.model(torch.ones(1, 1, 8, 8))
    assert loaded.sha256 == hashlib.sha256(content).hexdigest()
    with path.open("r+b") as stream:
        # In place, as `cp` and `rsync --inplace` do.
        stream.write(bytes(len(content))) if overwritten else stream.truncate(len(content) - 4)
    assert torch.equal(loaded.model(torch.ones(1, 1, 8, 8)), before)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such file"):
        checkpoint.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "not an lbp checkpoint"),
        ({"format": "pt"}, "not an lbp checkpoint"),
        ({"lbp": "{"}, "damaged description"),
        ({"lbp": "[1]"}, "damaged description"),
        ({"lbp": "{}"}, "damaged description"),
        ({"lbp": "[" * 100_000}, "damaged description"),
        (described(version=99), "format version 99, this release reads up to 1"),
        (described(version=0), "format version 0, this release reads up to 1"),
        (described(version="1"), "damaged description"),
        (described(version=True), "damaged description"),
        (described(model={"architecture": "DM-Small"}), "input_shape: Field required"),
        (described(model={**RAMP.model_dump(), "architecture": "X"}), "unknown architecture 'X'"),
        (described(model={**RAMP.model_dump(), "input_shape": [1, 2**20, 2**20]}), "act1.r has shape"),
        (described(model={**RAMP.model_dump(), "input_shape": [1, 2**40, 2**40]}), "overflow"),
        (described(model={**RAMP.model_dump(), "input_shape": [10**30, 8, 8]}), "net.safetensors: "),
        (described(model={**RAMP.model_dump(), "num_classes": True}), "num_classes: expected no truth value, got True"),
    ],
)
def test_wrong_descriptions_are_refused(path, metadata, message):
    safetensors.torch.save_file(build(RAMP).state_dict(), path, metadata)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path)


def without(state):
    del state["fc1.bias"]


def renamed(state):
    state["fc1.beyas"] = state.pop("fc1.bias")


def reshaped(state):
    state["fc1.bias"] = torch.zeros(7)


def half(state):
    state["fc1.bias"] = state["fc1.bias"].half()


def not_a_number(state):
    state["conv1.weight"][0, 0, 0, 0] = torch.nan


def infinite(state):
    state["conv1.weight"][0, 0, 0, 0] = -torch.inf


def bad_eta(state):
    state["act1.eta"] = torch.tensor(7.0)


def flag_of_another_type(state):
    state["act1._extra_state"] = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without, "lacks fc1.bias"),
        (renamed, "has unknown fc1.beyas"),
        (reshaped, r"fc1.bias has shape \[7\], the architecture needs \[100\]"),
        (half, "float16"),
        (not_a_number, "conv1.weight has values that are NaN or infinite"),
        (infinite, "conv1.weight has values that are NaN or infinite"),
        (bad_eta, r"act1.eta must be in \[0, 1\]"),
        (flag_of_another_type, "act1._extra_state has type torch.float32"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(path, damage, message):
    state = build(RAMP).state_dict()
    damage(state)
    safetensors.torch.save_file(state, path, described())
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path)
