"""`lbp plot`: pictures of any checkpoint."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from lbp import checkpoint
from lbp.checkpoint import CheckpointError
from lbp.commands.console import progress_bars, say
from lbp.commands.network import Subject, load_subject
from lbp.commands.options import (
    CheckpointPath,
    Clip,
    DataName,
    DataRoot,
    Device,
    Radius,
    Split,
    chosen_device,
    data_range,
    names,
    number,
    prepare_files,
    strategy_names,
)
from lbp.errors import InvalidInputError, OutputError
from lbp.evaluation.slope_sweep import slope_sweep
from lbp.evaluation.tightness import tightness
from lbp.files import write_atomically
from lbp.plots import plot_neuron_status, plot_slope_sweep, plot_tightness, plot_training
from lbp.training import read_history
from lbp.verification import CASCADE, method_names, neuron_status

plot = typer.Typer(
    help="Draw what the paper draws, from any checkpoint.", no_args_is_help=True, pretty_exceptions_enable=False
)

_ALL_METHODS = ",".join(CASCADE)

Output = Annotated[Path | None, typer.Option("--output", help="PNG file; by default beside the checkpoint.")]
Images = Annotated[int, typer.Option("--limit", min=1, help="Only the first so many images.")]
Methods = Annotated[str, typer.Option("--methods", help="Methods, separated by commas.")]
Strategies = Annotated[str, typer.Option("--strategies", help="Bounding lines, separated by commas.")]
CheckpointPaths = Annotated[
    list[Path], typer.Argument(metavar="CHECKPOINT", help="One or more networks, in one picture.")
]


@plot.command("tightness")
def plot_tightness_command(
    path: CheckpointPath,
    radii: Annotated[str, typer.Option(help="Radii, separated by commas.")] = "1/255,2/255,4/255,8/255,16/255,32/255",
    methods: Methods = _ALL_METHODS,
    strategies: Strategies = "tight,adaptive",
    data: DataName = None,
    data_root: DataRoot = None,
    split: Split = "test",
    clip: Clip = True,
    limit: Images = 20,
    device: Device = None,
    output: Output = None,
) -> None:
    """Width of the bounds against the radius, every method, every kind of lines (figure 3)."""
    taken, kinds = method_names(names(methods)), strategy_names("--strategies", strategies)
    values = _numbers("--radii", radii)
    target = _target(output, [path], "tightness")
    subject = load_subject(path, data, split, data_root, limit, chosen_device(device))
    with _progress("tightness") as progress:
        curves = tightness(
            subject.network.model, subject.images.to(subject.device), values,
            clip=data_range(clip), methods=taken, strategies=kinds, progress=progress,
        )  # fmt: skip
    _write(target, plot_tightness(curves, f"{_title(subject)}, {len(subject.data)} images"))


@plot.command("neuron-status")
def plot_neuron_status_command(
    paths: CheckpointPaths,
    eps: Radius,
    method: Annotated[str, typer.Option(help="Whose bounds of the pre-activations decide.")] = "IBP",
    data: DataName = None,
    data_root: DataRoot = None,
    split: Split = "test",
    clip: Clip = True,
    limit: Images = 1000,
    device: Device = None,
    output: Output = None,
) -> None:
    """Status of the neurons of every layer (figures 4 and 6)."""
    (name,) = method_names(method)
    target, labels = _target(output, paths, "neuron-status"), _labels(paths)
    networks = []
    for label, path in zip(labels, paths, strict=True):
        subject = load_subject(path, data, split, data_root, limit, chosen_device(device))
        status = neuron_status(
            subject.network.model,
            subject.images.to(subject.device),
            eps,
            clip=data_range(clip),
            method=name,
        )
        networks.append((f"{label}: {_title(subject)}", status))
    _write(target, plot_neuron_status(networks, f"neuron status, eps {eps:g}, bounds by {name}"))


@plot.command("slope-sweep")
def plot_slope_sweep_command(
    path: CheckpointPath,
    eps: Radius,
    slopes: Annotated[str, typer.Option(help="Left slopes, separated by commas.")] = "0,0.01,0.02,0.05,0.1,0.2,0.3,0.5",
    methods: Methods = "IBP,CROWN-IBP,LBP,CROWN-LBP",
    strategies: Strategies = "tight,adaptive",
    data: DataName = None,
    data_root: DataRoot = None,
    split: Split = "test",
    clip: Clip = True,
    limit: Images = 100,
    device: Device = None,
    output: Output = None,
) -> None:
    """Margin bounds of a network as its ReLUs become LeakyReLUs, or its ParamRamps steeper outside (appendix)."""
    taken, kinds = method_names(names(methods)), strategy_names("--strategies", strategies)
    values = _numbers("--slopes", slopes)
    target = _target(output, [path], "slope-sweep")
    subject = load_subject(path, data, split, data_root, limit, chosen_device(device))
    with _progress("slope sweep") as progress:
        curves = slope_sweep(
            subject.network.model, subject.images.to(subject.device), subject.data.labels, eps, values,
            clip=data_range(clip), methods=taken, strategies=kinds, progress=progress,
        )  # fmt: skip
    _write(target, plot_slope_sweep(curves, f"{_title(subject)}, {len(subject.data)} images, eps {eps:g}"))


@plot.command("training")
def plot_training_command(paths: CheckpointPaths, output: Output = None) -> None:
    """Loss, errors and radius of one or more trainings, from the history in their checkpoints."""
    target, labels = _target(output, paths, "training"), _labels(paths)
    runs = {label: _history(path) for label, path in zip(labels, paths, strict=True)}
    _write(target, plot_training(runs, "training"))


def _history(path: Path) -> list[dict[str, Any]]:
    history = checkpoint.load(path).training.get("history")
    if not history:
        raise CheckpointError(f"{path}: holds no history of its training; only what `lbp train` writes has one")
    try:
        return [asdict(record) for record in read_history(history)]
    except ValueError as error:
        raise CheckpointError(f"{path}: holds no history of its training that can be drawn ({error})") from error


@contextmanager
def _progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar; what the block gets takes the number of verifications done and in all."""
    with progress_bars() as bars:
        task = bars.add_task(description, total=None, details="")
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _title(subject: Subject) -> str:
    settings = subject.network.settings
    return f"{settings.architecture}, {settings.activation.name}, {subject.data.name}"


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [number(part) for part in names(text)]
    except typer.BadParameter as error:
        raise InvalidInputError(f"{option}: {error.message}") from error


