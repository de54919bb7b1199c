"""Every CUDA kernel has a row with its floor in benchmarks/gpu.md."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Rows that stand for several kernels.
FAMILIES = {"_strips": "`..._strips`", "_finish": "`..._finish`", "sum_": "`sum_...`"}


def test_every_kernel_has_a_floor():
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "csrc" / "cuda" / "kernels").glob("*.cuh")))
    kernels = re.findall(r"^LBP_KERNEL void .*?\b(\w+)_kernel\(", sources, re.MULTILINE | re.DOTALL)
    assert len(kernels) == sources.count("LBP_KERNEL void") > 0
    rows = [line for line in (ROOT / "benchmarks" / "gpu.md").read_text().splitlines() if line.startswith("| ")]
    named = set(re.findall(r"`([\w.]+)`", "\n".join(rows)))
    named.add("tile_product")  # all rows of fused products

    def has_row(kernel: str) -> bool:
        families = [row for part, row in FAMILIES.items() if part in kernel]
        return kernel in named or any(row.strip("`") in named for row in families)

    assert [kernel for kernel in kernels if not has_row(kernel)] == []


def rows_of_floors():
    """The rows of kernels under the headings of floors, as lists of cells."""
    page = (ROOT / "benchmarks" / "gpu.md").read_text()
    sections = [part for part in re.split(r"^## ", page, flags=re.MULTILINE) if part.startswith("Floors of ")]
    lines = [line for section in sections for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "`" in line.split("|")[1]]


def test_beside_every_floor_stands_what_was_measured_or_that_nothing_was():
    rows = rows_of_floors()
    assert len(rows) > 40
    for kernel, *floor, measured in rows:
        assert all(floor), kernel
        assert "not measured" in measured or re.search(r"\d", measured), kernel
