"""Bounds rounded outward against bounds rounded to nearest: soundness, time and tightness.

    python benchmarks/rounding.py [NETWORK ...] [--rounds N] [--threads N] [--json FILE]
    python benchmarks/rounding.py --checkpoint FILE ... --data-root DATA [--limit N] [--eps E ...]

Without a checkpoint: DM-Small, DM-Medium and DM-Large with He-initialised weights and random images 1x28x28, every
method. Bounds of all layers are compared with those that the same method gives in float64; a float32 bound inside of a
float64 one is wrong. Tight lines and the textbook's CROWN, so that both do the same. Times: the two in turn, `--rounds`
times; ratios of medians, of the processors' time, which a busy machine changes less, and of the wall clock's.

With checkpoints of networks trained on MNIST: margins and verified errors of the methods at both levels, and of
`lbp.verify`, which decides close calls in float64.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lbp
import lbp.models
from lbp.bench.record import tree_commit
from lbp.checkpoint import load as load_checkpoint
from lbp.data import Dataset
from lbp.data import load as load_data
from lbp.info import collect

IMAGES = {"IBP": 16, "CROWN-IBP": 16, "LBP": 2, "CROWN-LBP": 2, "CROWN": 1}
NETWORKS = ("DM-Small", "DM-Medium", "DM-Large")
LEVELS = ("nearest", "outward")
SHAPE = (1, 28, 28)
EPS = 0.1
CLOCKS = {"processor": time.process_time, "wall-clock": time.perf_counter}
OPTIONS = {"activation_bound_option": "tight", "sparse_intermediate_bounds": False}

Bounds = dict[str, tuple[Tensor, Tensor]]


def main() -> None:
    """Measures what the command line asks for and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--methods", default=",".join(IMAGES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--checkpoint", type=Path, nargs="+")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--eps", type=float, nargs="+", default=[0.1, 0.2, 0.3])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lbp.keep_freed_memory()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    methods = options.methods.split(",")
    record: dict[str, Any] = {"environment": collect(), "commit": tree_commit(), "threads": torch.get_num_threads()}
    if options.checkpoint is None:
        rows = []
        for name in options.networks or NETWORKS:
            for method in methods:
                rows.append(row := of_method(name, method, options.rounds))
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        record["networks"] = rows
    else:
        record["checkpoints"] = [row for file in options.checkpoint for row in on_mnist(file, options, methods)]
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=2) + "\n")


def of_method(name: str, method: str, rounds: int) -> dict[str, Any]:
    """One network and method: wrong bounds among all, cost, and what rounding outward loses of the margins."""
    torch.manual_seed(0)
    model = lbp.models.build(name, SHAPE, 10, "relu").eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    x = torch.rand(IMAGES[method], *SHAPE)
    double = copy.deepcopy(model).double()
    truth = all_bounds(lbp.BoundedModule(double, x.double(), bound_opts=OPTIONS), x.double(), method, "nearest")
    net = lbp.BoundedModule(model, x, bound_opts=OPTIONS)
    found = {level: all_bounds(net, x, method, level) for level in LEVELS}
    row: dict[str, Any] = {"network": name, "method": method, "images": len(x)}
    for level in LEVELS:
        wrong, count = inside(found[level], truth)
        row[f"wrong {level}"] = f"{wrong}/{count}"
    seconds: dict[str, dict[str, list[float]]] = {kind: {level: [] for level in LEVELS} for kind in CLOCKS}
    for number in range(rounds):
        # Which comes first matters: what the allocator holds is what the call before it left.
        for level in LEVELS[:: 1 if number % 2 == 0 else -1]:
            started = {kind: clock() for kind, clock in CLOCKS.items()}
            all_bounds(net, x, method, level)
            for kind, clock in CLOCKS.items():
                seconds[kind][level].append(clock() - started[kind])
    for kind, of_level in seconds.items():
        nearest, outward = (statistics.median(of_level[level]) for level in LEVELS)
        row[f"{kind} seconds"] = round(nearest, 4)
        row[f"{kind} overhead"] = f"{outward / nearest - 1:+.1%}"
    last = list(truth)[-1]
    (low, high), (outward_low, outward_high) = (found[level][last] for level in LEVELS)
    lost = torch.maximum(low - outward_low, outward_high - high)
    row["lost, relative to the width"] = f"{(lost / (high - low)).max():.1e}"
    return row


def all_bounds(net: lbp.BoundedModule, x: Tensor, method: str, level: str) -> Bounds:
    """Bounds of the hidden layers that the method uses, and of the outputs."""
    region = lbp.BoundedTensor(x, lbp.PerturbationLpNorm(eps=EPS, clip=(0.0, 1.0)))
    with torch.no_grad():
        lower, upper = net.compute_bounds(x=(region,), method=method, rounding=level)
    found = {node.name: (node.lower, node.upper) for node in net.get_layers_requiring_bounds()}
    return found | {net.final_name: (lower, upper)}


def inside(found: Bounds, truth: Bounds) -> tuple[int, int]:
    """How many float32 bounds lie inside of the float64 ones, and how many there are."""
    wrong = count = 0
    for name, (low, high) in truth.items():
        lower, upper = (side.double() for side in found[name])
        wrong += int((lower > low).sum() + (upper < high).sum())
        count += 2 * lower.numel()
    return wrong, count


def on_mnist(checkpoint: Path, options: argparse.Namespace, methods: list[str]) -> list[dict[str, Any]]:
    """Margins and verified errors on test images of MNIST at both levels."""
    model = load_checkpoint(checkpoint).model
    data = load_data("mnist", "test", options.data_root).first(options.limit)
    net = lbp.BoundedModule(model, data.images[:1], bound_opts=OPTIONS)
    with torch.no_grad():
        right = model(data.images).argmax(1) == data.labels
    rows = []
    for eps in options.eps:
        for method in methods:
            found = {level: margins(net, data, eps, method, level) for level in LEVELS}
            verified = {level: (lower > 0).all(1) & right for level, lower in found.items()}
            answer = lbp.verify(model, data.images, data.labels, eps, clip=(0.0, 1.0), methods=method, batch_size=100)
            verified["verify"] = answer.methods[method].verified
            errors = {level: 100 * (1 - images.double().mean()) for level, images in verified.items()}
            change = (found["nearest"] - found["outward"]).abs()
            rows.append(row := {"checkpoint": checkpoint.stem, "images": len(data), "eps": eps, "method": method})
            row |= {f"verified error {level}": round(error.item(), 4) for level, error in errors.items()}
            for level in ("outward", "verify"):
                row |= {f"images that change, {level}": int((verified["nearest"] ^ verified[level]).sum())}
            row |= {"mean size of a margin": found["nearest"].abs().mean().item()}
            row |= {"mean change": change.mean().item(), "largest change": change.max().item()}
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return rows


def margins(net: lbp.BoundedModule, data: Dataset, eps: float, method: str, level: str) -> Tensor:
    """Lower bounds of the margins [N, 9]."""
    found = []
    for images, labels in zip(data.images.split(100), data.labels.split(100), strict=True):
        region = lbp.BoundedTensor(images, lbp.PerturbationLpNorm(eps=eps, clip=(0.0, 1.0)))
        C = lbp.margins(labels, data.num_classes)
        with torch.no_grad():
            found.append(net.compute_bounds(x=(region,), C=C, method=method, bound_upper=False, rounding=level)[0])
    return torch.cat(found)


if __name__ == "__main__":
    main()
