"""Records survive a file, say of what they are, and are continued under the same conditions only."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench.records import RATES, VERSIONS, record, row
from typer.testing import CliRunner

from lbp.bench.record import (
    LIBRARY,
    LIBRARY_SOURCES,
    PEER,
    PEER_COMMIT,
    PLAIN_FUNCTIONS,
    continue_record,
    new_record,
    read_record,
    tree_commit,
    write_record,
)
from lbp.bench.timing import Timing
from lbp.cli import app
from lbp.errors import InvalidInputError


def test_timing_gives_the_median_and_the_quartiles():
    assert Timing.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Timing(3.0, 2.0, 4.0, 5)
    assert Timing.of([2.0]) == Timing(2.0, 2.0, 2.0, 1)


def test_a_record_is_the_same_after_writing_and_reading(tmp_path):
    original = record(row(1.0, peak_bytes=7), row(2.0, contender="reference"), row(1, case="x", timing=None, note="no"))
    path = tmp_path / "folder" / "record.json"
    write_record(original, path)
    assert read_record(path) == original
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_a_record_that_continues_keeps_its_rows_and_knows_which_run_measured_each(tmp_path):
    path = tmp_path / "record.json"
    write_record(record(row(1.0), row(2.0, case="x")), path)
    faster = replace(RATES, copy=2e9)
    continued = continue_record(path, record(rates=faster, date="2020-01-02")).with_rows([row(3.0)])
    assert [(r.case, r.timing.median, r.run) for r in continued.rows] == [("relax_backward n=8", 3.0, 1), ("x", 2.0, 0)]
    assert [continued.rates_of(r).copy for r in continued.rows] == [2e9, 1e9]
    write_record(continued, path)
    assert read_record(path) == continued
    assert continue_record(tmp_path / "absent.json", record()) == record()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("commit", {"commit": "1" * 40}),
        ("device", {"device": "another"}),
        ("PyTorch", {"versions": {**VERSIONS, "PyTorch": "3"}}),
        ("lbp", {"versions": {**VERSIONS, "lbp": "0.2"}}),
        (LIBRARY, {"versions": {**VERSIONS, LIBRARY: "0a1b"}}),
        (PLAIN_FUNCTIONS, {"versions": {**VERSIONS, PLAIN_FUNCTIONS: "2c3d"}}),
        ("threads", {"settings": {"threads": 1, "device": "cpu"}}),
    ],
)
def test_a_record_of_other_conditions_is_not_continued(tmp_path, name, changed):
    path = tmp_path / "record.json"
    write_record(record(row(1.0)), path)
    with pytest.raises(InvalidInputError, match=f"is of {name} "):
        continue_record(path, record(**changed))
    assert read_record(path) == record(row(1.0))


@pytest.mark.parametrize("name", [PEER, PEER_COMMIT])
def test_versions_of_a_peer_must_agree_only_where_both_runs_have_it(tmp_path, name):
    path = tmp_path / "record.json"
    peer = {**VERSIONS, PEER: "0.7", PEER_COMMIT: "1a2b"}
    write_record(record(row(1.0), versions=peer), path)
    assert continue_record(path, record()).versions == peer
    with pytest.raises(InvalidInputError, match=f"is of {name} "):
        continue_record(path, record(versions={**peer, name: "another"}))
    write_record(record(row(1.0)), path)
    assert continue_record(path, record(versions=peer)).versions == peer


def test_a_record_has_the_versions_of_peers_and_the_contents_of_the_kernels(tmp_path, monkeypatch):
    library = tmp_path / "library"
    monkeypatch.setattr("lbp._native.LIBRARY", library)
    monkeypatch.setattr("lbp._native.missing", None)
    found = []
    for contents in (b"a", b"b", b"a"):
        library.write_bytes(contents)
        found.append(new_record(torch.device("cpu"), {}, RATES, {PEER: "0.7"}).versions)
    assert found[0] == found[2]
    assert found[0][LIBRARY] != found[1][LIBRARY]
    assert found[0][PEER] == "0.7"
    monkeypatch.setattr("lbp._native.missing", "not built")
    assert LIBRARY not in new_record(torch.device("cpu"), {}, RATES, {}).versions


@pytest.fixture
def versions_on_a_gpu(tmp_path, monkeypatch):
    """Returns the versions of a record of a GPU, measured by a package in a folder."""
    monkeypatch.setattr("lbp.bench.record._PACKAGE", tmp_path / "package")
    monkeypatch.setattr("lbp.bench.record._device_name", lambda device: "a GPU")
    monkeypatch.setattr("lbp._native.LIBRARY", tmp_path / "library")
    monkeypatch.setattr("lbp._native.missing", None)
    return lambda: new_record(torch.device("cuda"), {}, RATES, {}).versions


def test_on_a_gpu_the_kernels_are_known_by_their_sources_as_no_two_builds_are_the_same(tmp_path, versions_on_a_gpu):
    (tmp_path / "csrc" / "cuda").mkdir(parents=True)
    found = []
    for contents, source in ((b"a", "a"), (b"b", "a"), (b"b", "b")):
        (tmp_path / "library").write_bytes(contents)
        (tmp_path / "csrc" / "cuda" / "kernel.cu").write_text(source)
        found.append(versions_on_a_gpu())
    assert found[0] == found[1]
    assert found[1][LIBRARY_SOURCES] != found[2][LIBRARY_SOURCES]
    assert LIBRARY not in found[0]


def test_on_a_gpu_an_installed_library_without_sources_is_known_by_its_contents(tmp_path, versions_on_a_gpu):
    found = []
    for contents in (b"a", b"b"):
        (tmp_path / "library").write_bytes(contents)
        found.append(versions_on_a_gpu()[LIBRARY])
    assert found[0] != found[1]


def test_a_record_says_of_which_plain_functions_it_is(tmp_path, versions_on_a_gpu):
    (tmp_path / "library").touch()
    found = []
    for name in ("bench/plain_windows.py", "bench/timing.py", "reference/windows/rows.py"):
        path = tmp_path / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        found.append(versions_on_a_gpu()[PLAIN_FUNCTIONS])
    assert found[0] == found[1] != found[2]


@pytest.fixture
def package(tmp_path):
    """A package in a git tree, committed."""
    files = {
        "package/__init__.py": "",
        "package/kernels.py": "a",
        "benchmarks/results/old.json": "a",
        ".gitignore": "installed/",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    author = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    for arguments in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "A commit"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    return tmp_path / "package"


def test_two_states_of_a_tree_that_differ_from_its_commit_are_two(package):
    commit = tree_commit(package)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    states = []
    for content in ("b", "c", "b"):
        (package / "kernels.py").write_text(content)
        states.append(tree_commit(package))
    assert states[0] == states[2] != states[1]
    assert all(re.fullmatch(rf"{commit}\+[0-9a-f]{{8}}", state) for state in states)
    (package / "kernels.py").write_text("a")
    assert tree_commit(package) == commit


def test_files_of_the_package_and_its_kernels_that_git_does_not_track_are_a_difference(package):
    commit = tree_commit(package)
    (package.parent / "notes.txt").write_text("a")
    assert tree_commit(package) == commit
    states = [commit]
    for name, content in (("package/new.py", "a"), ("package/new.py", "b"), ("csrc/new.cu", "b"), ("setup.py", "b")):
        (package.parent / name).parent.mkdir(exist_ok=True)
        (package.parent / name).write_text(content)
        states.append(tree_commit(package))
    assert len({*states}) == len(states)


def test_records_in_a_tree_are_no_difference_from_its_commit(package):
    before = tree_commit(package)
    (package.parent / "benchmarks" / "results" / "old.json").write_text("b")
    assert tree_commit(package) == before


def test_a_package_that_is_installed_inside_of_a_tree_is_no_part_of_it(package):
    installed = package.parent / "installed" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert tree_commit(installed) == "unknown"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 0, "rows": []}', "not json"])
def test_what_is_not_a_record_is_named(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(InvalidInputError, match=r"record\.json: not a record"):
        read_record(path)
    with pytest.raises(InvalidInputError, match="no such file"):
        read_record(tmp_path / "absent.json")


@pytest.mark.parametrize("content", ["[1]", "null", "{}", '"format"'])
def test_of_other_json_the_refusal_says_what_it_lacks(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(InvalidInputError, match="it does not say of which format it is"):
        read_record(path)


def test_a_row_with_a_field_too_few_is_not_a_record(tmp_path):
    path = tmp_path / "record.json"
    write_record(record(row(1.0)), path)
    content = json.loads(path.read_text())
    del content["rows"][0]["case"]
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidInputError, match="not a record"):
        read_record(path)


def at(content, *place, value):
    """Changes a value inside of JSON values."""
    *outer, last = place
    for key in outer:
        content = content[key]
    content[last] = value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("rows", 0, "timing", "median"), "fast"),
        (("rows", 0, "timing", "median"), 0.0),
        (("rows", 0, "timing", "repeats"), None),
        (("rows", 0, "peak_bytes"), 10**400),
        (("rows", 0, "parameters"), {}),
        (("rows", 0, "parameters", "n"), "8"),
        (("rows", 0, "parameters", "B"), 0),
        (("rows", 0, "level"), 7),
        (("rows", 0, "run"), 1),
        (("rows", 0, "run"), -1),
        (("rows", 0, "unknown"), 1),
        (("rows", 1), {"level": "growth", "case": "", "activation": "", "contender": ""}),
        (("rows", 1), []),
        (("rows",), None),
        (("rates", "copy"), 0),
        (("rates", "products"), float("nan")),
        (("settings",), {}),
        (("versions",), ["PyTorch"]),
        (("continued",), 3),
    ],
)
def test_a_damaged_record_is_refused_by_name(tmp_path, place, value):
    path = tmp_path / "record.json"
    write_record(record(row(1.0), row(9.0, contender="reference")), path)
    content = json.loads(path.read_text())
    at(content, *place, value=value)
    path.write_text(json.dumps(content))
    for arguments in (["--show", path], ["--compare", path, path]):
        refused = CliRunner().invoke(app, ["bench", *map(str, arguments)])
        assert isinstance(refused.exception, InvalidInputError)
        assert "record.json: not a record of `lbp bench` (" in str(refused.exception)


def test_every_record_of_the_tree_is_one():
    folder = Path(__file__).parents[2] / "benchmarks" / "results"
    records = [path for path in folder.glob("*.json") if '"new_copy"' in path.read_text()]
    assert {"cpu-2-cores.json"} <= {path.name for path in records}
    for path in records:
        assert read_record(path).rows
