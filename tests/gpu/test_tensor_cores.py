"""Float32 products on tensor cores, their operands split in two, are as exact as float32 sums are."""

import os
import subprocess
import sys

import torch
from ops.cases import normal, uniform

from lbp import ops

SETTING = "LBP_CUDA_TENSOR_CORES"
UNIT = 2.0**-24


def operands():
    """Center and radius of intervals, a layer, rows of coefficients and the layer below."""
    return normal(70, 300), uniform(70, 300), normal(130, 300, seed=1), normal(1, 70, 9, 130, seed=2)


def products(device, dtype):
    """Bounds of a layer, and rows through a ReLU that is unstable everywhere and a layer."""
    center, radius, weight, rows = (x.to(device, dtype) for x in operands())
    one = torch.ones(70, 130, device=device, dtype=dtype)
    with torch.no_grad():
        relaxed, _ = ops.relax_backward_linear(rows, -one, one, weight, None, sides="lower", strategy="tight")
        return [*ops.interval_linear(center - radius, center + radius, weight, None), relaxed]


def magnitudes():
    """What the magnitudes of the terms of each sum add up to, at most."""
    center, radius, weight, rows = (x.double().abs() for x in operands())
    of_bounds = (center + radius) @ weight.T
    return of_bounds, of_bounds, rows @ weight


def found_with(setting, path):
    """Results on the device in a process of its own, which reads the setting once."""
    code = (
        "import torch; from gpu.test_tensor_cores import products; "
        f"torch.save([x.cpu() for x in products('cuda', torch.float32)], {str(path)!r})"
    )
    environment = os.environ | {SETTING: setting, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    return torch.load(path)


def test_products_on_tensor_cores_are_as_exact_as_sums_of_float32(tmp_path):
    exact = products("cpu", torch.float64)
    plain, split = found_with("0", tmp_path / "plain.pt"), found_with("1", tmp_path / "split.pt")
    assert not all(map(torch.equal, plain, split)), "tensor cores were not used"
    for wanted, size, *results in zip(exact, magnitudes(), plain, split, strict=True):
        of_plain, of_split = (float(((x.double() - wanted).abs() / size).max()) for x in results)
        assert of_split <= max(2 * of_plain, 16 * UNIT)
