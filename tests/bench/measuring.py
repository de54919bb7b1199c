"""A small network, a device and limits, with which the tests of measurements measure."""

import torch

from lbp.bench.grid import Case
from lbp.bench.networks import Network
from lbp.bench.worker import Limits

CPU = torch.device("cpu")
LIMITS = Limits(seconds=100.0, memory=8 * 2**30, threads=1)
TINY = Network("chain", "ReLU", (1, 6, 6), width=2, depth=2)


def case_of(method, level="methods"):
    return Case(level, f"chain {method}", method, 1, (TINY,), {}, 1)
