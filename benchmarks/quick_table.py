"""Trains the quick MNIST settings with ReLU and ParamRamp, three seeds each, and tabulates their errors.

    python benchmarks/quick_table.py --data-root DATA

What is done is kept in `--state`, so that the command continues where it was stopped;
the table goes to `benchmarks/results/quick-mnist.md`, the record to `.json` beside it.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from train_gpu import ROOT, Clock

from lbp.checkpoint import write_atomically

SEEDS = (0, 1, 2)
RADII = ("0.1", "0.2", "0.3")
NAMES = {"relu": "ReLU", "ramp": "ParamRamp"}
COLUMNS = ("clean", "IBP", "CROWN-IBP", "CROWN-LBP", "PGD")


def main() -> None:
    """Does what is not done yet, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, help="folder with the four MNIST files")
    parser.add_argument(
        "--state", type=Path, default=ROOT / "build" / "quick", help="folder of checkpoints and records"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "quick-mnist")
    parser.add_argument("--limit", type=int, default=1000, help="test images")
    options = parser.parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    clock = Clock(float("inf"))
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for name in NAMES:
        for seed in SEEDS:
            checkpoint = options.state / f"{name}-{seed}.safetensors"
            if not checkpoint.exists():
                config = ROOT / "configs" / "quick" / f"mnist-ibp-{name}.toml"
                seeded = ("--set", f"training.seed={seed}")
                data = ("--data-root", options.data_root, "--device", "cpu")
                clock.run("train", config, *data, "--resume", "--output", checkpoint, *seeded)
            for eps in RADII:
                found.setdefault((name, eps), []).append(errors(checkpoint, eps, options, clock))
    rows = [
        {"activation": NAMES[name], "eps": eps, "errors": entries} for (name, eps), entries in sorted(found.items())
    ]
    record = {"images": options.limit, "seeds": SEEDS, "rows": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode())
    write_atomically(options.output.with_suffix(".md"), table(rows).encode())
    print(table(rows), end="")


def errors(checkpoint: Path, eps: str, options: argparse.Namespace, clock: Clock) -> dict[str, float]:
    """Errors of one network at one radius, as shares."""
    common = ("--data-root", options.data_root, "--eps", eps, "--limit", options.limit)
    evaluated, verified = (checkpoint.with_name(f"{checkpoint.stem}-{eps}.{kind}.json") for kind in ("e", "v"))
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
    """Means over the seeds and standard deviations, in percent."""
    lines = [f"| eps | activation | {' | '.join(COLUMNS)} |", f"| --- | --- |{' ---: |' * len(COLUMNS)}"]
    for row in sorted(rows, key=lambda row: (row["eps"], row["activation"] != "ReLU")):
        cells = []
        for column in COLUMNS:
            values = [100 * entry[column] for entry in row["errors"]]
            cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
        lines.append(f"| {row['eps']} | {row['activation']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
