"""Time LBP and CROWN-LBP on large networks, one image, with rows on windows of the input or dense.

    python benchmarks/forward_bounds.py [--threads N] [--repeats N] [--dense] [--json FILE]

Every line runs in a process of its own, so that its peak of resident memory is its own; it includes the interpreter,
PyTorch and the weights; beside it stands the memory of the matrices as counted from shapes. Times are the smallest of
the repeats. Multiply-adds are counted from shapes too: those of the two products, center and radius, of every layer.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lbp import BoundedModule, BoundedTensor, PerturbationLpNorm
from lbp.graph.conv import Conv2dNode
from lbp.graph.linear import LinearNode
from lbp.info import collect
from lbp.linear import InputWindows
from lbp.methods.memory import forward_bytes
from lbp.models import build
from lbp.ops.forward_windows import axis_taps

CASES = (
    # architecture, input shape, classes, eps
    ("DM-Large", (3, 32, 32), 10, 8 / 255),
    ("CNN-7+BN", (3, 56, 56), 200, 1 / 255),
)
ACTIVATIONS = {"ReLU": {"activation": "relu"}, "ParamRamp": {"activation": "ramp", "r": 1.0, "eta": 0.01}}
METHODS = ("LBP", "CROWN-LBP")


def network(architecture: str, shape: tuple[int, int, int], classes: int, activation: str) -> nn.Module:
    """Return the network with He-initialised weights, the same in every run."""
    torch.manual_seed(0)
    model = build(architecture, shape, classes, **ACTIVATIONS[activation]).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def multiply_adds(bounded: BoundedModule, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return the multiply-adds of the forward products of a chain of layers, on windows and dense."""
    windows: InputWindows | None = InputWindows.of_input(shape)
    on_windows = dense = 0
    products = 1
    for node in bounded.nodes():
        entries = math.prod(shape) if windows is None else windows.entries
        if isinstance(node, Conv2dNode):
            weight, geometry = node.parameters()[0], node.geometry
            each = weight.shape[0] * weight.shape[1]
            for i in range(2):
                taps = axis_taps(
                    *(node.inputs[0].shape[1 + i], node.shape[1 + i], weight.shape[2 + i], 1),
                    *(geometry.stride[i], geometry.padding[i], geometry.dilation[i]),
                )
                each *= sum(tap.outputs.stop - tap.outputs.start for tap in taps)
            windows = None if windows is None else windows.through(node.field, node.shape)
        elif isinstance(node, LinearNode):
            each = node.parameters()[0].numel()
            windows = None
        else:
            products = 2 if node.is_activation else products
            continue
        on_windows += products * each * entries
        dense += products * each * math.prod(shape)
    return on_windows, dense


def measure(case: tuple[Any, ...], activation: str, method: str, mode: str, options: dict[str, int]) -> dict[str, Any]:
    """Return one line of the table; runs in a process of its own."""
    torch.set_num_threads(options["threads"])
    architecture, shape, classes, eps = case
    x = torch.rand(1, *shape)
    bounded = BoundedModule(network(architecture, shape, classes, activation), x, bound_opts={"conv_mode": mode})
    region = PerturbationLpNorm(eps=eps, x_L=(x - eps).clamp(0, 1), x_U=(x + eps).clamp(0, 1))
    before, seconds, cpu_seconds = peak_bytes(), [], []
    with torch.no_grad():
        for _ in range(options["repeats"]):
            start, cpu_start = time.perf_counter(), time.process_time()
            bounded.compute_bounds(x=(BoundedTensor(x, region),), method=method)
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
    counts = multiply_adds(bounded, shape)
    return {
        "network": architecture,
        "activation": activation,
        "method": method,
        "rows": "windows" if mode == "patches" else "dense",
        "seconds": min(seconds),
        "cpu_seconds": min(cpu_seconds),
        "peak_bytes": peak_bytes(),
        "peak_bytes_before": before,
        "counted_bytes": forward_bytes(bounded.nodes(), windows=mode == "patches", batch=1, itemsize=4),
        "multiply_adds": counts[mode == "matrix"],
    }


def peak_bytes() -> int:
    """Return the largest resident memory of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measure every line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--dense", action="store_true", help="measure dense rows of DM-Large as well (minutes, > 6 GiB)"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    options = {"threads": arguments.threads, "repeats": arguments.repeats}
    lines = [
        (case, activation, method, "patches") for case in CASES for activation in ACTIVATIONS for method in METHODS
    ]
    if arguments.dense:
        lines += [(CASES[0], "ReLU", method, "matrix") for method in METHODS]
    print("network    activation method     rows           s   cpu s    MiB counted    GMAC")
    results = []
    for line in lines:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(measure, (*line, options))
        results.append(row)
        print(
            f"{row['network']:10} {row['activation']:10} {row['method']:10} {row['rows']:8} {row['seconds']:7.2f} "
            f"{row['cpu_seconds']:7.2f} {row['peak_bytes'] / 2**20:6.0f} "
            f"{row['counted_bytes'] / 2**20:7.0f} {row['multiply_adds'] / 1e9:7.1f}",
            flush=True,
        )
    if arguments.json:
        record = {"environment": collect(), "options": options, "results": results}
        arguments.json.write_text(json.dumps(record, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
