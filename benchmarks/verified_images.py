"""Clean and verified accuracy of an ONNX network on labelled images, by the cascade of `lbp verify`.

    python benchmarks/verified_images.py NET.onnx --images X.npy.xz --labels Y.npy --eps 1/255 [2/255 ...]
        [--mean R G B --std R G B] [--methods CROWN] [--limit N] [--batch-size N ...] [--rounding nearest]

Images are uint8 [N, H, W, C], or floating point in [0, 1] [N, C, H, W]; radii are in units of [0, 1], whose ends cut
every ball off. Mean and standard deviation say how the network wants its input normalised. Without `--attack` nothing
is falsified. With several batch sizes each is timed, on the same images.
"""

from __future__ import annotations

import argparse
import lzma
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import lbp
from lbp.models.build import Normalize
from lbp.verification import AttackSettings, CascadeSettings, ImageVerdict, run_cascade


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("--images", type=Path, required=True, help=".npy or .npy.xz")
    parser.add_argument("--labels", type=Path, required=True, help=".npy or .npy.xz")
    parser.add_argument("--eps", type=lambda text: float(Fraction(text)), nargs="+", required=True)
    parser.add_argument("--mean", type=float, nargs="+")
    parser.add_argument("--std", type=float, nargs="+")
    parser.add_argument("--methods", nargs="+", default=["CROWN"])
    parser.add_argument("--strategy", default="adaptive")
    parser.add_argument("--rounding", default="outward")
    parser.add_argument("--attack", action="store_true")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[None], help="by memory if absent")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def array(path: Path) -> np.ndarray:
    """The array of a file."""
    with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
        return np.load(file)


def images_of(path: Path, limit: int | None) -> Tensor:
    """Images [N, C, H, W] in [0, 1]."""
    images = torch.from_numpy(array(path)[:limit])
    return images.movedim(-1, 1).float() / 255 if images.dtype == torch.uint8 else images.float()


def line(verdicts: list[ImageVerdict], seconds: float) -> str:
    """What was found, and how fast."""
    count = len(verdicts)
    shares = {word: sum(v.verdict == word for v in verdicts) / count for word in ("misclassified", "falsified")}
    by = {}
    for verdict in verdicts:
        if verdict.verdict == "verified":
            by[verdict.by] = by.get(verdict.by, 0) + 1
    found = ", ".join(f"{number} by {method}" for method, number in by.items())
    return (
        f"{count} images: clean {1 - shares['misclassified']:.2%}, verified {sum(by.values()) / count:.2%} ({found}), "
        f"falsified {shares['falsified']:.2%}; {seconds:.1f} s, {count / seconds:.2f} images/s"
    )


def main() -> None:
    """Verify the images at every radius, by every size of batches."""
    options = arguments()
    torch.set_num_threads(options.threads)
    network: nn.Module = lbp.load_onnx(options.network)
    if options.mean is not None:
        network = nn.Sequential(Normalize(options.mean, options.std), network)
    network = network.eval().to(options.device)
    images = images_of(options.images, options.limit)
    labels = torch.from_numpy(array(options.labels)[: options.limit]).long()
    for eps in options.eps:
        settings = CascadeSettings(
            eps=eps,
            methods=tuple(options.methods),
            strategy=options.strategy,
            rounding=options.rounding,
            attack=AttackSettings(steps=40, restarts=2, queries=200) if options.attack else None,
        )
        for size in options.batch_size:
            started = time.perf_counter()
            verdicts = run_cascade(network, images, labels, settings, batch_size=size)
            seconds = time.perf_counter() - started
            sizes = "" if size is None else f", batches of {size}"
            print(f"{options.network.name}, eps {eps:.5f}{sizes}, {line(verdicts, seconds)}", flush=True)


if __name__ == "__main__":
    main()