def _target(output: Path | None, paths: Sequence[Path], kind: str) -> Path:
    target = output or paths[0].with_name(f"{_bare(paths[0])}-{kind}.png")
    prepare_files(target, inputs=paths)
    if target.suffix.lower() not in ("", ".png"):
        raise OutputError(f"pictures are PNG files; name one that ends in .png, not {target}")
    return target


def _bare(path: Path) -> str:
    """File name without .safetensors; any other ending tells checkpoints apart, such as run.lr0.1 and run.lr0.2."""
    return path.stem if path.suffix == ".safetensors" else path.name


def _labels(paths: Sequence[Path]) -> list[str]:
    """Names of checkpoints: of every path no more of its end than it takes to tell it from the others.

    Raises:
        InvalidInputError: a checkpoint is there twice.
    """
    whole = [path.parent.resolve() / path.name for path in paths]
    if twice := next((path for path, full in zip(paths, whole, strict=True) if whole.count(full) > 1), None):
        raise InvalidInputError(f"{twice} is named twice; name every checkpoint once")
    bare = [path.with_name(_bare(path)) for path in whole]
    parts = [path.parts for path in (bare if len(set(bare)) == len(bare) else whole)]
    return [
        next(
            str(Path(*own[-length:]))
            for length in range(1, len(own) + 1)
            if sum(other[-length:] == own[-length:] for other in parts) == 1
        )
        for own in parts
    ]


def _write(target: Path, picture: bytes) -> None:
    write_atomically(target, picture)
    say(f"wrote {target}")
