"""Tests of the emulated kernels themselves."""

from pathlib import Path

import pytest
import torch

SPLIT_CASES = Path(__file__).with_name("test_split_cases.py")


def pytest_collection_modifyitems(config, items):
    """Leave out what tensor cores do not compute: whatever is not float32."""

    def left_out(item):
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        return item.path == SPLIT_CASES and parameters.get("dtype") != torch.float32

    config.hook.pytest_deselected(items=[item for item in items if left_out(item)])
    items[:] = [item for item in items if not left_out(item)]


@pytest.fixture
def emulated(kernels_in_place):
    """The module of emulated launch functions; tests that take it are skipped where it is not built."""
    if kernels_in_place is None:
        pytest.skip("the emulated kernels are built and tested by `make test-emulated`")
    return kernels_in_place.module


@pytest.fixture
def split_products(emulated, kernels_in_place):
    """Have the ops multiply float32 numbers on tensor cores."""
    kernels_in_place.split = True
    yield
    kernels_in_place.split = False
