"""Tests of the emulated kernels themselves."""

import pytest


@pytest.fixture
def emulated(kernels_in_place):
    """The module of emulated launch functions; tests that take it are skipped where it is not built."""
    if kernels_in_place is None:
        pytest.skip("the emulated kernels are built and tested by `make test-emulated`")
    return kernels_in_place
