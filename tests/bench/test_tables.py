"""What the tables of a record show."""

from dataclasses import replace

import pytest
from bench.records import RATES, record, row

from lbp.bench.tables import cases, floor_seconds, result_tables
from lbp.bench.timing import Timing


def test_the_floor_is_the_slower_of_memory_and_products():
    assert floor_seconds(row(1.0, moved_bytes=10**9, operations=10**9), RATES) == 1.0
    assert floor_seconds(row(1.0, moved_bytes=10**6, operations=10**11), RATES) == 1.0
    assert floor_seconds(row(1.0), RATES) is None


def test_a_case_gathers_its_contenders():
    (case,) = cases([row(1.0), row(4.0, contender="reference")], "ops")
    assert case.ratio("reference", "native") == 4.0
    assert case.ratio("reference compiled", "native") is None


def test_tables_hold_every_level():
    methods = replace(row(1.0), level="methods", parameters={"batch": 1, "neurons": 5, "method": "IBP"})
    failed = replace(methods, contender="reference", timing=None, note="out of memory")
    assert [table.row_count for table in result_tables(record(row(1.0), methods, failed))] == [1, 1]


@pytest.mark.parametrize(
    ("repeats", "cell"), [([0.1] * 3, "100 ±0%"), ([0.09, 0.1, 0.11], "100 ±5%"), ([0.1, 0.1], "100 (2x)")]
)
def test_a_table_says_how_far_repeats_lie_apart_or_that_they_are_few(repeats, cell):
    (table,) = result_tables(record(row(1.0, timing=Timing.of(repeats))))
    column = next(column for column in table.columns if str(column.header).startswith("native"))
    assert list(column.cells) == [cell]
