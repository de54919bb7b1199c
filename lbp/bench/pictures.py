"""Records as pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lbp.bench.grid import METHODS
from lbp.bench.growth import Growth, fitted_growth
from lbp.bench.record import Record, Row
from lbp.bench.tables import cases
from lbp.files import write_atomically
from lbp.plots.style import new_figure, png

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BACKWARD = " backward"
"""How the name of an op ends in rows of its gradient."""

Points = dict[str, list[tuple[float, float]]]
"""Points in a panel, by what the legend calls them."""

_KINDS = (
    "activations",
    "relaxation",
    "evaluation over the region",
    "products",
    "relaxation and product",
    "other windows",
)


def kind_of(op: str) -> str:
    """Returns which ops an op is drawn with, by its name in `lbp.ops`."""
    if op.startswith(("ramp", "bounding_lines")):
        return "activations"
    if op.startswith("concretize"):
        return "evaluation over the region"
    if op.startswith("relax_backward_"):
        return "relaxation and product"
    if op.startswith("relax"):
        return "relaxation"
    return "other windows" if "windows" in op else "products"


def draw_pictures(record: Record, folder: Path) -> list[Path]:
    """Draws what the record has rows for, as PNG files, and returns their paths.

    `speed-up.png`: PyTorch's time over native by numbers in the operands, per op. `roofline.png`: rates of the ops that
    multiply against their operations per byte, and of the others against their bytes, in units of the machine's rates
    in the same run. `memory.png` and `time.png`: methods against the number of neurons. `growth.png`: times of chains
    of convolutions against each of their sizes.

    Raises:
        OutputError: a file cannot be written.
    """
    wanted: list[tuple[str, str, Callable[[Record], Figure]]] = [
        ("ops", "speed-up.png", _speed_up),
        ("ops", "roofline.png", _roofline),
        ("methods", "memory.png", _memory),
        ("methods", "time.png", _time),
        ("growth", "growth.png", _growth),
    ]
    levels = {row.level for row in record.rows}
    return [_write(record, draw(record), folder / name) for level, name, draw in wanted if level in levels]


def _write(record: Record, figure: Figure, path: Path) -> Path:
    threads = "" if record.settings.get("device", "cpu") != "cpu" else f", {record.settings['threads']} threads"
    figure.suptitle(f"{record.device}{threads}, commit {record.short_commit}")
    write_atomically(path, png(figure))
    return path


def _speed_up(record: Record) -> Figure:
    """Draws a row of panels per kind of op: the op on the left, its gradient on the right."""
    found: dict[tuple[str, str], Points] = {}
    for case in cases(record.rows, "ops"):
        ratio = case.ratio("reference", "native")
        if ratio is None:
            continue
        sizes = case.rows["native"].parameters
        op = sizes["op"].removesuffix(BACKWARD)
        suffix = sizes["op"].removeprefix(op)
        points = found.setdefault((kind_of(op), suffix), {})
        points.setdefault(f"{op} {case.activation}".strip(), []).append(
            (sizes["n"] * sizes["B"] * sizes.get("S", 1), ratio)
        )
    kinds = [kind for kind in _KINDS if {(kind, ""), (kind, BACKWARD)} & found.keys()]
    figure = new_figure(13, 1 + 2.6 * len(kinds))
    panels = figure.subplots(max(len(kinds), 1), 2, squeeze=False, sharex=True, sharey="row")
    for axes, kind in zip(panels, kinds, strict=False):
        sides = [found.get((kind, suffix), {}) for suffix in ("", BACKWARD)]
        names = sorted(set().union(*sides))
        for axis, suffix, points in zip(axes, ("", ", gradients"), sides, strict=True):
            _scatter(axis, points, names)
            axis.axhline(1, color="black", linewidth=1)
            axis.set(xscale="log", yscale="log", title=kind + suffix)
        _plain_ratios(axes[0])
        axes[0].set_ylabel("PyTorch's time / lbp's")
        _explain(axes[1], axes[0])
    for axis in panels[-1]:
        axis.set_xlabel("numbers (B S n)")
    return figure


def _roofline(record: Record) -> Figure:
    """Draws each row in units of the rates that the machine had in its run, which differ from those of other runs."""
    multiplying: Points = {}
    moving: Points = {}
    for row in record.rows:
        if row.level == "ops" and row.contender == "native" and row.timing and row.moved_bytes:
            rates = record.rates_of(row)
            op = row.parameters["op"]
            name = kind_of(op.removesuffix(BACKWARD)) + (", gradients" if op.endswith(BACKWARD) else "")
            if row.operations:
                intensity = row.operations / row.moved_bytes * rates.copy / rates.products
                share = row.operations / row.timing.median / rates.products
                multiplying.setdefault(name, []).append((intensity, share))
            else:
                copy_seconds = row.copy_seconds or row.moved_bytes / rates.copy
                moving.setdefault(name, []).append((row.moved_bytes, copy_seconds / row.timing.median))
    figure = new_figure(13, 10)
    upper, lower = figure.subplots(2, 1)
    _scatter(upper, multiplying, sorted(multiplying))
    every = [intensity for points in multiplying.values() for intensity, _ in points] or [1.0]
    roof = sorted((min(every) / 2, max(every) * 2, 1.0))
    upper.plot(roof, [min(x, 1.0) for x in roof], "k--", label="measured roof")
    xlabel = "operations per byte, in units of (rate of products) / (rate of copies)"
    upper.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="operations per second / rate of products")
    _scatter(lower, moving, sorted(moving))
    lower.axhline(1, color="black", linestyle="--", label="measured copy")
    ylabel = "bytes per second / rate of copies"
    lower.set(xscale="log", yscale="log", xlabel="bytes that ops without products must move", ylabel=ylabel)
    for axes in (upper, lower):
        _explain(axes)
    return figure


def _memory(record: Record) -> Figure:
    return _by_neurons(
        record, lambda row: None if row.peak_bytes is None else row.peak_bytes / 2**20, "peak memory, MiB, one image"
    )


def _time(record: Record) -> Figure:
    return _by_neurons(record, lambda row: None if row.timing is None else row.timing.median, "seconds, one image")


def _by_neurons(record: Record, value: Callable[[Row], float | None], ylabel: str) -> Figure:
    """Draws a panel per method, with a line per contender over the ReLU networks, batch 1."""
    found: dict[str, Points] = {}
    for row in record.rows:
        if row.level == "methods" and row.activation == "ReLU" and row.parameters["batch"] == 1:
            measured = value(row)
            if measured:
                points = found.setdefault(row.parameters["method"], {})
                points.setdefault(row.contender, []).append((row.parameters["neurons"], measured))
    names = _contenders(found.values())
    figure = new_figure(13, 7.5)
    *panels, last = figure.subplots(2, 3, sharex=True, sharey=True).flat
    for axes, method in zip(panels, sorted(METHODS), strict=True):
        _lines(axes, found.get(method, {}), names)
        axes.set(xscale="log", yscale="log", title=method)
        axes.grid(alpha=0.3)
    _only_legend(last, names)
    figure.supxlabel("neurons")
    figure.supylabel(ylabel)
    return figure


def _growth(record: Record) -> Figure:
    """Draws a row of panels per method and a column per size, with a line per contender; the legend has exponents."""
    found: dict[tuple[str, str], Points] = {}
    for row in record.rows:
        if row.level == "growth" and row.timing is not None:
            panel = row.case.partition(" ")[0], row.parameters["quantity"]
            points = found.setdefault(panel, {})
            points.setdefault(row.contender, []).append((row.parameters["value"], row.timing.median))
    exponents = {(fit.method, fit.quantity, fit.contender): fit for fit in fitted_growth(record.rows)}
    methods, quantities = (list(dict.fromkeys(panel[i] for panel in found)) for i in range(2))
    names = _contenders(found.values())
    figure = new_figure(3.4 * max(len(quantities), 1) + 1, 3.2 * max(len(methods), 1) + 0.6)
    panels = figure.subplots(max(len(methods), 1), max(len(quantities), 1), squeeze=False, sharey=True)
    for row_of_panels, method in zip(panels, methods, strict=False):
        for axes, quantity in zip(row_of_panels, quantities, strict=True):
            points = found.get((method, quantity), {})
            _lines(
                axes, points, names, {name: _label(name, exponents.get((method, quantity, name))) for name in points}
            )
            axes.set(xscale="log", yscale="log", title=f"{method}, {quantity}")
            sizes = sorted({size for line in points.values() for size, _ in line})
            axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
            axes.set_xticks([], minor=True)
            axes.legend(fontsize="small", frameon=False)
            axes.grid(alpha=0.3)
        row_of_panels[0].set_ylabel("seconds")
    return figure


def _label(name: str, fit: Growth | None) -> str:
    return name if fit is None else f"{name}: exponent {fit.time:.1f}"


def _contenders(panels: Iterable[Points]) -> list[str]:
    """Returns the names in panels, each once, so that one has the same colour everywhere."""
    return list(dict.fromkeys(name for points in panels for name in points))


def _scatter(axes: Axes, points: Points, names: Sequence[str]) -> None:
    """Draws points; the place of a name in `names` gives its colour and marker."""
    markers = "osD^vP"
    for i, name in enumerate(names):
        if name in points:
            axes.scatter(
                *_columns(points[name]), label=name, s=14, alpha=0.8, linewidth=0,
                color=f"C{i % 10}", marker=markers[i // 10 % len(markers)],
            )  # fmt: skip


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _lines(axes: Axes, points: Points, names: Sequence[str], labels: dict[str, str] | None = None) -> None:
    for i, name in enumerate(names):
        if name in points:
            line = sorted(points[name])
            label = labels[name] if labels else name
            axes.plot(
                *zip(*line, strict=True), color=f"C{i % 10}", marker="o", markersize=3, linewidth=1.2, label=label
            )


def _plain_ratios(axes: Axes) -> None:
    """Writes the numbers of a logarithmic axis that spans few powers of ten without powers."""
    low, high = axes.get_ylim()
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)


def _explain(axes: Axes, *others: Axes) -> None:
    """Puts the legend of panels to the right of the first, each name once, and a grid behind all."""
    entries: dict[str, Artist] = {}
    for panel in (axes, *others):
        handles, labels = panel.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
        panel.grid(alpha=0.3)
    if entries:
        axes.legend(
            handles=list(entries.values()), labels=list(entries), fontsize="small", frameon=False,
            loc="center left", bbox_to_anchor=(1, 0.5),
        )  # fmt: skip


def _only_legend(axes: Axes, names: Sequence[str]) -> None:
    """Makes a panel the legend of the others."""
    for i, name in enumerate(names):
        axes.plot([], [], color=f"C{i % 10}", marker="o", markersize=3, label=name)
    axes.legend(loc="center", frameon=False)
    axes.axis("off")
