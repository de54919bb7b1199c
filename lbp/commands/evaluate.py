"""`lbp evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

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
from lbp.evaluation import (
    METHODS,
    STRATEGIES,
    EvaluatedImage,
    EvaluationSettings,
    departures,
    departures_text,
    markdown_table,
    summary_of,
)
from lbp.evaluation import (
    evaluate as evaluate_images,
)
from lbp.experiments import PaperRow, matching_rows
from lbp.verification import AttackSettings, method_names

_KINDS = ("verified", "open", "attacked", "misclassified")


def evaluate(
    path: CheckpointPath,
    eps: Radius,
    data: DataName = None,
    data_root: DataRoot = None,
    split: Split = "test",
    methods: Annotated[str, typer.Option(help="Methods, separated by commas; CROWN on request.")] = ",".join(METHODS),
    strategies: Annotated[str, typer.Option(help="Bounding lines, separated by commas.")] = ",".join(STRATEGIES),
    rounding: RoundingLevel = "outward",
    clip: Clip = True,
    pgd_steps: Annotated[int, typer.Option(min=1, help="Gradient steps of a restart.")] = 200,
    pgd_restarts: Annotated[int, typer.Option(min=0, help="Random starts, for each of two losses.")] = 10,
    queries: Annotated[int, typer.Option(min=0, help="Of the attack without gradients.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the attacks.")] = 0,
    limit: Limit = None,
    batch_size: BatchSize = None,
    memory_budget: MemoryBudget = None,
    device: Device = None,
    results: ResultsPath = None,
    resume: Resume = False,
    json: JsonPath = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the table to this file.")] = None,
) -> None:
    """Measure a network as the paper does: clean, verified and attacked errors, beside the paper's where it has them.

    Start it by torchrun to divide the images over processes, or over machines.
    """
    settings = EvaluationSettings(
        eps=eps,
        clip=data_range(clip),
        methods=tuple(method_names(names(methods))),
        strategies=tuple(names(strategies)),
        rounding=rounding,
        attack=AttackSettings(steps=pgd_steps, restarts=pgd_restarts, queries=queries, seed=seed),
    )
    prepare_outputs(results, resume, json, markdown, checkpoint=path)
    place = chosen_device(device)
    with workers(place) as group:
        subject = load_subject(path, data, split, data_root, limit, place)
        x, labels = subject.images, subject.data.labels
        images = image_results(
            "evaluate", subject, settings, EvaluatedImage,
            lambda todo, emit: evaluate_images(
                subject.network.model, x, labels, settings, indices=todo, batch_size=batch_size,
                memory_budget=memory_budget, on_images=emit,
            ),
            counted=_KINDS, counted_as=_kind_of, path=results, resume=resume, group=group,
        )  # fmt: skip
        if not group.leads:
            return
        summary = summary_of(images, settings.attack)
        network = subject.network
        as_paper = limit is None and split == "test"
        rows = matching_rows(subject.data.name, network.settings, network.training, eps, clip) if as_paper else []
        table = markdown_table(summary["errors"], settings.methods, settings.strategies, rows)
        found = [(row, departures(row, network.training)) for row in rows]
        text = f"{network.settings.architecture}, {subject.data.name} ({len(images)} images), eps {eps:g}\n\n{table}"
        if not settings.attack.any:
            text += "\nno attack was run\n"
        text += "".join(f"\n{departures_text(row, differing)}\n" for row, differing in found)
        files = [] if markdown is None else [(markdown, text.encode())]
        if json is not None:
            stated = [_stated(row, differing) for row, differing in found]
            files.append((json, as_json(report(subject, settings, summary, images, paper=stated))))
        try:
            write_files(files, or_print=json if results is None else None)
        finally:
            Console().print(text, highlight=False, soft_wrap=True, markup=False, end="")


def _kind_of(record: dict[str, Any]) -> str:
    if record["prediction"] != record["label"]:
        return "misclassified"
    if record["attacked_by"] is not None:
        return "attacked"
    return "verified" if any(record["verified"].values()) else "open"


def _stated(row: PaperRow, differing: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {
        "table": row.table,
        "activation": row.activation_label,
        "errors": row.errors,
        "departures": {name: {"here": here, "paper": paper} for name, (here, paper) in differing.items()},
    }
