"""What holds for the whole suite."""

import os

# Threads that wait for work sleep, which has to be said before torch is imported. By default they spin, and where
# another program wants the processor too, operations on small tensors then take many times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The networks are small, so one thread is fastest; tests of threads set their own number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
