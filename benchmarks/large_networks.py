"""Bounds of large networks: seconds, peak memory and multiply-adds, one image at a time.

    python benchmarks/large_networks.py [CASE ...] [--device cuda] [--threads N] [--repeat N] [--dense] [--json FILE]

Each case runs in a process of its own, so that peaks do not mix; they include the interpreter, PyTorch and the weights,
which "before" shows alone. Beside the time on the clock stands that of the processors, which a busy machine changes
less. CROWN is the textbook method: every hidden layer by back-substitution, every neuron, nothing skipped.
Multiply-adds are those of both sides through affine layers (`lbp/bench/multiply_adds.py`); beside them stand those of
whole rows.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import lbp
import lbp.models
from lbp.bench import networks
from lbp.bench.multiply_adds import multiply_adds
from lbp.bench.record import tree_commit
from lbp.info import collect

EPS = {"CNN-7+BN": 1 / 255}
OTHER_EPS = 8 / 255
CASES = {
    "DM-Large CROWN": ("DM-Large", "relu", "CROWN"),
    "DM-Large CROWN ParamRamp": ("DM-Large", "ramp", "CROWN"),
    "DM-Large LBP": ("DM-Large", "relu", "LBP"),
    "DM-Large LBP ParamRamp": ("DM-Large", "ramp", "LBP"),
    "DM-Large CROWN-LBP": ("DM-Large", "relu", "CROWN-LBP"),
    "DM-Large CROWN-LBP ParamRamp": ("DM-Large", "ramp", "CROWN-LBP"),
    "CNN-7+BN 56x56 LBP": ("CNN-7+BN", "relu", "LBP"),
    "CNN-7+BN 56x56 CROWN-LBP": ("CNN-7+BN", "relu", "CROWN-LBP"),
    "ResNet-2B CROWN": ("ResNet-2B", "relu", "CROWN"),
    "ResNet-4B CROWN": ("ResNet-4B", "relu", "CROWN"),
    "DM-Small CROWN": ("DM-Small", "relu", "CROWN"),
    "DM-Medium CROWN": ("DM-Medium", "relu", "CROWN"),
}

RESIDUAL = {
    "ResNet-2B": (8, ((16, 2), (16, 1))),
    "ResNet-4B": (16, ((32, 2), (32, 1), (32, 2), (32, 1))),
}
"""Channels of the first convolution, and channels and stride of every block."""


def make_network(name: str, activation: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network with He-initialised weights, and the shape of its input."""
    torch.manual_seed(0)
    shape = (3, 56, 56) if name.startswith("CNN-7") else (3, 32, 32)
    if name in RESIDUAL:
        model = networks.residual_network(networks.Network(name, "ReLU", shape), *RESIDUAL[name])
    else:
        eta = 0.01 if activation == "ramp" else 0.0
        classes = 200 if shape[1] == 56 else 10
        model = lbp.models.build(name, shape, classes, activation, eta=eta, r=1.0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return model.eval(), shape


def run(model: nn.Module, x: Tensor, method: str, eps: float, options: argparse.Namespace) -> dict[str, float]:
    """Bound the outputs on one image; time of the fastest call, peak of the process, multiply-adds."""
    mode = "matrix" if options.dense else "patches"
    net = lbp.BoundedModule(model, x, bound_opts={"sparse_intermediate_bounds": False, "conv_mode": mode})
    region = lbp.BoundedTensor(x, lbp.PerturbationLpNorm(eps=eps, clip=(0, 1)))
    before = peak_mib()
    seconds, cpu_seconds = [], []
    for _ in range(options.repeat):
        started, cpu_started = time.perf_counter(), time.process_time()
        with torch.no_grad():
            lower, upper = net.compute_bounds(x=(region,), method=method)
        if x.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
    count, whole = (multiply_adds(net._network(), method, windows=on) for on in (not options.dense, False))
    return {
        "eps": eps,
        "seconds": min(seconds),
        "cpu_seconds": min(cpu_seconds),
        "peak_rss_mib": peak_mib(),
        "rss_before_mib": before,
        "device_peak_mib": torch.cuda.max_memory_allocated() / 2**20 if x.is_cuda else 0.0,
        "gmacs": count / 1e9,
        "gmacs_of_whole_rows": whole / 1e9,
        "gflops": 2 * count / min(seconds) / 1e9,
        "mean_width": float((upper - lower).mean()),
    }


def peak_mib() -> float:
    """Largest resident memory of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--dense", action="store_true", help="rows over whole layers: minutes, and many GiB")
    parser.add_argument("--eps", type=float, help=f"{EPS['CNN-7+BN']:.4f} for CNN-7+BN and {OTHER_EPS:.4f} by default")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--here", action="store_true", help="run one case in this process and print JSON")
    return parser.parse_args()


def run_here(case: str, options: argparse.Namespace) -> dict[str, float]:
    """Run one case in this process."""
    name, activation, method = CASES[case]
    model, shape = make_network(name, activation)
    eps = EPS.get(name, OTHER_EPS) if options.eps is None else options.eps
    return run(model.to(options.device), torch.rand(1, *shape).to(options.device), method, eps, options)


def run_cases(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run the cases, each in a process of its own, and print one line for each."""
    rows = "dense rows" if options.dense else "rows on windows"
    print(f"{options.threads} threads, torch {torch.__version__}, {options.device}, {rows}, one image")
    print(f"{'case':29} {'eps':>6} {'seconds':>8} {'CPU s':>7} {'MiB':>6} {'before':>6}", end=" ")
    print(f"{'GMAC':>7} {'whole':>7} {'GFLOP/s':>8}")
    flags = [f"--{name}={value}" for name in ("device", "threads", "repeat", "eps") if (value := vars(options)[name])]
    flags += ["--dense"] if options.dense else []
    results = {}
    for case in options.cases or CASES:
        command = [sys.executable, __file__, case, "--here", *flags]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            print(f"{case:29} failed: {found.stderr.strip().splitlines()[-1]}")
            continue
        r = results[case] = json.loads(found.stdout.splitlines()[-1])
        peak = r["device_peak_mib"] or r["peak_rss_mib"]
        print(
            f"{case:29} {r['eps']:6.4f} {r['seconds']:8.2f} {r['cpu_seconds']:7.2f} {peak:6.0f} "
            f"{r['rss_before_mib']:6.0f} {r['gmacs']:7.1f} {r['gmacs_of_whole_rows']:7.0f} {r['gflops']:8.1f}",
            flush=True,
        )
    return results


def main() -> None:
    """Run what the command line asks for."""
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.here:
        print(json.dumps(run_here(options.cases[0], options)))
    else:
        results = run_cases(options)
        if options.json:
            settings = {name: value for name, value in vars(options).items() if name not in ("json", "here")}
            record = {"environment": collect(), "commit": tree_commit(), "options": settings, "results": results}
            options.json.write_text(json.dumps(record, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
