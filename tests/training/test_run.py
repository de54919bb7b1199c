"""Runs from settings files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lbp import checkpoint
from lbp.commands.network import load_subject
from lbp.data import load
from lbp.errors import InvalidInputError
from lbp.training import ConfigError, RunSettings, TrainingSettings, read_settings, run, train

TOML = """
[data]
name = "digits"
limit = 100

[model]
architecture = "DM-Small"
activation = { name = "ramp", eta = 0.01 }

[training]
eps = "5/255"
epochs = 2
batch_size = 50
warm_up_epochs = 1
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(TOML)
    return path


def test_a_run_trains_the_network_of_its_settings_and_saves_it(config, tmp_path):
    settings = read_settings(config)
    finished = run(settings)
    finished.save(tmp_path / "net.safetensors")
    loaded = checkpoint.load(tmp_path / "net.safetensors")
    assert loaded.settings.activation.name == "ramp"
    assert loaded.training == finished.record()
    assert {name: loaded.training[name] for name in ("data", "model", "training")} == settings.model_dump(mode="json")
    assert [record["epoch"] for record in loaded.training["history"]] == [0, 1]
    assert loaded.training["selection"] == {
        "by": "validation", "epoch": 1, "examples": 10, "score": finished.history[1].held_out_verified_error,
    }  # fmt: skip
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(loaded.model(x), finished.model(x))


def test_a_run_depends_on_its_seed_and_not_on_the_global_random_state(config):
    states = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        states.append(run(read_settings(config)).model.state_dict())
        assert torch.initial_seed() == global_seed
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 2", "epochs = 0", r"training.epochs: .*greater than 0, got 0"),
        ("epochs = 2", "epochz = 2", r"training.epochs: Field required.*training.epochz"),
        ('eps = "5/255"', 'eps = "a lot"', "training.eps: expected a number"),
        ("eta = 0.01", "eta = 2.0", "model.activation.eta"),
        ("[training]", "[trainings]", "training: Field required"),
        ("[data]", "[data", "not a readable TOML file"),
    ],
)
def test_bad_settings_are_named(config, old, new, message):
    config.write_text(TOML.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        read_settings(config)


@pytest.mark.parametrize(
    ("activation", "setting", "message"),
    [
        ("relu", "eta_start = 0.01", "training.eta_start: model.activation is relu, which has no slope"),
        ("relu", "r_noise = 0.01", "training.r_noise: model.activation is relu, which has no r"),
        ("leaky-relu", "r_noise = 0.01", "training.r_noise: model.activation is leaky-relu, which has no r"),
    ],
)
def test_what_the_activation_does_not_have_cannot_be_trained(config, activation, setting, message):
    config.write_text(TOML.replace('name = "ramp", eta = 0.01', f'name = "{activation}"') + setting)
    with pytest.raises(ConfigError, match=message):
        read_settings(config)


@pytest.mark.parametrize("given", ["none", "None"])
@pytest.mark.parametrize(
    "name",
    ["data.limit", "data.crop", "training.clip", "training.gradient_clip", "training.eta_start", "training.eta_end"],
)
def test_what_may_be_absent_is_switched_off_by_none_in_the_file_and_in_a_change(tmp_path, name, given):
    table, key = name.split(".")
    tables = {
        "data": {"limit": "100", "crop": "6"},
        "model": {"activation": '{ name = "ramp" }'},
        "training": {"eps": "0.1", "epochs": "1", "clip": "[0, 2]", "gradient_clip": "10", "eta_start": "0.1"},
    }

    def write(value):
        changed = {**tables, table: {**tables[table], key: value}}
        lines = [part for title, pairs in changed.items() for part in (f"[{title}]", *map(" = ".join, pairs.items()))]
        (tmp_path / "net.toml").write_text("\n".join(lines))
        return tmp_path / "net.toml"

    assert getattr(getattr(read_settings(write(f'"{given}"')), table), key) is None
    assert getattr(getattr(read_settings(write(tables[table].get(key, "0.05")), {name: given}), table), key) is None


def test_training_without_a_clip_takes_images_of_any_range_and_bounds_the_whole_ball(digits):
    """An image that is black: half of the ball lies outside of the range, and counts only without the clip."""
    data = replace(digits.first(4), images=torch.zeros(4, 1, 8, 8))
    unverified = []
    for clip in ((0.0, 1.0), "none"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        chosen = TrainingSettings(eps=0.1, epochs=1, clip=clip)
        unverified.append(train(model, data, chosen)[0].loss)
    assert unverified[0] < unverified[1]
    bright = replace(data, images=data.images + 3)
    with pytest.raises(InvalidInputError, match=r"training images have values from 3 to 3"):
        train(model, bright, TrainingSettings(eps=0.1, epochs=1))
    assert train(model, bright, TrainingSettings(eps=0.1, epochs=1, clip="none"))


def test_missing_files_and_unknown_names_are_refused(tmp_path, config):
    with pytest.raises(ConfigError, match="no such file"):
        read_settings(tmp_path / "nothing.toml")
    config.write_text(TOML.replace("DM-Small", "DM-Tiny"))
    with pytest.raises(ConfigError, match="unknown architecture 'DM-Tiny'"):
        run(read_settings(config))
    config.write_text(TOML.replace("[training]", "normalize = true\n[training]"))
    with pytest.raises(ConfigError, match="digits has no customary mean"):
        run(read_settings(config))


def test_a_network_trained_on_windows_is_evaluated_on_the_middle_of_images(tmp_path):
    generator = np.random.default_rng(0)
    folder = tmp_path / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("a b c")
    for name in "abc":
        (folder / "train" / name / "images").mkdir(parents=True)
        for path in (folder / "train" / name / "images" / f"{name}.JPEG", folder / "val" / "images" / f"{name}.JPEG"):
            Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    (folder / "val" / "val_annotations.txt").write_text("".join(f"{name}.JPEG\t{name}\n" for name in "abc"))
    settings = RunSettings.model_validate(
        {
            "data": {"name": "tiny-imagenet", "crop": 8},
            "model": {"normalize": True},
            "training": {
                "eps": "1/255", "epochs": 1, "fusion": True, "augmentation": {"flip": True}, "selection": "test",
            },
        }
    )  # fmt: skip
    finished = run(settings, tmp_path)
    assert finished.model_settings.input_shape == (3, 8, 8)
    assert finished.selection["examples"] == 3
    finished.save(tmp_path / "net.safetensors")
    subject = load_subject(tmp_path / "net.safetensors", None, "test", tmp_path, None, torch.device("cpu"))
    assert torch.equal(subject.images, load("tiny-imagenet", "test", tmp_path).images[:, :, 28:36, 28:36])
