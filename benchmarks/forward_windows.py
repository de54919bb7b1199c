"""Whether LBP of small networks is faster on windows or with dense matrices, and what `forward_work` chooses.

    python benchmarks/forward_windows.py

One line per network and number of images: the time with dense matrices over that on windows, both measured in turn,
four calls at a time, the same ratio of the work by count, and how much slower the choice is than the other. The process
keeps the memory that it frees, as those of `lbp bench` do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from lbp import BoundedModule, BoundedTensor, PerturbationLpNorm, keep_freed_memory
from lbp.bench.timing import time_in_turn
from lbp.graph import build_network
from lbp.methods.forward_work import forward_work

CALLS = 4
"""At a time: the first finds the numbers of the other way in the caches."""

SIZES, CHANNELS, CONVOLUTIONS, BATCHES = (8, 12, 16), (4, 16, 32), (2, 3), (1, 4, 16)


def network(size: int, channels: int, convolutions: int) -> nn.Sequential:
    """Convolutions, the second with stride 2, and two Linear layers."""
    layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(channels, channels, 4, stride=2, padding=1), nn.ReLU()]
    for _ in range(convolutions - 2):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    neurons = channels * (size // 2) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(neurons, 100), nn.ReLU(), nn.Linear(100, 10))


def several(call: Callable[[], object]) -> None:
    """Call something as often as is measured at a time."""
    for _ in range(CALLS):
        call()


def main() -> None:
    """Measure the grid."""
    keep_freed_memory()
    torch.manual_seed(0)
    print("size channels convolutions images | dense / windows: time, work | choice slower by")
    for size, channels, convolutions, batch in itertools.product(SIZES, CHANNELS, CONVOLUTIONS, BATCHES):
        model = network(size, channels, convolutions)
        x = torch.rand(batch, 1, size, size)
        region = (BoundedTensor(x, PerturbationLpNorm(eps=0.1)),)
        calls = {
            mode: partial(
                several,
                partial(BoundedModule(model, x, bound_opts={"conv_mode": mode}).compute_bounds, x=region, method="LBP"),
            )
            for mode in ("patches", "matrix")
        }
        with torch.no_grad():
            timings = time_in_turn(calls, x.device, repeats=7)
        time = timings["matrix"].median / timings["patches"].median
        nodes = build_network(model, x, {}).nodes
        dense, windows = (forward_work(nodes, windows=on, batch=batch) for on in (False, True))
        loss = max((1 / time if windows <= dense else time) - 1, 0)
        case = f"{size:4} {channels:8} {convolutions:12} {batch:6}"
        print(f"{case} | {time:.2f}, {dense / windows:.2f} | {100 * loss:.0f} %", flush=True)


if __name__ == "__main__":
    main()
