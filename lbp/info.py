"""What a report about this installation should contain."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

from lbp import _jit, _native


def collect() -> dict[str, str]:
    """Return the facts about this installation that `lbp info` prints, in the order of printing.

    The keys are ``lbp``, ``Python``, ``PyTorch``, ``native library`` (loaded, or the reason why not),
    ``instruction set`` (of the CPU kernels in use), ``threads``, ``CUDA kernels`` (ahead of time and for which
    architectures, just in time and by what, or none), ``CUDA`` (PyTorch's, and its first device) and ``platform``.
    Nothing raises: what cannot be found out is said in words.
    """
    return {
        "lbp": _version(),
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "native library": "loaded" if _native.missing is None else f"not loaded: {_native.missing}",
        "instruction set": _native.instruction_set(),
        "threads": str(torch.get_num_threads()),
        "CUDA kernels": _cuda_kernels(),
        "CUDA": _cuda(),
        "platform": f"{platform.platform()} {platform.machine()}",
    }


def _version() -> str:
    try:
        return importlib.metadata.version("lbp")
    except importlib.metadata.PackageNotFoundError:
        return "not installed, imported from a folder"


def _cuda_kernels() -> str:
    if _native.jit is None:
        return _native.cuda_build
    if torch.version.cuda is None:
        return f"{_native.cuda_build}, with a PyTorch that has CUDA"
    try:
        kept = f"kept in {folder}" if (folder := _jit.cache_folder()) else "not kept: name a folder by LBP_CACHE_DIR"
        return f"{_native.cuda_build}, by NVRTC {_jit.nvrtc_version()}, {kept}"
    except _jit.CompileError as error:
        return f"{_native.cuda_build}, not possible: {error}"


def _cuda() -> str:
    if torch.version.cuda is None:
        return "PyTorch was built without CUDA"
    if not torch.cuda.is_available():
        return f"{torch.version.cuda}, no device available"
    major, minor = torch.cuda.get_device_capability(0)
    return f"{torch.version.cuda}, {torch.cuda.get_device_name(0)} (sm_{major}{minor})"
