"""The experiments of Lyu et al. 2021: what was trained, and what came out."""

from lbp.experiments.paper import PaperRow, paper_rows

__all__ = ["PaperRow", "paper_rows"]
