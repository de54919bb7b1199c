"""The library depends on no Python version and on no part of torch outside its stable ABI."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import lbp

LIBRARY = Path(lbp.__file__).with_name("liblbp.so")
STABLE_HEADERS = ["torch/csrc/stable/c/shim.h", "torch/csrc/inductor/aoti_torch/c/shim.h"]


def undefined_symbols() -> dict[str, str]:
    """Symbols that the library takes from elsewhere, without those of the C and C++ runtimes, which carry a version.

    To each its kind: U, or w where it may be missing.
    """
    if shutil.which("nm") is None:
        pytest.skip("needs nm (binutils)")
    listing = subprocess.run(["nm", "-D", "--undefined-only", LIBRARY], check=True, capture_output=True, text=True)
    symbols = {name: kind for kind, name in (line.split()[-2:] for line in listing.stdout.splitlines())}
    runtimes = ("_ITM_", "__gmon_start__", "__asan", "__ubsan")
    standard = re.compile(r"_Z(N[KV]*St|St|T[VISv].*)|__cxa_|__gxx_")
    return {
        symbol: kind
        for symbol, kind in symbols.items()
        if "@" not in symbol and not symbol.startswith(runtimes) and not standard.match(symbol)
    }


def test_no_symbol_of_python_is_needed():
    assert not [symbol for symbol in undefined_symbols() if symbol.startswith(("Py", "_Py"))]


def test_only_the_c_functions_of_torch_are_needed():
    foreign = [symbol for symbol in undefined_symbols() if not symbol.startswith(("aoti_torch_", "torch_"))]
    assert foreign == []


def test_every_function_of_torch_is_in_the_stable_abi_of_the_oldest_torch():
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CXX", "c++"), "g++", "clang++"])), None)
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    declared = subprocess.run(
        [
            *(compiler, "-E", "-x", "c++", "-std=c++17", "-DTORCH_TARGET_VERSION=0x020b000000000000", "-DUSE_CUDA"),
            *("-I", Path(torch.__file__).parent / "include", "-"),
        ],
        input="".join(f"#include <{header}>\n" for header in STABLE_HEADERS),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = set(re.findall(r"\b(?:aoti_torch|torch)_\w+(?=\s*\()", declared))
    assert undefined_symbols().keys() - names == set()


def test_what_only_a_torch_with_cuda_has_is_looked_up_weakly():
    assert {name for name, kind in undefined_symbols().items() if kind == "w"} <= {"aoti_torch_get_current_cuda_stream"}


def test_no_folder_of_the_build_machine_is_searched_at_run_time():
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf (binutils)")
    dynamic = subprocess.run(["readelf", "-d", LIBRARY], check=True, capture_output=True, text=True).stdout
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic
