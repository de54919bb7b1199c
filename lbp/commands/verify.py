"""`lbp verify`."""

import math
from typing import Annotated

import typer

from lbp.commands.console import print_verdicts
from lbp.commands.images import image_results, report
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
    RoundingLevel,
    Split,
    as_json,
    chosen_device,
    data_range,
    names,
    prepare_outputs,
    write_files,
)
from lbp.distributed import workers
from lbp.errors import InvalidInputError
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
    rounding: RoundingLevel = "outward",
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
    if not norm >= 1:
        raise InvalidInputError(f"--norm must be at least 1, or inf, got {norm:g}")
    attacks = attack and math.isinf(norm) and (attack_restarts > 0 or attack_queries > 0)
    settings = CascadeSettings(
        eps=eps,
        norm=None if math.isinf(norm) else norm,
        clip=data_range(clip),
        methods=tuple(method_names(names(methods), sort=True)),
        strategy=strategy,
        rounding=rounding,
        # Attacks search l_inf balls.
        attack=AttackSettings(steps=attack_steps, restarts=attack_restarts, queries=attack_queries, seed=seed)
        if attacks
        else None,
    )  # fmt: skip
    prepare_outputs(results, resume, json, checkpoint=path)
    place = chosen_device(device)
    with workers(place) as group:
        subject = load_subject(path, data, split, data_root, limit, place)
        x, labels = subject.images, subject.data.labels
        verdicts = image_results(
            "verify", subject, settings, ImageVerdict,
            lambda todo, emit: run_cascade(
                subject.network.model, x, labels, settings, indices=todo, batch_size=batch_size,
                memory_budget=memory_budget, on_verdicts=emit,
            ),
            counted=VERDICTS, counted_as=lambda record: str(record["verdict"]), path=results, resume=resume,
            group=group,
        )  # fmt: skip
        if not group.leads:
            return
        summary = summarize(verdicts, attacked=attacks)
        try:
            if json is not None:
                content = as_json(report(subject, settings, summary, verdicts))
                write_files([(json, content)], or_print=json if results is None else None)
        finally:
            print_verdicts(subject.network.settings.architecture, settings, summary)
