"""Pictures, drawn by matplotlib without a display."""

from lbp.plots.curves import plot_slope_sweep, plot_tightness, plot_training
from lbp.plots.overview import Panel, plot_overview
from lbp.plots.status import plot_neuron_status

__all__ = ["Panel", "plot_neuron_status", "plot_overview", "plot_slope_sweep", "plot_tightness", "plot_training"]
