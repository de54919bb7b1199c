"""`lbp verify`."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import typer

from lbp.commands.console import ImageProgress, print_verdicts, progress_bars
from lbp.commands.network import load_subject
from lbp.commands.options import (
    BatchSize,
    CheckpointPath,
    Clip,
    DataName,
    DataRoot,
    Device,
    JsonPath,
    Limit,
    MemoryBudget,
    Radius,
    ResultsPath,
    Resume,
    Split,
    chosen_device,
    data_range,
    names,
    prepare_outputs,
    write_json,
)
from lbp.distributed import workers
from lbp.results import run_images
from lbp.verification import (
    CASCADE,
    VERDICTS,
    AttackSettings,
    CascadeSettings,
    ImageVerdict,
    method_names,
    run_cascade,
    summarize,
)


def verify(
    path: CheckpointPath,
    eps: Radius,
    data: DataName = None,
    data_root: DataRoot = None,
    split: Split = "test",
    methods: Annotated[str, typer.Option(help="Methods, separated by commas; the cheapest runs first.")] = ",".join(
        CASCADE
    ),
    strategy: Annotated[str, typer.Option(help="Bounding lines: tight, adaptive, constant, ...")] = "tight",
    norm: Annotated[float, typer.Option(help="p of the l_p ball: 1, 2, ..., inf.")] = math.inf,
    clip: Clip = True,
    attack: Annotated[
        bool,
        typer.Option(
            "--attack/--no-attack", help="Try to falsify what is open before the costly methods (l_inf only)."
        ),
    ] = True,
    attack_steps: Annotated[int, typer.Option(min=1, help="Gradient steps of a restart.")] = 40,
    attack_restarts: Annotated[int, typer.Option(min=0, help="Random starts, for each of two losses.")] = 2,
    attack_queries: Annotated[int, typer.Option(min=0, help="Of the attack without gradients.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the attacks.")] = 0,
    limit: Limit = None,
    batch_size: BatchSize = None,
    memory_budget: MemoryBudget = None,
    device: Device = None,
    results: ResultsPath = None,
    resume: Resume = False,
    json: JsonPath = None,
) -> None:
    """Verify a network on labelled images: cheap methods first, costly ones for what is still open.

    Start it by torchrun to divide the images over processes, or over machines.
    """
    settings = CascadeSettings(
        eps=eps,
        norm=None if math.isinf(norm) else norm,
        clip=data_range(clip),
        methods=tuple(method_names(names(methods), sort=True)),
        strategy=strategy,
        # Attacks search l_inf balls.
        attack=AttackSettings(steps=attack_steps, restarts=attack_restarts, queries=attack_queries, seed=seed)
        if attack and math.isinf(norm)
        else None,
    )  # fmt: skip
    prepare_outputs(json, results, resume)
    place = chosen_device(device)
    with workers(place) as group:
        subject = load_subject(path, data, split, data_root, limit, place)
        images, labels = subject.images, subject.data.labels
        identity = subject.identity() | {"verify": settings.model_dump(mode="json")}

        def work(todo: list[int], emit: Callable[[list[dict[str, Any]]], None]) -> None:
            run_cascade(
                subject.network.model, images, labels, settings, indices=todo, batch_size=batch_size,
                memory_budget=memory_budget,
                on_verdicts=lambda verdicts: emit([verdict.model_dump(mode="json") for verdict in verdicts]),
            )  # fmt: skip

        with progress_bars(visible=group.leads) as bars:
            records = run_images(
                work, len(labels), settings=identity, kind=ImageVerdict, path=results, resume=resume, group=group,
                progress=ImageProgress(bars, "verify", VERDICTS, lambda record: str(record["verdict"])),
            )  # fmt: skip
        if not group.leads:
            return
        summary = summarize([ImageVerdict.model_validate(record) for record in records])
        print_verdicts(subject.network.settings.architecture, settings, summary)
        if json is not None:
            description = subject.describe() | {"settings": identity["verify"]}
            write_json(json, description | {"summary": summary, "images": records})
