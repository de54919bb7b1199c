"""Bounds of large networks: seconds, peak memory and multiply-adds, one image at a time.

    python benchmarks/large_networks.py [CASE ...] [--device cuda] [--repeat N]
    python benchmarks/large_networks.py --onnx PATH --images PATH [--eps E]

Each case runs in a process of its own, so that peaks do not mix. CROWN is the textbook method: every hidden layer by
back-substitution, every neuron, nothing skipped. Multiply-adds are those of back-substitution through affine layers for
both sides, counted from the windows before any pixel is left out for being zero.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import lbp
from lbp.graph import BoundNode, Network
from lbp.graph.conv import Conv2dNode
from lbp.graph.linear import LinearNode
from lbp.linear import ReceptiveField, layer_of, window_of

EPS = 8 / 255
CASES = {
    "DM-Large CROWN": ("DM-Large", "relu", "CROWN"),
    "DM-Large CROWN ParamRamp": ("DM-Large", "ramp", "CROWN"),
    "DM-Large LBP": ("DM-Large", "relu", "LBP"),
    "DM-Large CROWN-LBP": ("DM-Large", "relu", "CROWN-LBP"),
    "CNN-7+BN 56x56 CROWN-LBP": ("CNN-7+BN", "relu", "CROWN-LBP"),
    "ResNet-2B CROWN": ("ResNet-2B", "relu", "CROWN"),
    "ResNet-4B CROWN": ("ResNet-4B", "relu", "CROWN"),
    "DM-Small CROWN": ("DM-Small", "relu", "CROWN"),
    "DM-Medium CROWN": ("DM-Medium", "relu", "CROWN"),
}


class Block(nn.Module):
    """A residual block of the ResNets of VNN-COMP: two convolutions, and a shortcut where the shape changes."""

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1)
        changes = stride != 1 or channels != planes
        self.shortcut = nn.Conv2d(channels, planes, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Value at images [B, C, H, W]."""
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


def residual_network(blocks: tuple[tuple[int, int], ...], stem: int) -> nn.Sequential:
    """A strided stem for images 3x32x32, then residual blocks, each (channels, stride)."""
    layers: list[nn.Module] = [nn.Conv2d(3, stem, 3, 2, 1), nn.ReLU()]
    channels, size = stem, 16
    for planes, stride in blocks:
        layers.append(Block(channels, planes, stride))
        channels, size = planes, -(-size // stride)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, 100), nn.ReLU(), nn.Linear(100, 10))


def make_network(name: str, activation: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network with He-initialised weights, and the shape of its input."""
    torch.manual_seed(0)
    shape = (3, 56, 56) if name.startswith("CNN-7") else (3, 32, 32)
    if name == "ResNet-2B":
        model: nn.Module = residual_network(((16, 2), (16, 1)), 8)
    elif name == "ResNet-4B":
        model = residual_network(((32, 2), (32, 1), (32, 2), (32, 1)), 16)
    else:
        eta = 0.01 if activation == "ramp" else 0.0
        classes = 200 if shape[1] == 56 else 10
        model = lbp.models.build(name, shape, classes, activation, eta=eta, r=1.0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return model.eval(), shape


def multiply_adds(network: Network, method: str) -> int:
    """Multiply-adds of back-substitution for both sides of one image, from the sizes of the windows."""
    total = 0
    starts = [node.inputs[0] for node in network.activations] if method == "CROWN" else []
    for start in (*starts, network.output):
        total += start.size * _row_multiply_adds(network, start)
    return total


def _row_multiply_adds(network: Network, start: BoundNode) -> int:
    fields: dict[BoundNode, ReceptiveField | None] = {start: ReceptiveField.identity()}
    total = 0
    for node in reversed(network.below(start)):
        field = fields.pop(node)
        own = node.receptive_field()
        below = None if field is None or own is None else field.then(own)
        if node is not start and isinstance(node, Conv2dNode | LinearNode):
            height, width = window_of(field, layer_of(node.shape))
            weight = node.parameters()[0]
            total += 2 * height * width * weight.numel()
        for source in node.inputs:
            known = fields.get(source, below)
            fields[source] = None if known is None or below is None else known.union(below)
    return total


def run(model: nn.Module, x: Tensor, method: str, eps: float, repeat: int) -> dict[str, float]:
    """Bound the outputs on one image; seconds of the fastest call, peak of the process, multiply-adds."""
    net = lbp.BoundedModule(model, x, bound_opts={"sparse_intermediate_bounds": False})
    region = lbp.BoundedTensor(x, lbp.PerturbationLpNorm(eps=eps, clip=(0, 1)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = math.inf
    for _ in range(repeat):
        started = time.perf_counter()
        with torch.no_grad():
            lower, upper = net.compute_bounds(x=(region,), method=method)
        if x.is_cuda:
            torch.cuda.synchronize()
        seconds = min(seconds, time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = multiply_adds(net._network(), method)
    return {
        "seconds": seconds,
        "peak_rss_mib": peak / 1024,
        "rss_before_mib": before / 1024,
        "device_peak_mib": torch.cuda.max_memory_allocated() / 2**20 if x.is_cuda else 0.0,
        "gmacs_back_substitution": count / 1e9,
        "gflops": 2 * count / seconds / 1e9,
        "mean_width": float((upper - lower).mean()),
    }


def images_of(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Images [N, *shape] of a tensor file (torch.save or .npy)."""
    if path.suffix == ".npy":
        import numpy

        images = torch.from_numpy(numpy.load(path)).float()
    else:
        images = torch.load(path).float()
    return images.reshape(-1, *shape)


def main() -> None:
    """Run the cases, each in a process of its own, and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--onnx", type=Path, help="an ONNX network to bound instead")
    parser.add_argument("--images", type=Path, help="its inputs: .npy or torch.save")
    parser.add_argument("--eps", type=float, default=EPS)
    parser.add_argument("--here", action="store_true", help="run one case in this process and print JSON")
    args = parser.parse_args()
    if args.onnx is not None:
        model = lbp.load_onnx(args.onnx).eval()
        shape = tuple(model.input_shape)
        for x in images_of(args.images, shape):
            print(json.dumps(run(model.to(args.device), x[None].to(args.device), "CROWN", args.eps, args.repeat)))
        return
    if args.here:
        name, activation, method = CASES[args.cases[0]]
        model, shape = make_network(name, activation)
        x = torch.rand(1, *shape)
        print(json.dumps(run(model.to(args.device), x.to(args.device), method, args.eps, args.repeat)))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {args.device}, eps {args.eps:.4f}, one image")
    print(f"{'case':28} {'seconds':>8} {'peak MiB':>9} {'before':>7} {'GMAC':>8} {'GFLOP/s':>8}")
    for case in args.cases or CASES:
        command = [sys.executable, __file__, case, "--here", "--device", args.device, "--repeat", str(args.repeat)]
        found = subprocess.run([*command, "--eps", str(args.eps)], capture_output=True, text=True, check=False)
        if found.returncode:
            print(f"{case:28} failed: {found.stderr.strip().splitlines()[-1]}")
            continue
        r = json.loads(found.stdout.splitlines()[-1])
        peak = r["device_peak_mib"] or r["peak_rss_mib"]
        print(
            f"{case:28} {r['seconds']:8.2f} {peak:9.0f} {r['rss_before_mib']:7.0f} "
            f"{r['gmacs_back_substitution']:8.1f} {r['gflops']:8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
