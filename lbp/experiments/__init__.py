"""The experiments of Lyu et al. 2021: what was trained, and what came out."""

from lbp.experiments.match import matching_rows
from lbp.experiments.paper import FIGURES, PaperRow, paper_rows
from lbp.experiments.schedules import CROPS, KAPPAS, NORMALIZED, training_of

__all__ = ["CROPS", "FIGURES", "KAPPAS", "NORMALIZED", "PaperRow", "matching_rows", "paper_rows", "training_of"]
