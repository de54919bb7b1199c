"""Comparisons of records report what lies beyond noise and nothing else."""

import re
from dataclasses import replace

import pytest
from bench.records import GPU, RATES, record, row
from typer.testing import CliRunner

from lbp.bench.comparison import compare, comparison_table
from lbp.bench.record import LIBRARY, PLAIN_FUNCTIONS, Run, write_record
from lbp.bench.timing import Timing
from lbp.cli import app


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
