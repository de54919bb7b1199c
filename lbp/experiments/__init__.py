"""The experiments of Lyu et al. 2021: what was trained, and what came out."""

from lbp.experiments.match import matching_rows
from lbp.experiments.paper import FIGURES, PaperRow, paper_rows
from lbp.experiments.schedules import KAPPAS, training_of

__all__ = ["FIGURES", "KAPPAS", "PaperRow", "matching_rows", "paper_rows", "training_of"]
