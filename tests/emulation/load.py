"""The emulated CUDA kernels in place of the ops' CPU kernels.

``make test-emulated`` runs the tests of the ops a second time with the environment variable LBP_EMULATED naming the
folder of the module of emulated launch functions. The same tests, parameters and float64 reference then judge the CUDA
kernels.
"""

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from emulation.shim import Shim

VARIABLE = "LBP_EMULATED"


@cache
def load_module() -> ModuleType:
    """Load the module that LBP_EMULATED names; the process must have been started under the sanitizers' runtime."""
    (path,) = Path(os.environ[VARIABLE]).glob("lbp_emulated*.so")
    spec = importlib.util.spec_from_file_location("lbp_emulated", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def emulated_kernels() -> Iterator[ModuleType | None]:
    """Replace the ops' kernels by the emulated ones while the context lasts, where LBP_EMULATED asks for it."""
    if VARIABLE not in os.environ:
        yield None
        return
    module = load_module()
    shim = Shim(module)
    library = torch.library.Library("lbp", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")  # replacing kernels is the purpose
        for name in shim.names():
            library.impl(name, getattr(shim, name), "CPU", allow_override=True)
    yield module
    library._destroy()
