"""`lbp verify`: a test set from the command line, interrupted, continued, and divided over processes."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from lbp import checkpoint, cli
from lbp.data import load
from lbp.errors import OutputError
from lbp.files import append_durably
from lbp.models import ModelSettings, build
from lbp.results import read_lines
from lbp.verification import read_verdicts

runner = CliRunner()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "net.safetensors"
    settings = ModelSettings(architecture="DM-Small", input_shape=(1, 8, 8), num_classes=10)
    torch.manual_seed(0)
    model, images = build(settings), load("digits", "train").first(400)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(12):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images.images), images.labels).backward()
        optimizer.step()
    checkpoint.save(path, model, settings, {"data": {"name": "digits"}})
    return path


def command(network, *more):
    arguments = ["verify", network, "--eps", 0.1, "--limit", 12, "--batch-size", 3, "--methods", "IBP,crown", *more]
    return [str(argument) for argument in arguments]


def invoke(network, *more):
    return runner.invoke(cli.app, command(network, *more), env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory):
    """The results file of a run of the command as it is."""
    path = tmp_path_factory.mktemp("whole") / "results.jsonl"
    assert invoke(network, "--results", path).exit_code == 0
    return path


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of it, which may be gone on with."""
    return shutil.copy(whole, tmp_path / "results.jsonl")


def verdicts(path):
    return {verdict.index: (verdict.verdict, verdict.by) for verdict in read_verdicts(path)[1]}


def test_it_prints_a_summary_and_writes_json(network, tmp_path):
    result = invoke(network, "--json", tmp_path / "new" / "result.json")
    assert result.exit_code == 0, result.output
    for text in ("DM-Small, 12 images", "IBP", "CROWN", "verified error so far", "misclassified", "attacked error"):
        assert text in result.stdout
    content = json.loads((tmp_path / "new" / "result.json").read_text())
    assert content["summary"]["examples"] == len(content["images"]) == 12
    assert sum(content["summary"]["verdicts"].values()) == 12
    assert content["settings"]["eps"] == 0.1
    assert content["settings"]["methods"] == ["IBP", "CROWN"]
    assert content["model"]["architecture"] == "DM-Small"
    summary = content["summary"]
    assert summary["clean_error"] <= summary["attacked_error"] <= summary["verified_error"]
    assert summary["methods"]["CROWN"]["verified_error"] == summary["verified_error"]


def test_where_json_cannot_be_written_verdicts_are_printed_unless_a_results_file_holds_them(
    network, monkeypatch, tmp_path
):
    def write(path, content):
        raise OutputError(f"cannot write {path}")

    monkeypatch.setattr("lbp.commands.options.write_atomically", write)
    result = invoke(network, "--json", tmp_path / "result.json")
    assert isinstance(result.exception, OutputError)
    content, end = json.JSONDecoder().raw_decode(result.stdout)
    assert [image["index"] for image in content["images"]] == list(range(12))
    assert "verified error so far" in result.stdout[end:]
    kept = invoke(network, "--json", tmp_path / "result.json", "--results", tmp_path / "results.jsonl")
    assert isinstance(kept.exception, OutputError)
    assert "DM-Small, 12 images" in kept.stdout
    assert '"images"' not in kept.stdout
    assert len(read_verdicts(tmp_path / "results.jsonl")[1]) == 12


def test_where_nothing_can_be_printed_json_is_written(network, monkeypatch, tmp_path):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lbp.commands.verify.print_verdicts", full)
    assert invoke(network, "--json", tmp_path / "result.json").exception.errno == 28
    assert len(json.loads((tmp_path / "result.json").read_text())["images"]) == 12


def test_it_says_that_other_norms_are_not_attacked(network):
    result = invoke(network, "--norm", 2)
    assert result.exit_code == 0, result.output
    assert "eps 0.1 (l_2)" in result.stdout
    assert "no attack was run: the attacks search l_inf balls, this is an l_2 ball" in result.stdout
    assert "attacked error" not in result.stdout


def test_an_interrupted_run_is_continued(network, whole, tmp_path):
    path = tmp_path / "results.jsonl"
    lines = whole.read_bytes().splitlines(keepends=True)
    assert len(lines) == 13
    assert len(set(verdicts(whole).values())) >= 2, "the test says little otherwise"
    # A run killed while it was writing its sixth line.
    path.write_bytes(b"".join(lines[:6]) + lines[6][:20])
    refused = invoke(network, "--results", path)
    assert "exists; continue it by --resume" in str(refused.exception)
    continued = invoke(network, "--results", path, "--resume")
    assert continued.exit_code == 0, continued.output
    assert len(read_lines(path)[1]) == 12
    assert verdicts(path) == verdicts(whole)


def test_where_nothing_is_left_to_resume_it_starts_and_says_so(network, whole, finished, tmp_path):
    path = tmp_path / "missing.jsonl"
    started = invoke(network, "--results", path, "--resume")
    assert started.exit_code == 0, started.output
    assert f"nothing to resume, there is no {path}: `lbp verify` starts anew" in started.stderr
    assert verdicts(path) == verdicts(whole)
    assert "nothing to resume" not in invoke(network, "--results", finished, "--resume").stderr


