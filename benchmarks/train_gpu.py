r"""Trains DM-Large on MNIST with ReLU and ParamRamp, by IBP and CROWN-IBP, and evaluates it beside the paper's table 4.

    python benchmarks/train_gpu.py --data-root DATA

Needs the four MNIST files and this repository, no network. Work stops when `--seconds` are over; the same command
continues where it stopped, from a state that is complete after every epoch and every few images, and writes
`benchmarks/results/train-gpu-SCHEDULE.json` and `.md` with what there is so far. `--schedule short` follows Shi et al.
2021 (70 epochs), `paper` Lyu et al. 2021 (200 epochs).

A small run on a CPU shows that it works:

    python benchmarks/train_gpu.py --data-root DATA --device cpu --output build/tiny --state build/tiny-state \
        --set data.limit=300 --set training.epochs=3 --set training.warm_up_epochs=1 --set training.ramp_epochs=1 \
        --set training.eta_keep_epochs=1 --set training.eta_fall_epochs=1 --set model.architecture=DM-Small --limit 10 \
        --pgd-steps 5
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import lbp
import lbp.checkpoint
from lbp.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
RADII = ("0.2", "0.3", "0.4")
METHODS = ("IBP", "CROWN-IBP", "CROWN-LBP")
CONFIGS = {
    "short": "short/mnist-dm-large-{loss}-{name}.toml",
    "paper": "paper/table-4/dm-large-{loss}-{row}.toml",
}
ROWS = {"ramp": "ramp-0.01-to-0", "relu": "relu-0"}
TITLES = {"ramp": "Ramp(0.01→0)", "relu": "ReLU(0)"}


@dataclass(frozen=True)
class Job:
    """One network: its settings file, and where its checkpoint and evaluations go."""

    loss: str
    name: str
    config: Path
    checkpoint: Path

    def evaluation(self, eps: str) -> Path:
        """The record of an evaluation."""
        return self.checkpoint.with_name(f"{self.checkpoint.stem}-eps-{eps}.json")


class TimeIsUpError(Exception):
    """No time is left; what is done is kept."""


class Clock:
    """Runs commands until the time is up."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def run(self, *arguments: object) -> None:
        """Runs `lbp` with arguments; it is killed when the time is up, which loses no finished epoch or image."""
        command = [sys.executable, "-m", "lbp", *map(str, arguments)]
        print("$", " ".join(command[1:]), flush=True)
        searched = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": searched}
        left = self._end - time.monotonic()
        try:
            subprocess.run(command, env=environment, check=True, timeout=max(left, 0.001))
        except subprocess.TimeoutExpired:
            raise TimeIsUpError from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Does as much as fits in the time, and writes what there is."""
    options = parse(arguments)
    options.state.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(
            loss,
            name,
            ROOT / "configs" / CONFIGS[options.schedule].format(loss=loss, name=name, row=ROWS[name]),
            options.state / f"{options.schedule}-{loss}-{name}.safetensors",
        )
        for loss in options.losses.split(",")
        for name in ("ramp", "relu")
    ]
    clock, finished = Clock(options.seconds), False
    try:
        for job in jobs:
            work(job, options, clock)
        finished = True
    except TimeIsUpError:
        print("time is up: the same command goes on from here")
    write(jobs, options, finished)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, help="folder with the four MNIST files")
    parser.add_argument("--schedule", choices=tuple(CONFIGS), default="short")
    parser.add_argument("--losses", default="ibp,crown-ibp", help="training losses, separated by commas")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=560.0, help="stop after so long")
    parser.add_argument("--state", type=Path, default=ROOT / "build" / "train-gpu", help="folder of unfinished work")
    parser.add_argument("--output", type=Path, help="results, without suffix")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as for lbp train")
    parser.add_argument("--limit", type=int, help="evaluate only the first so many images")
    parser.add_argument("--pgd-steps", type=int, default=200)
    options = parser.parse_args(arguments)
    options.output = options.output or ROOT / "benchmarks" / "results" / f"train-gpu-{options.schedule}"
    return options


def changed(settings: Sequence[str]) -> list[str]:
    """Arguments of `lbp train` that change settings."""
    return [part for setting in settings for part in ("--set", setting)]


def work(job: Job, options: argparse.Namespace, clock: Clock) -> None:
    """Trains and evaluates one network, as far as that is not done."""
    common = ("--data-root", options.data_root, "--device", options.device)
    if not job.checkpoint.exists():
        clock.run("train", job.config, *common, "--resume", "--output", job.checkpoint, *changed(options.set))
    for eps in RADII:
        record = job.evaluation(eps)
        if record.exists():
            continue
        limit = () if options.limit is None else ("--limit", options.limit)
        clock.run(
            "evaluate", job.checkpoint, *common, "--eps", eps, "--methods", ",".join(METHODS), "--strategies", "tight",
            "--pgd-steps", options.pgd_steps, *limit, "--results", record.with_suffix(".jsonl"), "--resume",
            "--json", record,
        )  # fmt: skip


def write(jobs: list[Job], options: argparse.Namespace, finished: bool) -> None:
    """Writes the record and the table of everything that has been evaluated."""
    rows = [row(job, eps) for job in jobs for eps in RADII if job.evaluation(eps).exists()]
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.processor() or "CPU"
    record = {
        "schedule": options.schedule,
        "finished": finished,
        "device": device,
        "lbp": lbp.__version__,
        "torch": torch.__version__,
        "changes": options.set,
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode())
    write_atomically(options.output.with_suffix(".md"), table(rows).encode())
    print(table(rows), end="")


def row(job: Job, eps: str) -> dict[str, Any]:
    """One network at one radius: our errors, and the paper's."""
    found = json.loads(job.evaluation(eps).read_text())
    training = lbp.checkpoint.load(job.checkpoint).training
    return {
        "loss": job.loss,
        "activation": TITLES[job.name],
        "eps": eps,
        "images": found["summary"]["examples"],
        "trained": {name: training[name] for name in ("data", "training")},
        "training_seconds": sum(epoch["seconds"] for epoch in training["history"]),
        "selection": training["selection"],
        "ours": found["summary"]["errors"],
        "paper": [stated for stated in found["paper"] if stated["table"] == "4"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in markdown, ours / the paper's in percent."""
    columns = ("clean", "IBP", "CROWN-IBP", "CROWN-LBP", "PGD")
    lines = [
        f"| training | activation | eps | {' | '.join(columns)} |",
        f"| --- | --- | --- |{' ---: |' * len(columns)}",
    ]
    for entry in rows:
        stated = entry["paper"][0]["errors"] if entry["paper"] else {}
        cells = [f"{percent(share_of(entry['ours'], name))} / {percent(share_of(stated, name))}" for name in columns]
        lines.append(f"| {entry['loss']} | {entry['activation']} | {entry['eps']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def share_of(errors: dict[str, float], column: str) -> float | None:
    """The error of a column: clean, by a method with tight lines, or under PGD; None where it was not measured."""
    return errors.get(f"{column} tight" if column in METHODS else column)


def percent(share: float | None) -> str:
    """A share as a percentage; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.2f}"


if __name__ == "__main__":
    main()
