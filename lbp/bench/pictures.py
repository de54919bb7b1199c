"""Records as pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lbp.bench.record import Record, Row
from lbp.bench.tables import Case, cases
from lbp.files import write_atomically
from lbp.plots.style import new_figure, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_pictures(record: Record, folder: Path) -> list[Path]:
    """Draws what the record has rows for, as PNG files, and returns their paths.

    `speed-up.png`: PyTorch's time over native by numbers in the operands, per op. `roofline.png`: rates of the ops that
    multiply against their operations per byte, both in units of the machine's rates in the same run. `memory.png` and
    `time.png`: methods against the number of neurons.

    Raises:
        OutputError: a file cannot be written.
    """
    wanted: list[tuple[str, str, Callable[[Axes, Record], None]]] = [
        ("ops", "speed-up.png", _speed_up),
        ("ops", "roofline.png", _roofline),
        ("methods", "memory.png", _memory),
        ("methods", "time.png", _time),
    ]
    levels = {row.level for row in record.rows}
    return [_draw(record, folder / name, draw) for level, name, draw in wanted if level in levels]


def _draw(record: Record, path: Path, draw: Callable[[Axes, Record], None]) -> Path:
    figure = new_figure(9, 6)
    axes = figure.add_subplot()
    draw(axes, record)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.grid(alpha=0.3)
    figure.suptitle(f"{record.device}, {record.settings['threads']} threads")
    write_atomically(path, png(figure))
    return path


def _speed_up(axes: Axes, record: Record) -> None:
    lines: dict[str, list[tuple[float, float]]] = {}
    for case in cases(record.rows, "ops"):
        ratio = case.ratio("reference", "native")
        if ratio is not None and " backward" not in case.name:
            sizes = case.rows["native"].parameters
            name = f"{sizes['op']} {case.activation}".strip()
            lines.setdefault(name, []).append((sizes["n"] * sizes["B"] * sizes.get("S", 1), ratio))
    _draw_lines(axes, lines)
    axes.axhline(1, color="black", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="numbers (B S n)", ylabel="PyTorch's time / native")


def _roofline(axes: Axes, record: Record) -> None:
    """Draws each row in units of the rates that the machine had in its run, which differ from those of other runs."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in record.rows:
        if row.level == "ops" and row.contender == "native" and row.timing and row.operations and row.moved_bytes:
            rates = record.rates_of(row)
            intensity = row.operations / row.moved_bytes * rates.copy / rates.products
            share = row.operations / row.timing.median / rates.products
            points.setdefault(row.parameters["op"], []).append((intensity, share))
    for name, values in points.items():
        intensities, shares = zip(*values, strict=True)
        axes.scatter(intensities, shares, label=name, s=18)
    every = [intensity for values in points.values() for intensity, _ in values] or [1.0]
    roof = sorted((min(every) / 2, max(every) * 2, 1.0))
    axes.plot(roof, [min(x, 1.0) for x in roof], "k--", label="measured roof")
    xlabel = "operations per byte, in units of (rate of products) / (rate of copies)"
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="operations per second / rate of products")


def _memory(axes: Axes, record: Record) -> None:
    lines = _by_neurons(record, lambda row: None if row.peak_bytes is None else row.peak_bytes / 2**20)
    _draw_lines(axes, lines)
    axes.set(xscale="log", yscale="log", xlabel="neurons", ylabel="peak memory, MiB, one image")


def _time(axes: Axes, record: Record) -> None:
    _draw_lines(axes, _by_neurons(record, lambda row: None if row.timing is None else row.timing.median))
    axes.set(xscale="log", yscale="log", xlabel="neurons", ylabel="seconds, one image")


def _by_neurons(record: Record, value: Callable[[Row], float | None]) -> dict[str, list[tuple[float, float]]]:
    """Returns a line per method and contender over the ReLU networks, batch 1."""
    lines: dict[str, list[tuple[float, float]]] = {}
    methods: list[Case] = cases(record.rows, "methods")
    for case in methods:
        for name, row in case.rows.items():
            measured = value(row)
            if row.activation == "ReLU" and row.parameters["batch"] == 1 and measured:
                label = f"{row.parameters['method']}, {name}"
                lines.setdefault(label, []).append((row.parameters["neurons"], measured))
    return lines


def _draw_lines(axes: Axes, lines: dict[str, list[tuple[float, float]]]) -> None:
    for name, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=3, linewidth=1, label=name)
