"""Time the CPU kernels against the same functions in plain PyTorch and against the memory they must move.

    python benchmarks/ops.py [--threads N] [--repeats N] [--json FILE]

Every row is one op at one size, with both backends timed in turn in the same run (medians). The floor is the time
that a copy between buffers in use takes, in the same run, for the bytes that the op cannot avoid reading and writing.
Results are compared before anything is timed. What the numbers do not show: outputs are fresh memory, whose first
touch costs the operating system more than the kernel's work at these sizes; the row "copy into new memory" measures
that.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lbp
from lbp import ops
from lbp.info import collect

Call = Callable[[], Any]


def median_seconds(calls: dict[str, Call], repeats: int) -> dict[str, float]:
    """Return the median time of each call, all of them in turn after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat > 0:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def on(backend: str, call: Call) -> Call:
    """Return the call on one backend."""

    def run() -> Any:
        with lbp.backend(backend):
            return call()

    return run


def check_agreement(name: str, call: Call) -> None:
    """Stop unless both backends give the same result to float32 rounding."""
    results = [on(backend, call)() for backend in ("native", "reference")]
    native, reference = ((r,) if isinstance(r, Tensor) else tuple(r) for r in results)
    for ours, theirs in zip(native, reference, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * max(scale, 1.0), msg=lambda m: f"{name}: {m}")


def tensor_bytes(*tensors: Tensor) -> int:
    """Return the bytes of tensors that an op reads or writes once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def cases() -> list[tuple[str, Call, int]]:
    """Return name, call and unavoidable bytes of every row."""
    torch.manual_seed(0)
    rows: list[tuple[str, Call, int]] = []
    batch, specs, neurons = 32, 9, 65536
    A = torch.randn(1, batch, specs, neurons)
    l = torch.randn(batch, neurons)
    u = l + torch.rand(batch, neurons)
    r = torch.rand(neurons) + 0.5
    x = torch.rand(batch, neurons)
    size = f"B={batch} S={specs} n={neurons:,}"
    moved = tensor_bytes(A, A, l, u)
    for activation, parameters in (("ReLU", {}), ("ParamRamp", {"r": r, "eta": 0.01})):
        rows += [
            (
                f"relax_backward {activation} {size}",
                lambda parameters=parameters: ops.relax_backward(A, l, u, sides="lower", **parameters),
                moved,
            ),
            (
                f"ramp_interval {activation} B={batch} n={neurons:,}",
                lambda parameters=parameters: ops.ramp_interval(l, u, **parameters),
                tensor_bytes(l, u, l, u),
            ),
        ]
    rows.append(
        (f"concretize_box {size}", lambda: ops.concretize_box(A, x, x + 0.1, sides="lower"), tensor_bytes(A, x, x))
    )
    for p in (1.0, 2.0, torch.inf):
        name = f"concretize_ball p={p:g} {size}"
        rows.append((name, lambda p=p: ops.concretize_ball(A, x, 0.1, p, sides="lower"), tensor_bytes(A, x)))
    inputs, hidden = 784, 4096
    center, radius = torch.randn(4, inputs, hidden), torch.rand(4, inputs, hidden)
    vector = torch.rand(4, hidden)
    lower, upper = l[:4, :hidden], u[:4, :hidden]
    point = torch.rand(4, inputs)
    size = f"B=4 n0={inputs} n={hidden:,}"
    rows.append(
        (
            f"relax_forward {size}",
            lambda: ops.relax_forward(center, radius, vector, vector, lower, upper),
            2 * tensor_bytes(center, radius),
        )
    )
    rows.append(
        (
            f"concretize_forward_box {size}",
            lambda: ops.concretize_forward_box(center, radius, vector, vector, point, point + 0.1),
            tensor_bytes(center, radius),
        )
    )
    return rows


def copy_rates(repeats: int) -> tuple[float, float]:
    """Return bytes per second, read and written, of a copy between buffers in use, and into new memory."""
    source = torch.randn(32, 9, 65536)
    target = torch.empty_like(source)
    times = median_seconds({"used": lambda: target.copy_(source), "new": source.clone}, repeats)
    moved = 2 * tensor_bytes(source)
    return moved / times["used"], moved / times["new"]


def processor() -> str:
    """Return the processor's name where Linux tells it, else its kind."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    """Run all rows, print the table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    used, new = copy_rates(arguments.repeats)
    print(f"copy between buffers in use {used / 1e9:.1f} GB/s, copy into new memory {new / 1e9:.1f} GB/s")
    print(f"{'op':58} {'native ms':>10} {'floor ms':>9} {'PyTorch ms':>11} {'ratio':>6}")
    rows = []
    for name, call, moved in cases():
        check_agreement(name, call)
        times = median_seconds({backend: on(backend, call) for backend in ("native", "reference")}, arguments.repeats)
        floor = moved / used
        row = {"op": name, "bytes": moved, "floor_s": floor, **{f"{k}_s": v for k, v in times.items()}}
        rows.append(row)
        ratio = times["reference"] / times["native"]
        print(
            f"{name:58} {times['native'] * 1e3:10.2f} {floor * 1e3:9.2f} {times['reference'] * 1e3:11.1f} {ratio:6.1f}"
        )
    if arguments.json is not None:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
        record = {
            "commit": commit.strip(),
            "processor": processor(),
            "threads": arguments.threads,
            "repeats": arguments.repeats,
            "copy_bytes_per_s": {"buffers in use": used, "new memory": new},
            "versions": {name: value for name, value in collect().items() if name != "platform"},
            "rows": rows,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
