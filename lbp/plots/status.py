"""What the neurons of every layer do (Lyu et al. 2021, figures 4 and 6)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lbp.plots.style import STATUS_COLOURS, new_figure, plain, png
from lbp.strategies import STATUSES
from lbp.verification import LayerStatus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_neuron_status(networks: Sequence[tuple[str, Sequence[LayerStatus]]], title: str) -> bytes:
    """Draws one column per network, one bar per activation layer.

    Args:
        networks: name and status of at least one network.
        title: of the whole picture.

    Returns:
        a PNG file.
    """
    layers = max(len(status) for _, status in networks)
    figure = new_figure(6.4 * len(networks), 2.4 + 0.35 * layers)
    axes = figure.subplots(1, len(networks), squeeze=False)
    for column, (name, status) in enumerate(networks):
        draw_neuron_status(axes[0, column], name, status)
    draw_status_legend(figure, axes[0])
    figure.suptitle(plain(title))
    return png(figure)


def draw_status_legend(figure: "Figure", row: "Sequence[Axes]", title: str | None = None) -> None:
    """Explains the colours of a row of networks below the picture; of a single one, which is narrow, in two lines."""
    handles, labels = row[0].get_legend_handles_labels()
    columns = len(STATUSES) if len(row) > 1 else len(STATUSES) // 2
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, title=title)


def draw_neuron_status(axes: "Axes", title: str, status: Sequence[LayerStatus]) -> None:
    """Draws the shares of the six statuses as one horizontal bar per layer, the first layer on top."""
    layers = [entry.layer for entry in status]
    left = np.zeros(len(layers))
    for name in STATUSES:
        shares = np.array([100 * entry.shares[name] for entry in status])
        bars = axes.barh(
            layers, shares, left=left, color=STATUS_COLOURS[name], label=name, edgecolor="white", linewidth=0.5
        )
        axes.bar_label(
            bars, [f"{share:.0f}%" if share >= 6 else "" for share in shares], label_type="center", fontsize=8
        )
        left += shares
    axes.set(title=plain(title), xlabel="share of the layer's neurons, all images (%)", xlim=(0, 100))
    axes.invert_yaxis()
