r"""Trains the quick MNIST settings with ReLU and ParamRamp, three seeds each, and tabulates their errors.

    python benchmarks/quick_table.py --data-root DATA

What is done is kept in `--state`, so that the command continues where it was stopped;
the table goes to `benchmarks/results/quick-mnist.md`, the record to `.json` beside it. A small run shows that it works:

    python benchmarks/quick_table.py --data-root DATA --state build/tiny --output build/tiny-table --limit 5 \
        --seeds 0,1 --set data.limit=300 --set training.epochs=2 --set training.warm_up_epochs=1 \
        --set training.ramp_epochs=1 --set training.eta_keep_epochs=1 --set training.eta_fall_epochs=0
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train_gpu import ROOT, Clock, changed

from lbp.files import write_atomically

RADII = ("0.1", "0.2", "0.3")
NAMES = {"relu": "ReLU", "ramp": "ParamRamp"}
COLUMNS = ("clean", "IBP", "CROWN-IBP", "CROWN-LBP", "PGD")


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what is not done yet, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, help="folder with the four MNIST files")
    parser.add_argument(
        "--state", type=Path, default=ROOT / "build" / "quick", help="folder of checkpoints and records"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "quick-mnist")
    parser.add_argument("--limit", type=int, default=1000, help="test images")
    parser.add_argument("--seeds", default="0,1,2", help="of the trainings, separated by commas")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as for lbp train")
    options = parser.parse_args(arguments)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    options.state.mkdir(parents=True, exist_ok=True)
    clock = Clock(float("inf"))
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for name in NAMES:
        for seed in seeds:
            checkpoint = options.state / f"{name}-{seed}.safetensors"
            if not checkpoint.exists():
                config = ROOT / "configs" / "quick" / f"mnist-ibp-{name}.toml"
                data = ("--data-root", options.data_root, "--device", "cpu")
                changes = changed([*options.set, f"training.seed={seed}"])
                clock.run("train", config, *data, "--resume", "--output", checkpoint, *changes)
            for eps in RADII:
                found.setdefault((name, eps), []).append(errors(checkpoint, eps, options, clock))
    rows = [
        {"activation": NAMES[name], "eps": eps, "errors": entries} for (name, eps), entries in sorted(found.items())
    ]
    record = {"images": options.limit, "seeds": seeds, "changes": options.set, "rows": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode())
    write_atomically(options.output.with_suffix(".md"), table(rows).encode())
    print(table(rows), end="")


def errors(checkpoint: Path, eps: str, options: argparse.Namespace, clock: Clock) -> dict[str, float]:
    """Errors of one network at one radius, as shares."""
    common = ("--data-root", options.data_root, "--eps", eps, "--limit", options.limit)
    evaluated, verified = (
        checkpoint.with_name(f"{checkpoint.stem}-{eps}-{options.limit}.{kind}.json") for kind in ("e", "v")
    )
    if not evaluated.exists():
        clock.run(
            "evaluate", checkpoint, *common, "--methods", "IBP,CROWN-IBP", "--strategies", "tight", "--pgd-steps", 20,
            "--pgd-restarts", 2, "--queries", 0, "--json", evaluated,
        )  # fmt: skip
    # CROWN-LBP is the tightest of the three with tight lines: what cheaper methods verify, it would.
    if not verified.exists():
        clock.run(
            "verify", checkpoint, *common, "--methods", "IBP,CROWN-IBP,CROWN-LBP", "--attack-steps", 20,
            "--attack-restarts", 1, "--attack-queries", 0, "--json", verified,
        )  # fmt: skip
    measured = json.loads(evaluated.read_text())["summary"]["errors"]
    return {
        "clean": measured["clean"],
        "IBP": measured["IBP tight"],
        "CROWN-IBP": measured["CROWN-IBP tight"],
        "CROWN-LBP": json.loads(verified.read_text())["summary"]["verified_error"],
        "PGD": measured["PGD"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds and, of several, standard deviations, in percent."""
    lines = [f"| eps | activation | {' | '.join(COLUMNS)} |", f"| --- | --- |{' ---: |' * len(COLUMNS)}"]
    for row in sorted(rows, key=lambda row: (row["eps"], row["activation"] != "ReLU")):
        cells = []
        for column in COLUMNS:
            values = [100 * entry[column] for entry in row["errors"]]
            deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{deviation}")
        lines.append(f"| {row['eps']} | {row['activation']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
