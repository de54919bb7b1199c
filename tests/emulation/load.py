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

from lbp.ops import _calls

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
def emulated_kernels() -> Iterator[Shim | None]:
    """Replace the ops' kernels by the emulated ones while the context lasts, where LBP_EMULATED asks for it."""
    if VARIABLE not in os.environ:
        yield None
        return
    shim = Shim(load_module())
    library = torch.library.Library("lbp", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")  # replacing kernels is the purpose
        for name in shim.names():
            library.impl(name, getattr(shim, name), "CPU", allow_override=True)
    # On CPUs an op that is made of other ops is called as the function that it is, without the dispatcher.
    made_of_others = {(name, "cpu") for name in shim.names()} & _calls._composites.keys()
    composites = {key: _calls._composites.pop(key) for key in made_of_others}
    yield shim
    _calls._composites.update(composites)
    library._destroy()
