"""Pictures, drawn by matplotlib without a display."""

from lbp.plots.overview import Panel, plot_overview

__all__ = ["Panel", "plot_overview"]
