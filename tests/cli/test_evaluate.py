"""`lbp evaluate`: the table, the files, and the paper's row beside it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from lbp import checkpoint, cli
from lbp.commands import evaluate as command
from lbp.errors import OutputError
from lbp.experiments import paper_rows
from lbp.models import ModelSettings, build
from lbp.results import read_lines

runner = CliRunner()
QUICK = ["--pgd-steps", "5", "--pgd-restarts", "1", "--queries", "10", "--batch-size", "4"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "net.safetensors"
    settings = ModelSettings(architecture="DM-Small", input_shape=(1, 8, 8), num_classes=10)
    torch.manual_seed(0)
    training = {"data": {"name": "digits"}, "training": {"epochs": 7}}
    checkpoint.save(path, build(settings), settings, training)
    return path


def invoke(network, *more, limit=10):
    arguments = ["evaluate", network, "--eps", "2/255", *([] if limit is None else ["--limit", limit]), *QUICK, *more]
    return runner.invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_it_prints_a_markdown_table_and_writes_it_and_json(network, tmp_path):
    result = invoke(network, "--json", tmp_path / "out.json", "--markdown", tmp_path / "out.md")
    assert result.exit_code == 0, result.output
    assert "DM-Small, digits (10 images), eps 0.00784" in result.stdout
    assert "| error (%) | tight | adaptive |" in result.stdout
    assert (tmp_path / "out.md").read_text() in result.stdout
    content = json.loads((tmp_path / "out.json").read_text())
    assert set(content["summary"]["errors"]) > {"clean", "PGD", "attacked", "CROWN-LBP adaptive"}
    assert content["settings"]["attack"] == {"steps": 5, "restarts": 1, "queries": 10, "seed": 0}
    assert [image["index"] for image in content["images"]] == list(range(10))
    assert content["paper"] == []


@pytest.mark.parametrize(("queries", "ran"), [("0", False), ("10", True)])
def test_attacks_that_did_not_run_have_empty_cells(network, tmp_path, queries, ran):
    more = ("--pgd-restarts", 0, "--queries", queries, "--json", tmp_path / "out.json")
    result = invoke(network, *more, limit=4)
    assert result.exit_code == 0, result.output
    assert "| PGD attack |  |  |" in result.stdout
    assert ("| all attacks |  |  |" in result.stdout) != ran
    assert ("no attack was run" in result.stdout) != ran
    errors = json.loads((tmp_path / "out.json").read_text())["summary"]["errors"]
    assert errors["PGD"] is None
    assert (errors["attacked"] is None) != ran


def test_one_output_that_cannot_be_written_does_not_cost_the_other(network, monkeypatch, tmp_path):
    def write(path, content):
        if path.suffix == ".md":
            raise OutputError(f"cannot write {path}")
        path.write_bytes(content)

    monkeypatch.setattr("lbp.commands.options.write_atomically", write)
    result = invoke(network, "--json", tmp_path / "out.json", "--markdown", tmp_path / "out.md", limit=2)
    assert isinstance(result.exception, OutputError)
    assert json.loads((tmp_path / "out.json").read_text())["summary"]["examples"] == 2
    assert '"images"' not in result.stdout


def test_where_json_cannot_be_written_it_is_printed(network, monkeypatch, tmp_path):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    result = invoke(network, "--json", tmp_path / "out.json", limit=2)
    assert isinstance(result.exception, OutputError)
    content, end = json.JSONDecoder().raw_decode(result.stdout)
    assert [image["index"] for image in content["images"]] == [0, 1]
    assert "| error (%) |" in result.stdout[end:]


def test_crown_is_there_on_request(network):
    result = invoke(network, "--methods", "ibp,crown", "--strategies", "tight", limit=3)
    assert result.exit_code == 0, result.output
    assert "| CROWN |" in result.stdout
    assert "LBP" not in result.stdout
    assert "adaptive" not in result.stdout


def test_an_interrupted_evaluation_is_continued(network, tmp_path):
    path = tmp_path / "results.jsonl"
    assert invoke(network, "--results", path).exit_code == 0
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:30])
    result = invoke(network, "--results", path, "--resume", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    assert sorted(record["index"] for record in read_lines(path)[1]) == list(range(10))
    assert json.loads((tmp_path / "out.json").read_text())["summary"]["examples"] == 10
    assert "made with other settings" in str(invoke(network, "--results", path, "--resume", "--seed", 1).exception)


def test_the_papers_row_stands_beside_ours_on_the_whole_test_set_alone(network, monkeypatch, tmp_path):
    row = paper_rows()[1]
    asked = []

    def matching(*arguments):
        asked.append(arguments)
        return [row]

    monkeypatch.setattr(command, "matching_rows", matching)
    monkeypatch.setattr(command, "load_subject", lambda *a, load=command.load_subject: load(*a[:4], 5, *a[5:]))
    result = invoke(network, "--json", tmp_path / "out.json", limit=None)
    assert result.exit_code == 0, result.output
    assert f"paper, table {row.table}, tight" in result.stdout
    assert asked[0][0] == "digits"
    assert f"paper, table {row.table}: trained otherwise, here epochs 7 (paper: 3200)" in result.stdout
    (stated,) = json.loads((tmp_path / "out.json").read_text())["paper"]
    assert stated["errors"] == row.errors
    assert stated["departures"] == {"epochs": {"here": 7, "paper": 3200}}
    assert "paper" not in invoke(network).stdout
    assert "paper" not in invoke(network, "--split", "train", limit=None).stdout
