"""What a whole training step costs with ParamRamp beside ReLU: clean pass, bounds, loss, gradients, Adam.

    python benchmarks/activation_cost.py
    python benchmarks/activation_cost.py --device cuda --batch 256 --rounds 50

The activations take turns, one step each per round, so that other work on the machine slows both. Prints the medians of
the rounds, their ratio, and the median of the ratios within a round.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import lbp
from lbp.training.benchmark import make_step


def main() -> None:
    """Measures and prints a line per loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="DM-Large")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    options = parser.parse_args()
    lbp.keep_freed_memory()
    torch.set_num_threads(options.threads)
    for loss in ("ibp", "crown-ibp"):
        steps = [
            make_step(options.architecture, name, loss, batch_size=options.batch, device=options.device)
            for name in ("relu", "ramp")
        ]
        # The first steps choose algorithms and, on a GPU, capture a graph.
        for _ in range(1 if options.device == "cpu" else 5):
            for step in steps:
                seconds(step, options.device)
        rounds = [[seconds(step, options.device) for step in steps] for _ in range(options.rounds)]
        relu, ramp = (1e3 * statistics.median(times) for times in zip(*rounds, strict=True))
        within = statistics.median(second / first for first, second in rounds)
        print(
            f"{options.architecture} {loss}, batch {options.batch}: ReLU {relu:.1f} ms, ParamRamp {ramp:.1f} ms, "
            f"ratio {ramp / relu:.3f}, within a round {within:.3f}",
            flush=True,
        )


def seconds(step: Callable[[], Any], device: str) -> float:
    """Wall-clock time of a step that the device has finished."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    started = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
