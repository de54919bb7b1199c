"""The tables of the pages have the figures of the committed records."""

import importlib
from dataclasses import replace

import pytest

from lbp.bench.record import Row
from lbp.bench.timing import Timing

# Kinds of tables whose rows have a network and a method.
OF_METHODS = ("one image", "training step", "H100, images", "H100, one image", "H100, training")


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")
    return importlib.import_module("tables")


def test_every_figure_of_a_table_is_the_records(tables):
    for page in tables.PAGES:
        assert tables.filled(page.read_text()) == page.read_text(), "python benchmarks/tables.py writes them"


def keys(tables, page):
    """Returns kind and first cells of the rows of a page's tables."""
    found, kind = set(), ""
    for line in page.read_text().splitlines():
        kind = "" if not line.startswith("|") else kind or tables.cells(line)[0]
        if kind in tables.TABLES:
            found.add((kind, *tables.cells(line)[: 2 if kind in OF_METHODS else 1]))
    return found


def test_every_kind_of_table_is_on_a_page(tables):
    kinds = {kind for page in tables.PAGES if page != tables.README for kind, *_ in keys(tables, page)}
    assert tables.TABLES.keys() == kinds


def test_a_row_of_the_readme_is_one_of_the_benchmarks_pages(tables):
    readme = keys(tables, tables.README)
    assert readme - set().union(*(keys(tables, page) for page in tables.PAGES if page != tables.README)) == set()
    assert len(readme) > 10


def test_every_aim_has_a_row(tables):
    aims = {words for page in tables.PAGES for kind, words, *_ in keys(tables, page) if kind == "aim on two cores"}
    assert aims - {"aim on two cores", "---"} == {aim.words for aim in tables.CPU_AIMS}


@pytest.mark.parametrize(
    ("heading", "row", "column"),
    [
        ("| one image | method | lbp, s / MiB | PyTorch |", "| DM-Small ReLU | CROWN | 9 / 9 | 9 / 9 |", 2),
        ("| training step | method | PyTorch |", "| DM-Medium ReLU, 128 images | IBP | 9 / 9 |", 2),
        ("| op, ms | lbp | floor | PyTorch | |", "| concretize_box gradient B=32 S=9 n=65,536 | 9 | 9 | 9 | 9 |", 2),
        ("| H100, us | ReLU | ParamRamp | a copy | otherwise |", "| ramp_interval B=512 n=65,536 | 9 | 9 | 9 | 9 |", 1),
        ("| H100, us | otherwise, ReLU | ReLU, or none |", "| concretize_box B=32 S=9 n=65,536 | 9 | 9 |", 1),
        ("| H100 op, us | lbp | floor | PyTorch | |", "| ramp gradient B=1 n=512 ReLU | 9 | 9 | 9 | 9 |", 1),
        ("| H100, images | method | lbp |", "| DM-Large ParamRamp, 256 images | IBP | 9 / 9 |", 2),
        ("| H100, one image | method | lbp | PyTorch |", "| DM-Large ReLU | CROWN | 9 / 9 | 9 / 9 |", 2),
        ("| H100, training | method | lbp, ms / MiB | auto_LiRPA |", "| CNN-7+BN ReLU | IBP | 9 / 9 | 9 / 9 |", 2),
        ("| more images | method | PyTorch |", "| DM-Large ReLU, 256 images | IBP | 9 / 9 |", 2),
        ("| aim on two cores | aim | measured | |", "| LBP on DM-Medium over dense PyTorch | 9 | 9 | 9 |", 1),
        ("| growing | LBP | CROWN, every row |", "| image size | 9 | 9 |", 1),
        ("| memory of what grows | LBP | CROWN, every row |", "| image size | 9 | 9 |", 1),
        ("| rounding | method | images | wrong | |", "| DM-Medium | CROWN | 9 | 9 | 9 | 9 | 9 | 9 |", 2),
        ("| trained network | eps | method | |", "| mnist-ibp-relu | 0.3 | LBP | 9 | 9 | 9 | 9 | 9 | 9 | 9 |", 3),
        ("| eps | activation | clean |", "| 0.1 | ReLU | 9 |", 2),
        ("| large network | s | MiB | done | whole |", "| DM-Large LBP ReLU | 9 | 9 | 9 | 9 |", 1),
    ],
)
def test_a_wrong_figure_is_put_right(tables, heading, row, column):
    written = tables.filled(f"{heading}\n| --- |\n{row}\n").split("\n")[2]
    assert tables.cells(written)[:1] == tables.cells(row)[:1]
    assert not {"9", "9 / 9"} & set(tables.cells(written)[column:])
    assert tables.filled(f"{heading}\n| --- |\n{written}\n").split("\n")[2] == written


def test_a_row_without_a_record_is_refused(tables):
    with pytest.raises(KeyError, match="Nothing IBP B=1"):
        tables.filled("| one image | method | lbp |\n| --- |\n| Nothing ReLU | IBP | 1 / 1 |\n")


def test_of_two_records_that_have_a_case_the_later_one_counts(tables):
    *_, earlier, later = tables.H100
    assert tables.rows_of(earlier, later)["ops", "ramp B=32 n=65,536", "ReLU", "native"][0] in later.rows
    assert tables.rows_of(later, earlier)["ops", "ramp B=32 n=65,536", "ReLU", "native"][0] in earlier.rows
    row, rates = tables.H100_ROWS["ops", "ramp B=32 n=512", "ReLU", "native"]
    assert row in earlier.rows
    assert rates == earlier.rates_of(row)


@pytest.mark.parametrize(("note", "counts"), [("out of memory", "later"), ("not run: estimated 120 s", "earlier")])
def test_a_case_that_failed_in_the_later_record_has_no_time_and_one_that_was_not_run_there_the_earlier(
    tables, note, counts
):
    *_, earlier, later = tables.H100
    row = next(row for row in earlier.rows if row.timing is not None)
    without = replace(later, rows=(replace(row, timing=None, note=note, run=0),))
    found, _ = tables.rows_of(earlier, without)[row.key]
    assert found in {"earlier": earlier, "later": without}[counts].rows


def test_rows_are_counted_by_what_others_take_for_our_second(tables):
    def row(name, seconds, case="relax n=8"):
        return Row("ops", case, "ReLU", name, Timing(seconds, seconds, seconds, 3))

    rows = [
        row("native", 1.0),
        row("reference", 2.0),
        row("native", 2.0, "ramp n=8"),
        row("reference", 1.8, "ramp n=8"),
    ]
    rows += [row("native", 1.0, "alone"), row("reference compiled", 0.5)]
    records = {row.key: (row, None) for row in rows}
    assert sorted(tables.ratios(records, "reference", "ops")) == [0.9, 2.0]
    assert tables.ratios(records, "reference compiled", "ops") == [0.5]
    assert tables.ratios(records, "reference", "methods") == []
    at_least_twice, below = (
        tables.COUNTS[words](records)
        for words in ("of these, PyTorch takes at least twice our time", "PyTorch takes less than 0.95 of our time")
    )
    assert (at_least_twice, below) == (1, 1)


def test_other_tables_and_sentences_stay(tables):
    page = "Of 9 images\n\n| op | bytes |\n| --- | --- |\n| `ramp` | 8 B n |\n"
    assert tables.filled(page) == page