def test_a_line_whose_label_was_changed_is_refused(network, whole, tmp_path):
    path = tmp_path / "results.jsonl"
    head, *lines = whole.read_text().splitlines(keepends=True)
    record = json.loads(lines[0])
    other = (record["label"] + 1) % 10
    # A line that does not contradict itself.
    record |= {"label": other, "prediction": other}
    lines[0] = json.dumps(record) + "\n"
    path.write_text("".join([head, *lines]))
    refused = invoke(network, "--results", path, "--resume")
    assert f"image {record['index']} has the label {(other - 1) % 10}, not that of its line" in str(refused.exception)


def test_who_interrupts_a_run_before_it_has_begun_is_told_that_nothing_is_kept(network, tmp_path, monkeypatch):
    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("lbp.commands.images.run_images", interrupted)
    assert "interrupted; nothing is kept yet" in invoke(network, "--results", tmp_path / "results.jsonl").stderr


@pytest.mark.parametrize("kept", [True, False])
def test_who_interrupts_a_run_is_told_how_it_goes_on_if_it_can(network, whole, tmp_path, monkeypatch, kept):
    def interrupted(progress, records, total):
        raise KeyboardInterrupt

    path = tmp_path / "results.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr("lbp.commands.images.ImageProgress.__call__", interrupted)
        result = invoke(network, *(["--results", path] if kept else []))
    assert result.exit_code != 0
    assert ("interrupted; the same command with --resume goes on" in result.stderr) == kept
    if kept:
        assert invoke(network, "--results", path, "--resume").exit_code == 0
        assert verdicts(path) == verdicts(whole)


def test_a_disk_that_becomes_full_leaves_what_is_done_and_it_says_how_it_goes_on(network, whole, tmp_path, monkeypatch):
    path, calls = tmp_path / "results.jsonl", iter(range(100))

    def full(descriptor, content):
        if next(calls) == 3:
            raise OSError(28, "No space left on device")
        append_durably(descriptor, content)

    with monkeypatch.context() as patch:
        patch.setattr("lbp.results.file.append_durably", full)
        result = invoke(network, "--results", path)
    assert f"cannot write the results to {path} (No space left on device)" in str(result.exception)
    assert "stopped; the same command with --resume goes on" in result.stderr
    assert 0 < len(read_lines(path)[1]) < 12
    assert invoke(network, "--results", path, "--resume").exit_code == 0
    assert verdicts(path) == verdicts(whole)


def test_a_file_that_is_refused_is_not_said_to_go_on(network, finished):
    refused = invoke(network, "--results", finished)
    assert "exists; continue it by --resume" in str(refused.exception)
    assert "stopped" not in refused.stderr


@pytest.mark.parametrize(
    ("more", "named"),
    [(["--eps", "2/255"], "eps"), (["--limit", "11"], "data"), (["--strategy", "adaptive"], "verify")],
)
def test_other_settings_do_not_continue_a_run(network, finished, more, named):
    refused = invoke(network, "--results", finished, "--resume", *more)
    assert refused.exit_code != 0
    assert "made with other settings" in str(refused.exception)
    assert named in str(refused.exception)


def test_another_network_does_not_continue_a_run(network, finished, tmp_path):
    other = tmp_path / "other.safetensors"
    loaded = checkpoint.load(network)
    with torch.no_grad():
        loaded.model.output.bias[0] += 1e-6
    checkpoint.save(other, loaded.model, loaded.settings, loaded.training)
    assert "checkpoint was" in str(invoke(other, "--results", finished, "--resume").exception)


def test_two_processes_reach_the_verdicts_of_one(network, whole, tmp_path):
    together = tmp_path / "together.jsonl"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "lbp"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    finished = subprocess.run(
        [*launch, *command(network, "--results", together)],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("verified error so far") == 1, "one process prints"
    assert verdicts(together) == verdicts(whole)
    assert [path.name for path in tmp_path.glob("together*")] == ["together.jsonl"]


@pytest.mark.parametrize("budget", ["3 MiB", "2 GB"])
def test_verdicts_do_not_depend_on_the_memory_budget(network, whole, tmp_path, budget):
    path = tmp_path / "results.jsonl"
    more = ("--results", path, "--memory-budget", budget)
    result = runner.invoke(cli.app, [part for part in command(network, *more) if part not in ("--batch-size", "3")])
    assert result.exit_code == 0, result.output
    assert verdicts(path) == verdicts(whole)


def test_a_budget_that_is_too_small_names_the_least(network):
    assert "bytes is too small: IBP takes at least" in str(invoke(network, "--memory-budget", "10k").exception)


@pytest.mark.parametrize("budget", ["0", "much", "4 XB", "-1GiB"])
def test_a_budget_that_is_no_amount_of_memory_is_a_usage_error(network, budget):
    result = invoke(network, f"--memory-budget={budget}")
    assert result.exit_code == 2
    assert "must be a number of bytes above 0 or text like '4GiB'" in result.output
