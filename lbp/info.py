"""What a report about this installation should contain."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

from lbp import _native


def collect() -> dict[str, str]:
    """Return the facts about this installation that `lbp info` prints, in the order of printing.

    The keys are ``lbp``, ``Python``, ``PyTorch``, ``native library`` (loaded, or the reason why not),
    ``instruction set`` (of the CPU kernels in use), ``threads``, ``CUDA kernels``, ``CUDA`` (PyTorch's, and
    its first device) and ``platform``. Nothing raises: what cannot be found out is said in words.
    """
    return {
        "lbp": _version(),
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "native library": "loaded" if _native.missing is None else f"not loaded: {_native.missing}",
        "instruction set": _instruction_set(),
        "threads": str(torch.get_num_threads()),
        "CUDA kernels": "compiled in" if _has_cuda_kernels() else "not compiled in",
        "CUDA": _cuda(),
        "platform": f"{platform.platform()} {platform.machine()}",
    }


def _version() -> str:
    try:
        return importlib.metadata.version("lbp")
    except importlib.metadata.PackageNotFoundError:
        return "not installed, imported from a folder"


def _instruction_set() -> str:
    if _native.missing is not None:
        return "none"
    try:
        return str(torch.ops.lbp.cpu_capability())
    except RuntimeError as error:  # LBP_CPU_CAPABILITY asks for one that is not there
        return str(error).split("\n")[0]


def _has_cuda_kernels() -> bool:
    ops = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("lbp::")]
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA") for name in ops)


def _cuda() -> str:
    if torch.version.cuda is None:
        return "PyTorch was built without CUDA"
    if not torch.cuda.is_available():
        return f"{torch.version.cuda}, no device available"
    return f"{torch.version.cuda}, {torch.cuda.get_device_name(0)}"
