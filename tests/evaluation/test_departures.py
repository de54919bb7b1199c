"""Where a training departs from the paper's."""

from pathlib import Path

import pytest

from lbp.evaluation import departures, departures_text
from lbp.experiments import matching_rows, paper_rows
from lbp.models import ModelSettings
from lbp.training import read_settings

CONFIGS = Path(__file__).parents[2] / "configs"


def compared(name, **changes):
    settings = read_settings(CONFIGS / name, changes)
    shape = (1, 28, 28) if settings.data.name == "mnist" else (3, 32, 32)
    model = ModelSettings(
        architecture=settings.model.architecture,
        input_shape=shape,
        num_classes=10,
        activation=settings.model.activation,
    )
    radius = 0.3 if settings.data.name == "mnist" else 2 / 255
    described = settings.model_dump(mode="json")
    (row, *_) = matching_rows(settings.data.name, model, described, radius)
    return row, departures(row, described)


@pytest.mark.parametrize(
    "name",
    [
        "paper/table-4/dm-large-ibp-ramp-0.01-to-0.toml",
        "paper/table-4/dm-large-crown-ibp-relu-0.toml",
        "paper/table-2/dm-large-ibp-ramp-0.01-to-0-eps-2.2-255.toml",
    ],
)
def test_the_papers_settings_differ_in_the_choice_on_the_test_set_alone(name):
    assert compared(name)[1] == {"selection": ("validation", "test")}
    row, found = compared(name, **{"training.selection": "test"})
    assert found == {}
    assert departures_text(row, found) == f"paper, table {row.table}: trained as here"


def test_a_short_schedule_is_named_with_both_values():
    row, found = compared("short/mnist-dm-large-crown-ibp-ramp.toml")
    assert found["epochs"] == (70, 200)
    assert found["lr_milestones"] == ([50, 60], [130, 190])
    assert found["initialization"] == ("ibp", "default")
    assert found["eta_keep_epochs"] == (21, 70)
    assert "kappa_end" not in found, "0-0 is one of the paper's three pairs"
    assert departures_text(row, found).startswith("paper, table 4: trained otherwise, here epochs 70 (paper: 200), ")


def test_another_kappa_or_beta_is_named():
    name = "paper/table-4/dm-large-crown-ibp-ramp-0.01-to-0.toml"
    found = compared(name, **{"training.kappa_end": "0.25", "training.beta_end": "0.5"})[1]
    assert (found["kappa_end"], found["beta_end"]) == ((0.25, 0.5), (0.5, 0.0))


def test_other_inputs_than_the_papers_are_named():
    name = "paper/table-2/dm-large-ibp-ramp-0.01-to-0-eps-2.2-255.toml"
    changes = {"training.selection": "test", "model.normalize": "false", "data.crop": "28", "training.clip": "[-1, 2]"}
    found = compared(name, **changes)[1]
    assert found == {"clip": ([-1.0, 2.0], [0.0, 1.0]), "crop": (28, None), "normalize": (False, True)}


@pytest.mark.parametrize("described", [{}, {"training": "unknown", "data": None, "model": []}])
def test_a_record_that_says_nothing_departs_in_nothing(described):
    assert departures(paper_rows()[1], described) == {}
