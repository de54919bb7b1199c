"""The rows of tables 1 to 7 of Lyu et al. 2021, from the one file that holds them (`paper_rows.csv`)."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from lbp.settings import parse_number

_FILE = "paper_rows.csv"

FIGURES = {
    "clean": "clean",
    "PGD": "pgd",
    "IBP tight": "ibp_tight",
    "CROWN-IBP tight": "crown_ibp_tight",
    "LBP tight": "lbp_tight",
    "CROWN-LBP tight": "crown_lbp_tight",
    "IBP adaptive": "ibp_adaptive",
    "CROWN-IBP adaptive": "crown_ibp_adaptive",
    "LBP adaptive": "lbp_adaptive",
    "CROWN-LBP adaptive": "crown_lbp_adaptive",
}
"""Errors by name, and the columns that hold them: clean, attacked, and verified by a method with some lines."""


@dataclass(frozen=True)
class PaperRow:
    """A network of the paper, and its errors at one radius.

    The paper selects a network for every test radius, so that rows which differ in `test_eps` alone may have different
    clean errors.

    Attributes:
        table: number of the table, "1" to "7".
        data: "mnist", "cifar10" or "tiny-imagenet".
        architecture: "DM-Large", ...
        loss: bounds that it was trained on, "ibp" or "crown-ibp".
        activation: "relu" (LeakyReLU where an eta is positive) or "ramp" (ParamRamp).
        eta_start, eta_end: outer slope in training; equal where the schedule keeps it.
        train_eps, test_eps: radii as written, such as "8.8/255", in units of the data range [0, 1].
        errors: shares in [0, 1] by `FIGURES`; what the paper does not state is absent.
    """

    table: str
    data: str
    architecture: str
    loss: str
    activation: str
    eta_start: float
    eta_end: float
    train_eps: str
    test_eps: str
    errors: dict[str, float]

    @property
    def train_radius(self) -> float:
        """The radius trained at, as a number."""
        return parse_number(self.train_eps)

    @property
    def test_radius(self) -> float:
        """The radius tested at, as a number."""
        return parse_number(self.test_eps)

    @property
    def activation_label(self) -> str:
        """The activation in the paper's notation: ReLU(0), Ramp(0.01), Ramp(0.01→0), ..."""
        name = {"relu": "ReLU", "ramp": "Ramp"}[self.activation]
        falls = "" if self.eta_start == self.eta_end else f"→{self.eta_end:g}"
        return f"{name}({self.eta_start:g}{falls})"


@cache
def paper_rows() -> tuple[PaperRow, ...]:
    """All rows, in the order of the paper's tables."""
    text = files("lbp.experiments").joinpath(_FILE).read_text(encoding="utf-8")
    return tuple(_row(record) for record in csv.DictReader(text.splitlines()))


def _row(record: dict[str, str]) -> PaperRow:
    return PaperRow(
        table=record["table"],
        data=record["data"],
        architecture=record["architecture"],
        loss=record["loss"],
        activation=record["activation"],
        eta_start=float(record["eta_start"]),
        eta_end=float(record["eta_end"]),
        train_eps=record["train_eps"],
        test_eps=record["test_eps"],
        errors={name: float(record[column]) / 100 for name, column in FIGURES.items() if record[column]},
    )
