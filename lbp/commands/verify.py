"""`lbp verify`."""

import math
from pathlib import Path
from typing import Annotated

import typer

from lbp import checkpoint
from lbp.commands.console import VerificationProgress, print_results, progress_bars
from lbp.commands.options import DataName, DataRoot, number, prepare_file, write_json
from lbp.data import DataError, Dataset, load
from lbp.models import ModelSettings
from lbp.verification import METHODS, method_names
from lbp.verification import verify as verify_examples


def verify(
    path: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Network written by `lbp train` or `lbp demo`.")],
    eps: Annotated[float, typer.Option(parser=number, metavar="NUMBER", help="Radius, for example 0.1 or 8/255.")],
    data: DataName = None,
    data_root: DataRoot = None,
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    methods: Annotated[str, typer.Option(help="Methods, separated by commas.")] = ",".join(METHODS),
    strategy: Annotated[str, typer.Option(help="Bounding lines: tight, adaptive, constant, ...")] = "tight",
    norm: Annotated[float, typer.Option(help="p of the l_p ball: 1, 2, ..., inf.")] = math.inf,
    clip: Annotated[bool, typer.Option(help="Intersect the balls with the data range [0, 1].")] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    cascade: Annotated[bool, typer.Option(help="Cheapest method first, the next only for what is left.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at a time.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Verify a network on labelled images by one or more methods."""
    names = method_names(methods.split(","))
    if json is not None:
        prepare_file(json)
    network = checkpoint.load(path)
    dataset = load(data or trained_on(network), split, data_root).first(limit)
    check_fit(network.settings, dataset, path)
    weights = next(network.model.parameters())
    with progress_bars() as progress:
        result = verify_examples(
            network.model, dataset.images.to(weights.dtype), dataset.labels, eps,
            norm=norm, clip=(0.0, 1.0) if clip else None, methods=names, strategy=strategy, cascade=cascade,
            batch_size=batch_size, num_classes=dataset.num_classes, progress=VerificationProgress(progress, "verify"),
        )  # fmt: skip
    print_results([(network.settings.architecture, result)])
    if json is not None:
        write_json(
            json,
            {
                "checkpoint": str(path),
                "model": network.settings.model_dump(mode="json"),
                "data": {"name": dataset.name, "split": split},
                "summary": result.summary(),
                "images": result.records(),
            },
        )


def trained_on(network: checkpoint.Checkpoint) -> str:
    """Name of the data set that a checkpoint's training settings state.

    Raises:
        DataError: they state none.
    """
    data = network.training.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    if not isinstance(name, str):
        raise DataError("the checkpoint does not say what it was trained on; name the data set by --data")
    return name


def check_fit(settings: ModelSettings, data: Dataset, path: Path) -> None:
    """Refuses data that the network was not made for.

    Raises:
        DataError: another image shape or number of classes.
    """
    if settings.input_shape != data.image_shape or settings.num_classes != data.num_classes:
        raise DataError(
            f"{path} takes images of shape {settings.input_shape} and {settings.num_classes} classes; "
            f"{data.name} has {data.image_shape} and {data.num_classes}"
        )
