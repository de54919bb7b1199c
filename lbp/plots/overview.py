"""One picture of verified networks: what their neurons do, and how good each method's margin bounds are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lbp.plots.status import draw_neuron_status, draw_status_legend
from lbp.plots.style import new_figure, plain, png
from lbp.verification import LayerStatus, VerificationResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WHISKERS = (5, 95)


@dataclass(frozen=True)
class Panel:
    """One network in the picture: its name, its neuron status, its verification."""

    title: str
    status: Sequence[LayerStatus]
    result: VerificationResult


def plot_overview(panels: Sequence[Panel], title: str) -> bytes:
    """Draws one column per network: neuron status per layer above, margin bounds per method below.

    Args:
        panels: the networks.
        title: of the whole picture.

    Returns:
        a PNG file.
    """
    figure = new_figure(6.4 * len(panels), 7.6)
    axes = figure.subplots(2, len(panels), squeeze=False, height_ratios=(1, 1.3))
    limits = _margin_limits(panels)
    for column, panel in enumerate(panels):
        draw_neuron_status(axes[0, column], panel.title, panel.status)
        _draw_margins(axes[1, column], panel.result, limits)
    draw_status_legend(figure, axes[0], "status of the neurons (upper row)")
    figure.suptitle(plain(title), fontsize=14)
    return png(figure)


def _draw_margins(axes: "Axes", result: VerificationResult, limits: tuple[float, float]) -> None:
    names = list(result.methods)
    smallest = [_smallest_margins(result, name) for name in names]
    positions = np.arange(len(names))
    axes.axvspan(0, limits[1], color="#009e73", alpha=0.10, zorder=0)
    axes.axvline(0, color="#009e73", linewidth=1.2, zorder=1)
    axes.boxplot(
        smallest, positions=positions, orientation="horizontal", widths=0.55, whis=_WHISKERS, showfliers=False,
        patch_artist=True, boxprops={"facecolor": "#56b4e9"}, medianprops={"color": "black", "linewidth": 1.5},
    )  # fmt: skip
    labels = [f"{name}\nverified error {100 * error:.1f}%" for name, error in result.verified_errors().items()]
    axes.set_yticks(positions, labels)
    axes.set(xlim=limits, xlabel="smallest margin bound of an image; green: verified")
    settings = f"clean error {100 * result.clean_error:.1f}%, eps {result.eps:g}, {result.strategy} lines"
    axes.set_title(f"{settings}\nboxes: median and quartiles, whiskers: 5% to 95% of the images", fontsize=10)
    axes.invert_yaxis()


def _smallest_margins(result: VerificationResult, name: str) -> np.ndarray:
    method = result.methods[name]
    values = method.margins[method.computed].double().amin(dim=1).numpy()
    finite: np.ndarray = values[np.isfinite(values)]
    return finite


def _margin_limits(panels: Sequence[Panel]) -> tuple[float, float]:
    values = [_smallest_margins(panel.result, name) for panel in panels for name in panel.result.methods]
    ends = [np.percentile(part, _WHISKERS) for part in values if len(part)]
    low, high = (min(end[0] for end in ends), max(end[1] for end in ends)) if ends else (-1.0, 1.0)
    room = 0.05 * max(high - low, 1e-6)
    return float(min(low, 0) - room), float(max(high, 0) + room)
