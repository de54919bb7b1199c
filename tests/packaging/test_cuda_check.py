"""What `make cuda-check` says of kernels: threads, shared memory, and how much of a multiprocessor they can fill."""

import importlib
import shutil
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / ".ci"


@pytest.fixture
def check_cuda(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("check_cuda")


@pytest.fixture
def resident_blocks(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("occupancy").resident_blocks


# What cuda_occupancy.h of CUDA 13.0 says: architecture; threads, registers and bytes of shared memory; blocks.
@pytest.mark.parametrize(
    ("architecture", "block", "blocks"),
    [
        (80, (256, 32, 0), 8),
        (90, (256, 32, 0), 8),
        (120, (256, 32, 0), 6),
        (90, (32, 16, 0), 32),
        (120, (32, 16, 0), 24),
        # A warp gets registers by 256: of 80 for a thread a scheduler has enough for six warps, of 81 for five.
        (90, (256, 80, 0), 3),
        (90, (256, 81, 0), 2),
        (90, (1024, 65, 0), 0),
        # Each scheduler has registers for four such warps, and a block has seven.
        (90, (224, 128, 0), 2),
        # 1 KiB more for each block.
        (80, (256, 32, 48 * 1024), 3),
        (90, (256, 32, 48 * 1024), 4),
        (120, (256, 32, 48 * 1024), 2),
        (80, (64, 16, 4 * 1024), 32),
        (80, (64, 16, 4 * 1024 + 129), 31),
        (90, (256, 32, 228 * 1024), 0),
    ],
)
def test_blocks_of_a_multiprocessor_are_as_many_as_cuda_counts(resident_blocks, architecture, block, blocks):
    assert resident_blocks(architecture, *block) == blocks


def test_dynamic_shared_memory_is_counted_at_its_most_and_without(check_cuda):
    few_registers, many_registers = (check_cuda.Usage(count, 16 * 1024, 0) for count in (40, 128))
    assert check_cuda.occupancies(90, 256, few_registers, 0) == "75 %"
    assert check_cuda.occupancies(90, 256, few_registers, 32 * 1024) == "50 to 75 %"
    assert check_cuda.occupancies(90, 256, many_registers, 32 * 1024) == "25 %"


def test_the_threads_of_a_block_are_those_of_its_launch_bounds(check_cuda):
    program = (
        ".visible .entry first(\n\t.param .align 8 .b8 first_param_0[8]\n)\n.maxntid 512, 1, 1\n.minnctapersm 1\n"
        "{\n\tret;\n\n}\n"
        ".visible .entry second()\n.maxntid 128, 1, 1\n{\n\tret;\n\n}\n"
    )
    assert check_cuda.threads_of_blocks(program) == {"first": 512, "second": 128}


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
class TestOfTheSources:
    def test_every_kernel_with_dynamic_shared_memory_says_how_much_launches_ask_for(self, check_cuda):
        most = check_cuda.most_dynamic_shared()
        assert most["relax_backward_kernel<"] == 2 * 256 * 8 * 8  # sums of eight warps for both sides of 256 rows
        assert all(0 < size <= 48 * 1024 for size in most.values())

    def test_a_kernel_that_is_not_listed_is_an_error(self, check_cuda, monkeypatch):
        short = check_cuda.LIST_DYNAMIC_SHARED.replace("std::printf(", "if (most.kernel[0] != 'c') std::printf(")
        monkeypatch.setattr(check_cuda, "LIST_DYNAMIC_SHARED", short)
        with pytest.raises(SystemExit, match="concretize_kernel"):
            check_cuda.most_dynamic_shared()
