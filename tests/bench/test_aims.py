"""Aims are read off the rows of a record, and say by how few repeats they were judged."""

from dataclasses import replace

import pytest
import torch
from bench.records import GPU, RATES, record, row

from lbp.bench.aims import CPU_AIMS, CUDA_AIMS, aims_table
from lbp.bench.layers import affine_layers
from lbp.bench.op_case import Shape
from lbp.bench.op_cases import filling_cases
from lbp.bench.rates import Rates
from lbp.bench.record import Record, Row, continue_record, write_record
from lbp.bench.timing import Timing


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
