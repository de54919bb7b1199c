"""The scripts that train and tabulate, on a handful of made-up images: what is done is not done again."""

import importlib
import json
import struct

import numpy as np
import pytest
from typer.testing import CliRunner

from lbp import cli

SMALL = [
    part
    for setting in (
        "model.architecture=DM-Small",
        "training.epochs=2",
        "training.ramp_epochs=1",
        "training.eta_keep_epochs=1",
        "training.eta_fall_epochs=0",
        "training.batch_size=9",
    )
    for part in ("--set", setting)
]
FEW_ATTACKS = ["--pgd-restarts", "1", "--queries", "2"]


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnist")
    generator = np.random.default_rng(0)
    for stem, count in (("train", 20), ("t10k", 3)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, count, dtype=np.uint8)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, count, 28, 28) + images.tobytes())
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + labels.tobytes())
    return folder


@pytest.fixture
def script(monkeypatch):
    """Loads a script, whose commands then run in this process, up to a number of them."""

    def load(name, at_most=None):
        monkeypatch.syspath_prepend("benchmarks")
        module, train_gpu = importlib.import_module(name), importlib.import_module("train_gpu")
        done = []

        def run(self, *arguments):
            if len(done) == at_most:
                raise train_gpu.TimeIsUpError
            done.append(arguments[0])
            quick = FEW_ATTACKS if arguments[0] == "evaluate" else []
            result = CliRunner().invoke(cli.app, [*map(str, arguments), *quick])
            assert result.exit_code == 0, result.output or result.exception

        monkeypatch.setattr(train_gpu.Clock, "run", run)
        return module, done

    return load


def test_training_on_a_gpu_goes_on_where_the_time_was_up(script, mnist, tmp_path):
    arguments = [
        "--data-root", str(mnist), "--device", "cpu", "--losses", "ibp", "--limit", "3", "--pgd-steps", "1",
        "--state", str(tmp_path / "state"), "--output", str(tmp_path / "out"), *SMALL,
    ]  # fmt: skip
    module, done = script("train_gpu", at_most=2)
    module.main(arguments)
    assert done == ["train", "evaluate"]
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["finished"], [row["eps"] for row in record["rows"]]) == (False, ["0.2"])
    module, done = script("train_gpu")
    module.main(arguments)
    assert done == ["evaluate", "evaluate", "train", "evaluate", "evaluate", "evaluate"]
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["finished"]
    assert [(row["activation"], row["eps"]) for row in record["rows"]] == [
        (title, eps) for title in ("Ramp(0.01→0)", "ReLU(0)") for eps in ("0.2", "0.3", "0.4")
    ]
    assert all(row["trained"]["training"]["epochs"] == 2 for row in record["rows"])
    assert len((tmp_path / "out.md").read_text().splitlines()) == 2 + 6
    module, done = script("train_gpu")
    module.main(arguments)
    assert done == []


def test_no_command_starts_when_the_time_is_up(monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")
    module = importlib.import_module("train_gpu")
    with pytest.raises(module.TimeIsUpError):
        module.Clock(0.0).run("info")


def test_the_quick_table_has_a_row_for_every_radius_and_activation(script, mnist, tmp_path):
    module, done = script("quick_table")
    state, output = str(tmp_path / "state"), str(tmp_path / "out")
    arguments = [
        "--data-root",
        str(mnist),
        "--state",
        state,
        "--output",
        output,
        "--limit",
        "2",
        "--seeds",
        "4",
        *SMALL,
    ]
    module.main(arguments)
    assert done == ["train", *["evaluate", "verify"] * 3] * 2
    rows = (tmp_path / "out.md").read_text().splitlines()[2:]
    assert [row.split("|")[1:3] for row in rows] == [
        [f" {eps} ", f" {name} "] for eps in ("0.1", "0.2", "0.3") for name in ("ReLU", "ParamRamp")
    ]
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["seeds"] == [4]
    assert all(len(row["errors"]) == 1 for row in record["rows"])
