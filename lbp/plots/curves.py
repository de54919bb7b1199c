"""Curves: bounds against the radius, margins against the slope, errors against the epoch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lbp.errors import InvalidInputError
from lbp.evaluation.slope_sweep import SlopeCurve
from lbp.evaluation.tightness import WidthCurve
from lbp.plots.style import line_style, method_colour, new_figure, plain, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Epoch = Mapping[str, Any]


def plot_tightness(curves: Sequence[WidthCurve], title: str) -> bytes:
    """Draws the mean width of the logits' bounds against the radius, the width on a logarithmic scale.

    Args:
        curves: at least one.
        title: of the picture.

    Returns:
        a PNG file.
    """
    figure = new_figure(7.2, 5.0)
    axes = figure.subplots()
    for curve in curves:
        axes.plot(
            curve.radii, curve.widths, line_style(curve.strategy), color=method_colour(curve.method), marker=".",
            label=_label(curve.method, curve.strategy),
        )  # fmt: skip
    axes.set(title=plain(title), xlabel="radius eps", ylabel="mean width of the bounds of a logit")
    _log_scale(axes, [width for curve in curves for width in curve.widths])
    _finish(axes)
    return png(figure)


def plot_slope_sweep(curves: Sequence[SlopeCurve], title: str) -> bytes:
    """Draws the mean margin bound against the left slope above, the clean error below.

    Args:
        curves: at least one.
        title: of the picture.

    Returns:
        a PNG file.
    """
    figure = new_figure(7.2, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for curve in curves:
        upper.plot(
            curve.slopes, curve.margins, line_style(curve.strategy), color=method_colour(curve.method), marker=".",
            label=_label(curve.method, curve.strategy),
        )  # fmt: skip
    # Bounds that explode would leave nothing of the others to see.
    upper.set_yscale("symlog", linthresh=1.0)
    upper.axhline(0, color="#009e73", linewidth=0.8)
    upper.set(title=plain(title), ylabel="mean margin bound")
    _finish(upper)
    lower.plot(curves[0].slopes, [100 * error for error in curves[0].clean_errors], color="#555555", marker=".")
    lower.set(xlabel="left slope of every activation", ylabel="clean error (%)")
    lower.grid(alpha=0.3)
    return png(figure)


def plot_training(runs: Mapping[str, Sequence[Epoch]], title: str) -> bytes:
    """Draws loss, errors and radius against the epoch.

    Args:
        runs: by name the epochs of a training as its checkpoint holds them: "loss", "clean_error", "verified_error",
            "eps" and, where a set was held out, "held_out_clean_error" and "held_out_verified_error".
        title: of the picture.

    Returns:
        a PNG file.

    Raises:
        InvalidInputError: a run without epochs.
    """
    for name, epochs in runs.items():
        if not epochs:
            raise InvalidInputError(f"{name}: no epochs to draw")
    figure = new_figure(7.2, 8.0)
    loss, errors, radius = figure.subplots(3, 1, sharex=True, height_ratios=(2, 3, 1))
    figure.suptitle(plain(title))
    for number, (name, epochs) in enumerate(runs.items()):
        name, colour = plain(name), f"C{number}"
        _draw_epochs(loss, epochs, "loss", color=colour, label=name)
        _draw_epochs(radius, epochs, "eps", color=colour, label=name)
        prefix = "held_out_" if any(epoch.get("held_out_clean_error") is not None for epoch in epochs) else ""
        where = "held out" if prefix else "training set"
        for kind, style in (("clean_error", "--"), ("verified_error", "-")):
            label = f"{name}: {kind.replace('_', ' ')}, {where}"
            _draw_epochs(errors, epochs, prefix + kind, 100, color=colour, linestyle=style, label=label)
    loss.set(ylabel="loss")
    _log_scale(loss, [epoch["loss"] for epochs in runs.values() for epoch in epochs])
    errors.set(ylabel="error (%)")
    radius.set(xlabel="epoch", ylabel="eps")
    for axes in (loss, errors):
        _finish(axes)
    radius.grid(alpha=0.3)
    return png(figure)


def _draw_epochs(axes: "Axes", epochs: Sequence[Epoch], key: str, factor: float = 1, **style: Any) -> None:
    """Draws one figure of every epoch that has it."""
    known = [(epoch["epoch"] + 1, factor * epoch[key]) for epoch in epochs if epoch.get(key) is not None]
    if known:
        # A line through a single point is none.
        axes.plot(*zip(*known, strict=True), marker="." if len(known) == 1 else None, **style)


def _log_scale(axes: "Axes", values: Sequence[float]) -> None:
    """Makes the vertical axis logarithmic if there is anything to show on one."""
    if any(value > 0 for value in values):
        axes.set_yscale("log")


def _label(method: str, strategy: str) -> str:
    return method if method == "IBP" else f"{method}, {strategy}"


def _finish(axes: "Axes") -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
