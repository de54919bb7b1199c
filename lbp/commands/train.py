"""`lbp train`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lbp.commands.console import TrainingProgress, progress_bars
from lbp.commands.options import DataRoot, prepare_file
from lbp.training import read_settings, run


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Settings: tables data, model and training.")],
    data_root: DataRoot = None,
    output: Annotated[Path | None, typer.Option(help="Checkpoint; by default CONFIG.safetensors.")] = None,
) -> None:
    """Train a network with certified bounds and write a checkpoint."""
    settings = read_settings(config)
    target = output or config.with_suffix(".safetensors")
    prepare_file(target)
    with progress_bars() as progress:
        trained = run(settings, data_root, TrainingProgress(progress, settings.model.architecture))
    trained.save(target)
    last = trained.history[-1]
    verified = "" if last.verified_error is None else f", verified error {100 * last.verified_error:.2f}% by IBP"
    Console().print(
        f"last epoch, on the training set at eps {last.eps:g}: clean error {100 * last.clean_error:.2f}%{verified}"
    )
    Console().print(f"wrote {target}")
