"""Records survive a file, and comparisons report what lies beyond noise and nothing else."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lbp.bench.aims import CPU_AIMS, CUDA_AIMS, aims_table
from lbp.bench.comparison import compare, comparison_table
from lbp.bench.contenders import peer_version
from lbp.bench.grid import GROWTH, GROWTH_CONTENDERS
from lbp.bench.growth import EXPECTED, fitted_growth, fitted_power
from lbp.bench.layers import affine_layers
from lbp.bench.op_case import Shape
from lbp.bench.op_cases import filling_cases
from lbp.bench.rates import Rates
from lbp.bench.record import (
    LIBRARY,
    LIBRARY_SOURCES,
    PEER,
    PEER_COMMIT,
    PLAIN_FUNCTIONS,
    Record,
    Row,
    Run,
    continue_record,
    new_record,
    read_record,
    tree_commit,
    write_record,
)
from lbp.bench.tables import cases, floor_seconds, result_tables
from lbp.bench.timing import Timing
from lbp.cli import app
from lbp.commands.bench import _is_wrong, _known
from lbp.errors import InvalidInputError, OutputError

VERSIONS = {"PyTorch": "2", PLAIN_FUNCTIONS: "0a1b"}
RATES = Rates(copy=1e9, new_copy=5e8, products=1e11)


def row(median, *, case="relax_backward n=8", contender="native", spread=0.01, **measured):
    timing = Timing(median, median * (1 - spread), median * (1 + spread), 7)
    row = Row("ops", case, "ReLU", contender, timing, parameters={"op": "relax_backward", "B": 1, "S": 1, "n": 8})
    return replace(row, **measured)


def record(*rows, **changed):
    settings = {"threads": 2, "device": "cpu"}
    return replace(Record("a processor", "0" * 40, settings, VERSIONS, RATES, rows, "2020-01-01"), **changed)


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


def aims(record):
    table = aims_table(record)
    return [list(cells) for cells in zip(*(column.cells for column in table.columns), strict=True)]


RELAX = {"case": "relax_backward B=32 S=9 n=65,536"}


@pytest.mark.parametrize(("ratio", "verdict"), [(4.5, "[green]met[/]"), (3.5, "[red]missed[/]")])
def test_aims_are_compared_with_what_the_record_says(ratio, verdict):
    found = aims(record(row(1.0, **RELAX), row(ratio, contender="reference", **RELAX)))
    assert found[0][1:] == [">= 4", f"{ratio:.2f}", verdict]


def test_aims_that_were_not_measured_are_shown_with_the_reason():
    stopped = row(1.0, contender="reference", timing=None, note="stopped after 20 s [x]", **RELAX)
    found = aims(record(row(1.0, **RELAX), stopped))
    assert [words for words, *_ in found] == [aim.words for aim in CPU_AIMS if aim.level == "ops"]
    assert found[0][2:] == ["[yellow]not measured[/]", r"reference: stopped after 20 s \[x]"]
    assert found[1][2:] == ["[yellow]not measured[/]", "reference: no row"]
    assert aims_table(record(replace(row(1.0), level="growth"))) is None


def test_every_kind_of_aim_is_read_off_its_rows():
    cases = {
        "DM-Large IBP B=16": ("methods", 5.0),
        "DM-Medium CROWN B=1": ("methods", 5.0),
        "DM-Large CROWN-IBP B=16": ("training", 5.0),
    }
    rows = [
        row(
            seconds * factor,
            case=case,
            level=level,
            contender=contender,
            activation=activation,
            peak_bytes=int(100 * factor),
            product_seconds=4.0,
        )
        for case, (level, seconds) in cases.items()
        for contender, factor in (("native", 1), ("native, every row", 2), ("reference", 16), ("auto_LiRPA patches", 3))
        for activation in ("ReLU", "ParamRamp")
    ]
    measured = {words: ratio for words, _, ratio, _ in aims(record(*rows)) if "not measured" not in ratio}
    assert measured == {
        "IBP on DM-Large, B=16: time / products alone": "1.25",
        "IBP on DM-Large, B=16: ParamRamp / ReLU": "1.00",
        "CROWN, every row, on DM-Medium over dense PyTorch": "8.00",
        "CROWN on DM-Medium over auto_LiRPA's patches": "3.00",
        "CROWN-IBP training step on DM-Large: memory / PyTorch's": "0.06",
    }


GPU = {"settings": {"threads": 2, "device": "cuda:0"}}


@pytest.mark.parametrize(("share", "verdict"), [(0.9, "[green]met[/]"), (0.8, "[red]missed[/]")])
def test_aims_of_a_gpu_are_shares_of_the_bandwidth_that_copies_had_in_the_same_run(tmp_path, share, verdict):
    path, faster, moved = tmp_path / "record.json", replace(RATES, copy=4e9), 10**9
    write_record(record(row(9.0), **GPU), path)
    seconds = moved / faster.copy / share
    copies = {"ReLU": moved / faster.copy / 0.75, "ParamRamp": None}
    found = continue_record(path, record(rates=faster, **GPU)).with_rows(
        row(seconds, activation=activation, moved_bytes=moved, copy_seconds=copy, **RELAX)
        for activation, copy in copies.items()
    )
    shown = {words: cells for words, *cells in aims(found)}
    for activation, copy in (("ReLU", "0.75"), ("ParamRamp", "")):
        words = f"relax_backward, {activation}, B=32 S=9 n=65,536: share of the copy's bandwidth"
        assert shown.pop(words) == [">= 0.85", f"{share:.2f}", verdict, copy]
    assert {measured for _, measured, _, _ in shown.values()} == {"[yellow]not measured[/]"}
    assert len(shown) + 2 == len(CUDA_AIMS)


def test_what_the_aims_of_a_gpu_name_is_measured_on_one(monkeypatch):
    """The grid of a GPU, with tensors that have a shape and no numbers: there is no device here."""
    for draw in ("normal", "uniform"):
        monkeypatch.setattr(Shape, draw, lambda self, *shape: torch.empty(*shape, device="meta"))
    shape = Shape(affine_layers("DM-Large")[0], 32, torch.device("cuda"))
    rows = [
        row(1.0, case=case.name, activation=case.activation, moved_bytes=case.moved_bytes)
        for case in filling_cases(shape)
    ]
    assert [cells for cells in aims(record(*rows, **GPU)) if "not measured" in cells[2]] == []


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


def test_a_change_within_the_spread_of_the_repeats_is_noise():
    assert compare(record(row(1.0, spread=0.3)), record(row(1.5, spread=0.3))).changes == ()
    assert compare(record(row(1.0)), record(row(1.05))).changes == ()


@pytest.mark.parametrize("ratio", [1.5, 0.5])
def test_a_change_beyond_the_spread_is_reported_with_its_ratio(ratio):
    (change,) = compare(record(row(1.0)), record(row(ratio))).changes
    assert (change.quantity, change.ratio) == ("time", ratio)


def of_yardstick(change):
    return change.yardstick, round(change.relative, 2)


@pytest.mark.parametrize("yardstick", ["reference", "auto_LiRPA patches", "auto_LiRPA matrix"])
def test_a_time_that_changed_as_a_yardstick_did_is_the_machines(yardstick):
    old, slower = record(row(1.0), row(4.0, contender=yardstick)), row(6.0, contender=yardstick)
    result = compare(old, record(row(1.5), slower))
    assert [change.row.contender for change in result.of_machine] == ["native", yardstick]
    assert of_yardstick(result.of_machine[0]) == (yardstick, 1.0)
    assert result.changes == ()
    (change,) = compare(old, record(row(3.0), slower)).changes
    assert (change.ratio, *of_yardstick(change)) == (3.0, yardstick, 2.0)


@pytest.mark.parametrize("reference", [1.0, 8.0])
def test_a_time_that_stayed_has_not_changed_whatever_the_yardstick_did(reference):
    old = record(row(1.0), row(4.0, contender="reference"))
    changed = compare(old, record(row(1.0), row(reference, contender="reference")))
    assert [change.row.contender for change in (*changed.changes, *changed.of_machine)] == ["reference"]


def test_a_time_that_changed_the_other_way_beside_the_yardstick_is_no_change():
    old = record(row(1.0), row(1.0, contender="reference"))
    result = compare(old, record(row(1.5), row(3.0, contender="reference")))
    assert "native" not in {change.row.contender for change in result.changes}


def test_a_yardstick_must_have_taken_turns_with_the_row_in_both_records():
    old = record(row(1.0), row(1.0, contender="reference"))
    another_run = row(1.5, contender="reference", run=1)
    few_repeats = row(1.5, contender="reference", timing=Timing.of([1.5, 1.5]))
    assert compare(old, record(row(1.5), row(1.5, contender="reference"))).changes == ()
    for reference in (another_run, few_repeats):
        changes = compare(old, record(row(1.5), reference, continued=(Run("2020-01-02", {}, RATES),))).changes
        (change,) = (change for change in changes if change.row.contender == "native")
        assert change.yardstick in ("copy", "products")


@pytest.mark.parametrize("rate", ["copy", "products"])
def test_without_a_yardstick_a_time_that_changed_as_a_rate_of_its_run_did_is_the_machines(rate):
    slow = replace(RATES, **{rate: getattr(RATES, rate) / 2})
    continued = {"continued": (Run("2020-01-02", {}, slow),)}
    for median, run, own in ((2.0, 1, False), (2.0, 0, True), (4.0, 1, True), (0.5, 1, True)):
        result = compare(record(row(1.0)), record(row(median, run=run), **continued))
        assert [bool(result.changes), bool(result.of_machine)] == [own, not own]
        (change,) = result.changes + result.of_machine
        assert change.yardstick in ("copy", "products")
    assert compare(record(row(1.0)), record(row(2.0, run=1), **continued)).of_machine[0].yardstick == rate


def test_what_may_be_the_machines_is_counted_and_not_among_the_changes(tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write_record(record(row(1.0), row(4.0, contender="reference")), old)
    write_record(record(row(1.5), row(6.0, contender="reference")), new)
    shown = CliRunner().invoke(app, ["bench", "--compare", str(old), str(new)], env={"COLUMNS": "200"}).output
    assert "0 changes in 2 rows; 2 that may be the machine's" in shown
    assert "ops relax_backward n=8 ReLU native: 1.50, in units of reference 1.00" in shown


def test_what_may_be_the_machines_is_listed_the_largest_first(tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    ratios = {f"case {number}": 1.2 + number / 10 for number in range(50)}
    for path, factors in ((old, dict.fromkeys(ratios, 1.0)), (new, ratios)):
        rows = [
            row(factor, case=case, contender=name)
            for case, factor in factors.items()
            for name in ("native", "reference")
        ]
        write_record(record(*rows), path)
    shown = CliRunner().invoke(app, ["bench", "--compare", str(old), str(new)], env={"COLUMNS": "200"}).output
    assert "no change beside a yardstick or its rates: 100 rows" in shown
    listed = [float(found) for found in re.findall(r"^  ops .*: ([\d.]+), in units of", shown, re.MULTILINE)]
    assert listed == sorted(listed, reverse=True)
    assert (listed[0], len(listed)) == (6.1, 40)


def test_a_noisy_yardstick_hides_no_change_that_another_shows():
    peers = row(4.0, contender="reference", spread=0.6), row(4.0, contender="auto_LiRPA patches")
    old, new = (record(row(median), *peers) for median in (1.0, 1.3))
    (change,) = compare(old, new).changes
    assert (change.row.contender, *of_yardstick(change)) == ("native", "auto_LiRPA patches", 1.3)


@pytest.mark.parametrize("old", [{}, {PLAIN_FUNCTIONS: "0a1b"}])
@pytest.mark.parametrize("new", [{}, {PLAIN_FUNCTIONS: "2c3d"}])
def test_plain_functions_of_other_or_unknown_sources_are_no_yardstick(old, new):
    """Both became twice as fast; of the machine nobody knows that it did, unless a peer did as well."""
    before, after = ([row(factor), row(4 * factor, contender="reference")] for factor in (1.0, 0.5))
    result = compare(record(*before, versions=old), record(*after, versions=new))
    (change,) = (change for change in result.changes if change.row.contender == "native")
    assert change.yardstick in ("copy", "products")
    peers = [row(factor, contender="auto_LiRPA matrix") for factor in (1.0, 0.5)]
    result = compare(record(*before, peers[0], versions=old), record(*after, peers[1], versions=new))
    assert result.changes == ()
    assert {change.yardstick for change in result.of_machine} == {"auto_LiRPA matrix", "native"}


@pytest.mark.parametrize("repeats", [1, 2])
def test_with_few_repeats_a_difference_is_no_change_and_is_said_to_be_unclear(repeats):
    few = row(2.0, timing=Timing.of([2.0] * repeats), peak_bytes=20 * 2**20)
    for old, new, ratio in ((row(1.0), few, 2.0), (few, row(1.0), 0.5)):
        result = compare(record(old), record(new))
        assert result.changes == ()
        assert [(change.quantity, change.ratio) for change in result.unclear] == [("time", ratio)]
        cells = [next(iter(column.cells)) for column in comparison_table(result).columns]
        assert cells[-3:-1] == ["time, too few repeats", f"[yellow]{ratio:.2f}[/]"]
    assert compare(record(few), record(few)).unclear == ()


def test_memory_needs_no_repeats():
    once = {"timing": Timing.of([1.0])}
    before, after = (row(1.0, peak_bytes=n * 2**20, **once) for n in (10, 20))
    (change,) = compare(record(before), record(after)).changes
    assert (change.quantity, change.ratio) == ("memory", 2.0)


def test_memory_changes_are_reported_too():
    before, after = row(1.0, peak_bytes=10 * 2**20), row(1.0, peak_bytes=20 * 2**20)
    (change,) = compare(record(before), record(after)).changes
    assert (change.quantity, change.ratio) == ("memory", 2.0)


@pytest.mark.parametrize(("mebibytes", "changes"), [(130, 0), (77, 0), (140, 1), (70, 1)])
def test_peaks_that_differ_by_a_third_are_of_equal_code(mebibytes, changes):
    before, after = (row(1.0, peak_bytes=size * 2**20) for size in (100, mebibytes))
    assert len(compare(record(before), record(after)).changes) == changes


@pytest.mark.parametrize(("mebibytes", "changes"), [(105, 0), (115, 1), (85, 1)])
def test_peaks_of_a_gpu_repeat(mebibytes, changes):
    before, after = (row(1.0, peak_bytes=size * 2**20) for size in (100, mebibytes))
    assert len(compare(record(before, **GPU), record(after, **GPU)).changes) == changes


@pytest.mark.parametrize(("sizes", "cell"), [((0, 2), "[red]inf[/]"), ((2, 0), "[green]0.00[/]")])
def test_memory_where_there_was_none_is_a_change(sizes, cell):
    before, after = (row(1.0, peak_bytes=size * 2**20) for size in sizes)
    cells = [next(iter(column.cells)) for column in comparison_table(compare(record(before), record(after))).columns]
    assert cells[-3:] == ["memory", cell, ""]
    small, none = row(1.0, peak_bytes=2**19), row(1.0, peak_bytes=None)
    assert compare(record(row(1.0, peak_bytes=0)), record(small)).changes == ()
    assert compare(record(none), record(after)).changes == ()


def test_rows_that_only_one_record_has_are_listed():
    result = compare(record(row(1.0, case="a"), row(1.0, case="b")), record(row(1.0, case="b"), row(1.0, case="c")))
    assert [row.case for row in result.appeared] == ["c"]
    assert [row.case for row in result.vanished] == ["a"]
    assert result.compared == 1


def test_a_row_that_lost_its_time_is_listed_with_the_reason():
    lost = row(1.0, timing=None, note="differs from reference")
    result = compare(record(row(1.0)), record(lost))
    assert result.failed == (lost,)
    assert result.vanished == ()
    assert compare(record(lost), record(row(1.0))).failed == ()


def test_other_conditions_are_said():
    other = record(row(1.0), device="another", rates=replace(RATES, copy=2e9), versions={"PyTorch": "3"})
    differences = compare(record(row(1.0)), other).differences
    assert [words.split(":")[0] for words in differences] == ["machine", "PyTorch", "measured rate of copy"]
    assert compare(record(), record()).differences == ()


def runs(*rates, **settings):
    """Returns what a record has of runs with these rates of copies; settings by name, one for each."""
    every = [
        Run("2020", {"threads": 2} | {name: values[i] for name, values in settings.items()}, replace(RATES, copy=rate))
        for i, rate in enumerate(rates)
    ]
    return {"settings": every[0].settings, "rates": every[0].rates, "continued": tuple(every[1:])}


def test_rates_differ_where_their_ranges_over_all_runs_do_not_overlap():
    old = record(**runs(42e9, 66e9, 40e9))
    assert compare(old, record(**runs(75e9, 60e9))).differences == ()
    (words,) = compare(old, record(**runs(27.4e9, 22.4e9))).differences
    assert words == "measured rate of copy: 40.0 to 66.0 GB/s -> 22.4 to 27.4 GB/s"


def test_settings_of_all_runs_are_compared_and_only_what_both_records_know():
    old = record(**runs(1e9, 1e9, repeats=[9, 5]))
    assert compare(old, record(**runs(1e9, 1e9, repeats=[5, 9]))).differences == ()
    assert compare(old, record(**runs(1e9, 1e9, repeats=[9, 7]))).differences == ("repeats: 9, 5 -> 9, 7",)
    assert compare(old, record(versions={LIBRARY: "0a1b"})).differences == ()
    known = [record(versions={LIBRARY: contents}) for contents in ("0a1b", "2c3d")]
    assert compare(*known).differences == (f"{LIBRARY}: 0a1b -> 2c3d",)


def test_the_floor_is_the_slower_of_memory_and_products():
    assert floor_seconds(row(1.0, moved_bytes=10**9, operations=10**9), RATES) == 1.0
    assert floor_seconds(row(1.0, moved_bytes=10**6, operations=10**11), RATES) == 1.0
    assert floor_seconds(row(1.0), RATES) is None


def test_a_case_gathers_its_contenders():
    (case,) = cases([row(1.0), row(4.0, contender="reference")], "ops")
    assert case.ratio("reference", "native") == 4.0
    assert case.ratio("reference compiled", "native") is None


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_the_exponent_of_a_power_is_found(power):
    sizes = [2.0, 4.0, 8.0]
    found, residual = fitted_power(sizes, [5 * size**power for size in sizes])
    assert math.isclose(found, power)
    assert math.isclose(residual, 1.0)


def test_a_fit_says_how_far_off_it_is_at_most_unless_two_costs_fit_any_power():
    exponent, residual = fitted_power([1.0, 2.0, 4.0], [1.0, 8.0, 1.0])
    assert math.isclose(exponent, 0.0, abs_tol=1e-12)
    assert math.isclose(residual, 4.0)
    assert fitted_power([1.0, 2.0], [1.0, 8.0])[1] is None


def chains(times, **measured):
    return [
        Row(
            "growth",
            f"LBP width={n}",
            "ReLU",
            "native",
            Timing.of([t]),
            parameters={"quantity": "width", "value": n},
            **measured,
        )
        for n, t in times.items()
    ]


@pytest.mark.parametrize(("times", "sizes"), [({2: 7.0, 4: 1.0, 8: 4.0, 16: 16.0}, 3), ({2: 1.0, 4: 4.0}, 2)])
def test_growth_is_fitted_to_the_three_largest_sizes_that_were_timed(times, sizes):
    (fit,) = fitted_growth(chains(times))
    assert math.isclose(fit.time, 2.0)
    assert (fit.sizes, fit.time_residual is None) == (sizes, sizes == 2)
    assert fit.memory is None
    assert fit.memory_residual is None


def test_the_table_of_growth_has_sizes_residuals_and_expected_exponents():
    rows = chains({1: 1.0, 2: 8.0, 4: 1.0}, peak_bytes=2**21)
    *_, table = result_tables(record(*rows))
    assert [next(iter(column.cells)) for column in table.columns] == [
        "LBP", "native", "width", "3", "0.00, 4.00x off", "2", "0.00, 1.00x off", "1",
    ]  # fmt: skip


def test_every_contender_of_growth_has_an_expected_exponent_of_every_size():
    assert EXPECTED.keys() == {
        (method, contender, quantity)
        for method, contenders in GROWTH_CONTENDERS.items()
        for contender in contenders
        for quantity in GROWTH.keys() - {"batch"}
    }


def test_tables_hold_every_level():
    methods = replace(row(1.0), level="methods", parameters={"batch": 1, "neurons": 5, "method": "IBP"})
    failed = replace(methods, contender="reference", timing=None, note="out of memory")
    assert [table.row_count for table in result_tables(record(row(1.0), methods, failed))] == [1, 1]


def test_the_command_shows_and_compares_and_draws_records(tmp_path):
    old, new, plots = tmp_path / "old.json", tmp_path / "new.json", tmp_path / "plots"
    write_record(record(row(1.0), row(9.0, contender="reference")), old)
    write_record(record(row(2.0), row(9.0, contender="reference")), new)
    shown = CliRunner().invoke(app, ["bench", "--show", str(old), "--plots", str(plots)])
    assert shown.exit_code == 0, shown.output
    assert "9.0" in shown.output
    assert {path.name for path in plots.iterdir()} == {"speed-up.png", "roofline.png"}
    compared = CliRunner().invoke(app, ["bench", "--compare", str(old), str(new)])
    assert compared.exit_code == 0, compared.output
    assert "2.00" in compared.output


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


@pytest.mark.parametrize("option", ["--time-limit", "--case-seconds", "--run-limit", "--memory-limit"])
@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1", "1e300"])
def test_limits_are_numbers_that_limit(option, value):
    refused = CliRunner().invoke(app, ["bench", f"{option}={value}"])
    assert isinstance(refused.exception, InvalidInputError)
    assert f"{option} must be above 0" in str(refused.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--compare", "old", "new", "--show", "old"],
        ["--compare", "old", "new", "--plots", "plots"],
        ["--compare", "old", "new", "--output", "new"],
        ["--show", "old", "--output", "new"],
        ["ops", "--show", "old"],
    ],
)
def test_what_measures_nothing_takes_nothing_that_it_would_ignore(tmp_path, arguments):
    names = {name: str(tmp_path / name) for name in ("old", "new", "plots")}
    for name in ("old", "new"):
        write_record(record(row(1.0)), tmp_path / name)
    refused = CliRunner().invoke(app, ["bench", *(names.get(part, part) for part in arguments)])
    assert isinstance(refused.exception, InvalidInputError)
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize("arguments", [["training", "--only", "CROWN"], ["ops", "--only", "DM-Small"]])
def test_a_choice_that_leaves_nothing_to_measure_is_refused(monkeypatch, arguments):
    monkeypatch.setattr("lbp.commands.bench.measure_rates", lambda device: record().rates)
    refused = CliRunner().invoke(app, ["bench", "--quick", *arguments])
    assert isinstance(refused.exception, InvalidInputError)
    assert "nothing was measured" in str(refused.exception)


@pytest.mark.parametrize("kept", [False, True])
def test_an_interrupted_measurement_says_where_its_rows_are(tmp_path, monkeypatch, kept):
    def measure(*_):
        yield [row(1.0)]
        raise KeyboardInterrupt

    monkeypatch.setattr("lbp.commands.bench.measure_rates", lambda device: record().rates)
    monkeypatch.setattr("lbp.commands.bench.measure_ops", measure)
    path = tmp_path / "record.json"
    output = ["--output", str(path)] if kept else []
    result = CliRunner().invoke(app, ["bench", "ops", *output], env={"COLUMNS": "200"})
    assert result.exit_code == 130
    assert ("the same command with the same --output measures the rest" in result.output) == kept
    assert ("kept only by --output FILE" in result.output) != kept
    assert not kept or [each.key for each in read_record(path).rows] == [row(1.0).key]


@pytest.fixture
def measured_levels(monkeypatch):
    """The levels that a command measures, which take no time."""
    levels = []

    def measure(level):
        def rows(*_):
            levels.append(level)
            yield [row(1.0)]

        return rows

    monkeypatch.setattr("lbp.commands.bench.measure_rates", lambda device: RATES)
    for level in ("ops", "methods", "training", "growth"):
        monkeypatch.setattr(f"lbp.commands.bench.measure_{level}", measure(level))
    return levels


def test_a_quick_measurement_leaves_growth_out_and_refuses_it_by_name(measured_levels):
    assert CliRunner().invoke(app, ["bench", "--quick"]).exit_code == 0
    assert measured_levels == ["ops", "methods", "training"]
    refused = CliRunner().invoke(app, ["bench", "growth", "--quick"])
    assert isinstance(refused.exception, InvalidInputError)
    assert "--quick has no growth" in str(refused.exception)


def contenders(*arguments):
    """Returns who takes part, and who is absent, by what the command says first."""
    shown = CliRunner().invoke(app, ["bench", *map(str, arguments)], env={"COLUMNS": "500"}).output
    said = dict(line.split(": ", 1) for line in shown.splitlines()[:2] if ": " in line)
    return said["contenders"].split("; "), said.get("absent", "")


@pytest.mark.usefixtures("measured_levels")
def test_the_command_says_who_takes_part_and_who_is_absent(monkeypatch, tmp_path):
    monkeypatch.setattr("lbp.commands.bench.peer_available", lambda peer: peer is not None)
    present, absent = contenders("ops", "methods")
    assert {"native", "reference", "reference compiled"} <= {*present}
    assert absent.startswith("auto_LiRPA patches (not installed; --peer FOLDER adds it); auto_LiRPA matrix (")
    (tmp_path / "auto_LiRPA").mkdir()
    present, absent = contenders("methods", "--peer", tmp_path)
    assert {"auto_LiRPA patches", "auto_LiRPA matrix"} <= {*present}
    assert absent == ""
    assert contenders("growth")[1] == ""
    assert contenders("methods", "--contender", "native") == (["native"], "")


@pytest.mark.usefixtures("measured_levels")
@pytest.mark.parametrize(
    ("level", "reason"), [("ops", "at none of the layers of --quick"), ("methods", "with 16 or 32 images only")]
)
def test_a_quick_measurement_says_that_nothing_is_compiled(level, reason):
    present, absent = contenders(level, "--quick")
    assert "reference compiled" not in present
    assert f"reference compiled ({reason})" in absent


@pytest.mark.usefixtures("measured_levels")
def test_a_record_has_the_version_of_a_peer_that_takes_part(tmp_path):
    (tmp_path / "auto_LiRPA").mkdir()
    (tmp_path / "auto_LiRPA" / "__init__.py").write_text("__version__ = '0.7.1'")
    for level, versions in (("methods", ["0.7.1", "unknown"]), ("growth", [None, None])):
        path = tmp_path / f"{level}.json"
        CliRunner().invoke(app, ["bench", level, "--peer", str(tmp_path), "--output", str(path)])
        assert [read_record(path).versions.get(name) for name in (PEER, PEER_COMMIT)] == versions


def test_no_images_at_once_are_a_usage_error():
    assert CliRunner().invoke(app, ["bench", "--batch", "0"]).exit_code == 2


def test_a_record_that_cannot_be_written_is_shown(tmp_path, monkeypatch):
    command = sys.modules["lbp.commands.bench"]
    measured = [row(1.0), row(9.0, contender="reference")]
    monkeypatch.setattr(command, "measure_rates", lambda device: RATES)
    monkeypatch.setattr(command, "measure_ops", lambda *arguments: iter([measured]))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    result = CliRunner().invoke(app, ["bench", "ops", "--output", str(tmp_path / "record.json")])
    assert isinstance(result.exception, OutputError)
    assert "relax_backward n=8" in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("repeats", "cell"), [([0.1] * 3, "100 ±0%"), ([0.09, 0.1, 0.11], "100 ±5%"), ([0.1, 0.1], "100 (2x)")]
)
def test_a_table_says_how_far_repeats_lie_apart_or_that_they_are_few(repeats, cell):
    (table,) = result_tables(record(row(1.0, timing=Timing.of(repeats))))
    column = next(column for column in table.columns if str(column.header).startswith("native"))
    assert list(column.cells) == [cell]


@pytest.mark.parametrize(
    ("contender", "note", "wrong"),
    [
        ("native", "differs from reference by 1", True),
        ("reference compiled", "differs from reference by 1", True),
        ("auto_LiRPA patches", "differs from reference by 1", False),
        ("CuPy fused", "differs from reference by 1", False),
        ("native, dense", "RuntimeError: a fault", True),
        ("native", "process ended with code -11", True),
        ("reference compiled", "InductorError: no compiler", False),
        *(("native", note, False) for note in ("", "stopped after 12 s", "out of memory", "not run: estimated 120 s")),
    ],
)
def test_faults_of_this_package_end_the_command_with_an_error_and_slowness_does_not(contender, note, wrong):
    assert _is_wrong(row(1.0, contender=contender, note=note)) == wrong


@pytest.mark.parametrize(
    "name", ["DM-Large", "CROWN-IBP", "ramp", "interval_", "outward_interval_conv2d", "concretize_ball p=2"]
)
def test_names_of_networks_methods_and_ops_are_known(name):
    assert _known([name]) == (name,)


@pytest.mark.parametrize("name", ["DM-Larg", "CROWM", "rampp", "", " ", " p=2"])
def test_an_unknown_name_is_refused_instead_of_measuring_everything(name):
    with pytest.raises(InvalidInputError, match=f"--only '{name}' is neither"):
        _known(["ramp", name])


def test_the_version_of_a_peer_is_read_off_its_folder(tmp_path):
    (tmp_path / "auto_LiRPA").mkdir()
    (tmp_path / "auto_LiRPA" / "__init__.py").write_text("import absent\n__version__ = '0.7.1'\n")
    assert peer_version(tmp_path) == "0.7.1"
