"""Aims say by how few repeats they were judged."""

import pytest

from lbp.bench.aims import CPU_AIMS, aims_table
from lbp.bench.rates import Rates
from lbp.bench.record import Record, Row
from lbp.bench.timing import Timing


def record_of(repeats, of_reference, level="ops"):
    rows = tuple(
        Row(level, case, "ReLU", contender, Timing(time, time, time, count), peak_bytes=count)
        for case in ("relax_backward B=32 S=9 n=65,536", "DM-Medium CROWN-IBP B=16")
        for contender, time, count in (("native", 1.0, repeats), ("reference", 9.0, of_reference))
    )
    return Record(
        "a processor", "0" * 40, {"threads": 2, "device": "cpu"}, {}, Rates(1e9, 1e9, 1e9), rows, "2020-01-01"
    )


def measured(record, words):
    table = aims_table(record)
    cells = zip(*(column.cells for column in table.columns), strict=True)
    return next(ratio for what, _, ratio, _ in cells if words in what)


@pytest.mark.parametrize(
    ("repeats", "of_reference", "shown"), [(9, 3, "9.00"), (9, 1, "9.00 (1x)"), (2, 9, "9.00 (2x)")]
)
def test_an_aim_is_shown_with_the_repeats_of_whom_was_measured_least_if_they_are_few(repeats, of_reference, shown):
    assert measured(record_of(repeats, of_reference), "relax_backward over PyTorch, ReLU") == shown


def test_an_aim_for_memory_has_no_repeats():
    record = record_of(1, 2, level="training")
    assert measured(record, "training step on DM-Medium") == "0.50"
    (aim,) = (aim for aim in CPU_AIMS if "training step on DM-Medium" in aim.words)
    assert aim.fewest_repeats(record) is None
