"""The emulated CUDA kernels in place of the ops' CPU kernels."""

import importlib.util
import os
from pathlib import Path

import pytest


def load_module():
    """Load the module that `make test-emulated` has built and names by LBP_EMULATED."""
    (path,) = Path(os.environ["LBP_EMULATED"]).glob("lbp_emulated*.so")
    spec = importlib.util.spec_from_file_location("lbp_emulated", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def emulated():
    """The module of emulated launch functions; tests that take it are skipped where it is not built."""
    if "LBP_EMULATED" not in os.environ:
        pytest.skip("the emulated kernels are built and tested by `make test-emulated`")
    return load_module()
