"""The settings files: written by their script, one per row of the paper, each trainable."""

import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch

from lbp.experiments import paper_rows
from lbp.models import build
from lbp.training import RunSettings, Trainer, controls_at, read_settings
from lbp.training.config import settings_for
from lbp.training.initialization import initialize_for_ibp

FOLDER = Path(__file__).parents[2] / "configs"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.toml"))
CHANNELS = {"mnist": 1, "digits": 1, "cifar10": 3, "tiny-imagenet": 3}


@pytest.fixture(scope="module")
def generate():
    specification = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_files_are_those_that_the_script_writes(generate, tmp_path):
    generate.main(tmp_path)
    written = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.toml")}
    assert written == {name: (FOLDER / name).read_text() for name in FILES}


def test_the_page_has_every_setting_in_the_table_of_its_part():
    page = (FOLDER.parent / "docs" / "training.md").read_text()
    for name, field in RunSettings.model_fields.items():
        (table,) = re.findall(rf"^\| `\[{name}\]` .*?\n\n", page, re.MULTILINE | re.DOTALL)
        rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)[1:]
        described = [part.strip("`") for row in rows for part in row.split(", ")]
        assert sorted(described) == sorted(field.annotation.model_fields)


def test_every_row_of_tables_2_to_7_has_its_file():
    def rows():
        for row in paper_rows():
            if row.table in "234567":
                yield row.table, row.data, row.architecture, row.loss, row.activation, row.eta_start, row.train_radius

    def described(name):
        settings = read_settings(FOLDER / name)
        activation, training = settings.model.activation, settings.training
        kind = "ramp" if activation.name == "ramp" else "relu"
        table = name.split("/")[1].removeprefix("table-")
        return table, settings.data.name, settings.model.architecture, training.loss, kind, activation.eta, training.eps

    files = [described(name) for name in FILES if name.startswith("paper/")]
    assert set(files) == set(rows())
    assert len(files) == 24 + 4 + 3 * 12 + 6


@pytest.mark.parametrize("name", FILES)
def test_every_schedule_comes_to_its_end(name):
    training = read_settings(FOLDER / name).training
    last = controls_at(training, 10 * training.epochs - 1, 10)
    assert last.eps == (0.0 if training.loss == "natural" else training.eps)
    assert last.kappa == (1.0 if training.loss == "natural" else training.kappa_end)
    assert last.beta == (training.beta_end if training.loss == "crown-ibp" else 0.0)
    assert last.eta == (training.eta_start if training.eta_end is None else training.eta_end)


@pytest.mark.parametrize("name", FILES)
def test_every_file_trains_two_steps(name, synthetic):
    settings = read_settings(FOLDER / name)
    # Few small images and a short schedule; the network, the losses and everything else are those of the file.
    images = synthetic(4, shape=(CHANNELS[settings.data.name], 8, 8), classes=10)
    short = {"epochs": 2, "batch_size": 4, "warm_up_epochs": 0, "ramp_epochs": 2, "selection": "last"}
    training = settings.training.model_copy(update=short)
    torch.manual_seed(0)
    model = build(settings_for(settings.model, images))
    if training.initialization == "ibp":
        initialize_for_ibp(model)
    before = model.output.weight.detach().clone()
    trainer = Trainer(model, images, training)
    assert all(math.isfinite(trainer.run_epoch().loss) for _ in range(2))
    assert not torch.equal(model.output.weight, before)
    assert trainer.progress.history[-1].eps == settings.training.eps
