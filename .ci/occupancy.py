"""How many threads of a kernel a multiprocessor holds at a time, from what a block of it takes."""

from __future__ import annotations

from typing import NamedTuple

WARP = 32
REGISTERS = 64 * 1024  # of a multiprocessor
SCHEDULERS = 4  # among which its registers are shared out
REGISTERS_AT_A_TIME = 256  # are handed to a warp
SHARED_AT_A_TIME = 128  # bytes of shared memory, to a block
SHARED_OF_SYSTEM = 1024  # bytes that every block takes besides


class Multiprocessor(NamedTuple):
    """What a multiprocessor has room for: "Compute Capabilities" in the CUDA programming guide."""

    threads: int
    blocks: int
    shared_bytes: int


MULTIPROCESSORS = {
    80: Multiprocessor(2048, 32, 164 * 1024),
    90: Multiprocessor(2048, 32, 228 * 1024),
    100: Multiprocessor(2048, 32, 228 * 1024),
    120: Multiprocessor(1536, 24, 100 * 1024),
}


def resident_blocks(architecture: int, threads: int, registers: int, shared_bytes: int) -> int:
    """Return how many blocks of a kernel a multiprocessor holds at a time.

    Args:
        architecture: compute capability, 90 for 9.0.
        threads: of a block.
        registers: of a thread.
        shared_bytes: of a block, static and dynamic.
    """
    room = MULTIPROCESSORS[architecture]
    warps = -(-threads // WARP)
    of_warp = _rounded_up(registers * WARP, REGISTERS_AT_A_TIME)
    # Every scheduler has registers of its own.
    warps_by_registers = SCHEDULERS * (REGISTERS // SCHEDULERS // of_warp)
    shared = _rounded_up(shared_bytes + SHARED_OF_SYSTEM, SHARED_AT_A_TIME)
    return min(
        room.blocks,
        room.threads // (warps * WARP),
        warps_by_registers // warps,
        room.shared_bytes // shared,
    )


def occupancy(architecture: int, threads: int, registers: int, shared_bytes: int) -> float:
    """Return the share of a multiprocessor's threads that blocks of a kernel can fill; see `resident_blocks`."""
    blocks = resident_blocks(architecture, threads, registers, shared_bytes)
    return blocks * threads / MULTIPROCESSORS[architecture].threads


def _rounded_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
