"""The tables of the READMEs have the figures of the committed records."""

import importlib

import pytest


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")
    return importlib.import_module("tables")


def test_every_figure_of_both_pages_is_the_records(tables):
    for page in tables.PAGES:
        assert tables.filled(page.read_text()) == page.read_text(), "python benchmarks/tables.py writes them"


def test_every_kind_of_table_is_in_the_benchmarks_page(tables):
    headings = {tables.cells(line)[0] for line in tables.PAGES[1].read_text().splitlines() if line.startswith("|")}
    assert tables.TABLES.keys() <= headings


def test_a_row_of_the_readme_is_one_of_the_benchmarks_page(tables):
    def keys(page):
        kind = ""
        for line in page.read_text().splitlines():
            kind = "" if not line.startswith("|") else kind or tables.cells(line)[0]
            if kind in tables.TABLES:
                yield kind, *tables.cells(line)[: 2 if kind in ("one image", "training step") else 1]

    readme, page = map(set, map(keys, tables.PAGES))
    assert readme - page == set()
    assert len(readme) > 10


@pytest.mark.parametrize(
    ("heading", "row", "column"),
    [
        ("| one image | method | lbp, s / MiB | PyTorch |", "| DM-Small ReLU | CROWN | 9 / 9 | 9 / 9 |", 2),
        ("| training step | method | PyTorch |", "| DM-Medium ReLU, 128 images | IBP | 9 / 9 |", 2),
        ("| op, ms | lbp | floor | PyTorch | |", "| concretize_box gradient B=32 S=9 n=65,536 | 9 | 9 | 9 | 9 |", 2),
        ("| H100, us | ReLU | ParamRamp | otherwise |", "| ramp_interval B=512 n=65,536 | 9 | 9 | 9 |", 1),
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


def test_other_tables_and_sentences_stay(tables):
    page = "Of 9 images\n\n| op | bytes |\n| --- | --- |\n| `ramp` | 8 B n |\n"
    assert tables.filled(page) == page
