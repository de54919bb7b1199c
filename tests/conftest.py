"""What holds for the whole suite."""

import os

# Threads that wait for work sleep, which has to be said before torch is imported. By default they spin, and where
# another program wants the processor too, operations on small tensors then take many times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import zlib
from collections.abc import Iterator

import pytest
import torch
from emulation.every_kernel import EveryKernel
from emulation.load import emulated_kernels
from emulation.shim import Shim


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The networks are small, so one thread is fastest; tests of threads set their own number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def kernels_in_place() -> Iterator[Shim | None]:
    """Under `make test-emulated`, the CUDA kernels on the CPU in place of the ops' CPU kernels; else None."""
    with emulated_kernels() as ops:
        yield ops


def pytest_configure(config: pytest.Config) -> None:
    """Under `make test-emulated`, have the tests together launch every kernel; LBP_EVERY_KERNEL asks for it."""
    if "LBP_EVERY_KERNEL" in os.environ:
        config.pluginmanager.register(EveryKernel())


@pytest.fixture(autouse=True)
def ways_of_emulation(request: pytest.FixtureRequest, kernels_in_place: Shim | None) -> None:
    """Run the emulated threads of every test in an order of its own, and half of the tests with large layers' kernels.

    It is always the same order, and the same half.
    """
    if kernels_in_place is not None:
        checksum = zlib.crc32(request.node.nodeid.encode())
        kernels_in_place.module.set_seed(checksum)
        kernels_in_place.module.set_one_launch(checksum % 2 == 0)
