"""What a library with CUDA kernels ahead of time does where there is no GPU: check_on_cpu.py FOLDER OF THE PACKAGE."""

import sys
from pathlib import Path

import torch

import lbp
from lbp import _native, ops
from lbp.cli import app

assert Path(lbp.__file__).is_relative_to(sys.argv[1]), f"imported {lbp.__file__}"
assert _native.missing is None, _native.missing
assert _native.cuda_build.startswith("ahead of time for sm_"), _native.cuda_build
assert not torch.cuda.is_available()

generator = torch.Generator().manual_seed(0)
A = torch.randn(2, 3, 4, 50, generator=generator, dtype=torch.float64)
l = torch.randn(3, 50, generator=generator, dtype=torch.float64)
results = []
for backend in ("native", "reference"):
    with lbp.backend(backend):
        results.append(ops.relax_backward(A, l, l + 1, sides="both", r=0.75, eta=0.1))
for found, expected in zip(*results, strict=True):
    torch.testing.assert_close(found, expected)
print("relax_backward on the CPU gives what the reference gives")
app(["info"], standalone_mode=False)
