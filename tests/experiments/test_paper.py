"""The paper's rows: complete, distinct and plausible."""

from collections import Counter

import pytest

from lbp.experiments import FIGURES, paper_rows


def test_every_table_has_its_rows():
    counts = Counter(row.table for row in paper_rows())
    assert counts == {"1": 1, "2": 24, "3": 4, "4": 36, "5": 36, "6": 36, "7": 6}


def test_no_network_stands_twice_in_a_table():
    keys = [
        (row.table, row.data, row.architecture, row.loss, row.activation_label, row.train_eps, row.test_eps)
        for row in paper_rows()
    ]
    assert len(set(keys)) == len(keys)


def test_errors_are_shares_and_a_certificate_never_beats_an_attack():
    for row in paper_rows():
        assert all(0 < error <= 1 for error in row.errors.values())
        verified = [error for name, error in row.errors.items() if name.endswith((" tight", " adaptive"))]
        attacked = [row.errors[name] for name in ("clean", "PGD") if name in row.errors]
        assert verified
        assert attacked == sorted(attacked)
        assert max(attacked, default=0) <= min(verified)


def test_table_1_holds_every_method_with_both_kinds_of_lines():
    (row,) = [row for row in paper_rows() if row.table == "1"]
    assert set(row.errors) == set(FIGURES) - {"clean", "PGD"}
    tight = [row.errors[f"{method} tight"] for method in ("IBP", "LBP", "CROWN-IBP", "CROWN-LBP")]
    assert tight == sorted(tight, reverse=True), "theorem 2"


def test_table_3_is_a_selection_of_the_best_rows_of_its_kind():
    chosen = [row for row in paper_rows() if row.table == "3"]
    for row in chosen:
        assert (row.data, row.architecture, row.train_eps, row.test_eps) == ("mnist", "DM-Large", "0.4", "0.4")
    assert {row.activation_label for row in chosen} == {"ReLU(0)", "Ramp(0.01→0)"}


@pytest.mark.parametrize(("test_eps", "radius"), [("2/255", 2 / 255), ("8/255", 8 / 255), ("0.3", 0.3)])
def test_radii_are_read_as_numbers(test_eps, radius):
    assert {row.test_radius for row in paper_rows() if row.test_eps == test_eps} == {radius}
