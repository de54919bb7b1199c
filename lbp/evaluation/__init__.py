"""The errors of a network as the paper reports them: clean, verified by every method, attacked."""

from lbp.evaluation.departures import departures, departures_text
from lbp.evaluation.evaluate import METHODS, STRATEGIES, EvaluatedImage, EvaluationSettings, evaluate, verified_figure
from lbp.evaluation.report import errors_of, markdown_table, summary_of

__all__ = [
    "METHODS",
    "STRATEGIES",
    "EvaluatedImage",
    "EvaluationSettings",
    "departures",
    "departures_text",
    "errors_of",
    "evaluate",
    "markdown_table",
    "summary_of",
    "verified_figure",
]
