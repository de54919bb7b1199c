"""`lbp demo`: train a ReLU and a ParamRamp network with certified bounds, verify both by six methods."""

import math
from pathlib import Path
from typing import Annotated

import typer

from lbp.commands.console import TrainingProgress, VerificationProgress, print_results, progress_bars, say
from lbp.commands.options import as_json, number, prepare_folder, write_files
from lbp.data import load
from lbp.errors import InvalidInputError
from lbp.models import ActivationSettings
from lbp.plots import Panel, plot_overview
from lbp.training import DataChoice, ModelChoice, RunSettings, TrainingSettings, run
from lbp.verification import neuron_status, verify

ACTIVATIONS = {
    "ReLU": ActivationSettings(name="relu"),
    "ParamRamp": ActivationSettings(name="ramp", eta=0.01),
}


def demo(
    output: Annotated[Path, typer.Option(help="Folder for checkpoints, results and the picture.")] = Path("lbp-demo"),
    epochs: Annotated[int, typer.Option(min=4, help="Length of each training.")] = 60,
    eps: Annotated[
        float, typer.Option(parser=number, metavar="NUMBER", help="Radius to verify; training goes to 1.2 times that.")
    ] = 0.1,
    limit: Annotated[int | None, typer.Option(min=1, help="Verify only the first so many test images.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and batches.")] = 0,
) -> None:
    """Train and verify a ReLU and a ParamRamp network on real digits: the whole method in one command."""
    if not 0 <= eps < math.inf:
        raise InvalidInputError(f"--eps must be finite and not negative, got {eps:g}")
    prepare_folder(output)
    test = load("digits", "test").first(limit)
    panels, results = [], []
    with progress_bars() as progress:
        for name, activation in ACTIVATIONS.items():
            trained = run(
                run_settings(activation, epochs, eps, seed), on_step=TrainingProgress(progress, f"train {name}")
            )
            trained.save(output / f"{name.lower()}.safetensors")
            result = verify(
                trained.model, test.images, test.labels, eps, clip=(0.0, 1.0), strategy="tight",
                progress=VerificationProgress(progress, name),
            )  # fmt: skip
            results.append((name, result))
            panels.append(Panel(name, neuron_status(trained.model, test.images, eps, clip=(0.0, 1.0)), result))
    found = {name: {"summary": result.summary(), "images": result.records()} for name, result in results}
    picture = plot_overview(panels, f"DM-Small on {len(test)} test images of digits, trained with IBP bounds")
    report = output / "results.json"
    try:
        write_files([(report, as_json(found)), (output / "overview.png", picture)], or_print=report)
    finally:
        print_results(results)
    say(f"checkpoints, results.json and overview.png are in {output}")


def run_settings(activation: ActivationSettings, epochs: int, eps: float, seed: int) -> RunSettings:
    """Settings of one training: clean warm-up for a tenth of the epochs, radius growing for half of them."""
    has_slope = activation.name != "relu"
    training = TrainingSettings(
        eps=1.2 * eps, epochs=epochs, batch_size=64, lr=8e-3, lr_milestones=(epochs * 3 // 4, epochs * 9 // 10),
        warm_up_epochs=epochs // 10, ramp_epochs=epochs // 2, kappa_end=0.5,
        eta_start=0.01 if has_slope else None, eta_end=0.0 if has_slope else None,
        eta_keep_epochs=epochs // 3, eta_fall_epochs=epochs // 3,
        selection="last", seed=seed,
    )  # fmt: skip
    return RunSettings(
        data=DataChoice(name="digits"),
        model=ModelChoice(architecture="DM-Small", activation=activation),
        training=training,
    )
