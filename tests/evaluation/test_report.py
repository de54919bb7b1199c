"""The table of errors with the paper's beside them."""

from lbp.evaluation import markdown_table
from lbp.experiments import paper_rows

ERRORS = {
    "clean": 0.0158,
    "IBP tight": 0.0391,
    "IBP adaptive": 0.0391,
    "CROWN-LBP tight": 0.039,
    "CROWN-LBP adaptive": 1.0,
    "verified": 0.039,
    "PGD": 0.03,
    "attacked": 0.031,
}


def cells(table):
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]


def test_without_a_row_of_the_paper_the_table_has_our_figures():
    rows = cells(markdown_table(ERRORS, ("IBP", "CROWN-LBP"), ("tight", "adaptive")))
    assert rows == [
        ["error (%)", "tight", "adaptive"],
        ["---", "---:", "---:"],
        ["clean", "1.58", ""],
        ["IBP", "3.91", "3.91"],
        ["CROWN-LBP", "3.90", "100.00"],
        ["not verified by any of them", "3.90", ""],
        ["PGD attack", "3.00", ""],
        ["all attacks", "3.10", ""],
    ]


def test_the_papers_figures_stand_beside_ours():
    (stated,) = [
        row
        for row in paper_rows()
        if (row.table, row.loss, row.activation_label, row.test_eps) == ("4", "ibp", "Ramp(0)", "0.2")
    ]
    rows = cells(markdown_table(ERRORS, ("IBP", "CROWN-LBP"), ("tight",), [stated]))
    assert rows[0] == ["error (%)", "tight", "paper, table 4, tight"]
    assert {row[0]: row[2] for row in rows[2:]} == {
        "clean": "1.58",
        "IBP": "3.91",
        "CROWN-LBP": "3.91",
        "not verified by any of them": "",
        "PGD attack": "3.09",
        "all attacks": "",
    }


def test_table_1_fills_a_column_per_kind_of_lines():
    row = paper_rows()[0]
    rows = cells(markdown_table(ERRORS, ("IBP", "LBP"), ("tight",), [row]))
    assert rows[0] == ["error (%)", "tight", "paper, table 1, tight", "paper, table 1, adaptive"]
    assert rows[2] == ["clean", "1.58", "", ""]
    assert rows[4] == ["LBP", "", "70.05", "100.00"]
