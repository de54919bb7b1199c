"""Builds the native library with CMake and packs it; everything else stands in pyproject.toml and CMakeLists.txt."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools

if int(setuptools.__version__.split(".")[0]) < 77:
    sys.exit(
        f"setuptools {setuptools.__version__} is too old: building lbp needs setuptools>=77. Install it with "
        f"`{sys.executable} -m pip install --upgrade 'setuptools>=77'`."
    )

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
LIBRARY = Path("lbp", "liblbp.so")
# Kept between builds, so that pip compiles only what has changed.
BUILD_FOLDER = ROOT / "build" / "native"
# What NVRTC compiles where the library was built without nvcc: the wheel has it as lbp/csrc.
KERNEL_SOURCES = ("csrc/*.h", "csrc/math/*.h", "csrc/cuda/*.cuh", "csrc/cuda/kernels/*.cuh")


def search_path() -> str:
    """Return PATH with the interpreter's own scripts first: a virtual environment need not be active to be used."""
    return os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])


def find_tool(name: str) -> str:
    """Return the path of a build tool that PyPI has, or exit with a sentence that says how to install it."""
    found = shutil.which(name, path=search_path())
    if found is None:
        sys.exit(f"{name} is missing: building lbp needs it. Install it with `{sys.executable} -m pip install {name}`.")
    return found


def check_compiler() -> None:
    """Exit with a sentence that says what to install if there is no C++ compiler."""
    chosen = os.environ.get("CXX")
    candidates = [shlex.split(chosen)[0]] if chosen else ["c++", "g++", "clang++"]
    if not any(shutil.which(name, path=search_path()) for name in candidates):
        where = f"CXX={chosen} is not on PATH" if chosen else f"none of {', '.join(candidates)} is on PATH"
        sys.exit(
            f"A C++17 compiler is missing: {where}. Install one, for example with `apt-get install g++` "
            "or `dnf install gcc-c++`, or name yours by the environment variable CXX."
        )


def check_torch() -> None:
    """Exit with a sentence that says what to install if this Python has no torch."""
    if importlib.util.find_spec("torch") is None:
        sys.exit(
            f"PyTorch is missing: building lbp needs its headers and libraries. Install it with "
            f"`{sys.executable} -m pip install 'torch>=2.11'`; if it is installed, add --no-build-isolation to pip's "
            "command, so that the build sees it."
        )


def build_library() -> Path:
    """Build the native library where `import lbp` from the source tree finds it, and return its path.

    The environment variables ``LBP_CUDA`` (AUTO, ON, JIT, OFF) and ``LBP_CUDA_ARCHITECTURES`` say which CUDA kernels to
    build (cmake/Cuda.cmake), ``CMAKE_ARGS`` adds options to the configuration.
    """
    if not sys.platform.startswith("linux"):
        sys.exit(f"lbp builds on Linux only, and this is {sys.platform}.")
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    check_compiler()
    check_torch()
    environment = os.environ | {"PATH": search_path()}
    configure = [cmake, "-S", str(ROOT), "-B", str(BUILD_FOLDER), "-G", "Ninja"]
    options = [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"]
    for setting in ("LBP_CUDA", "LBP_CUDA_ARCHITECTURES"):
        value = os.environ.get(setting)
        # Without a value what an earlier build was told is forgotten.
        options.append(f"-D{setting}={value}" if value else f"-U{setting}")
    options += shlex.split(os.environ.get("CMAKE_ARGS", ""))
    for command in (configure + options, [cmake, "--build", str(BUILD_FOLDER)]):
        status = subprocess.run(command, env=environment, check=False).returncode
        if status != 0:
            sys.exit(f"Building lbp's native library failed; the reason stands above. Command: {shlex.join(command)}")
    return ROOT / LIBRARY


class BuildLibrary(build_ext):
    """Hands the extension over to CMake."""

    def build_extension(self, ext: Extension) -> None:
        """Build the library and put a copy into the folder that becomes the wheel."""
        library = build_library()
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(library), str(target))
        # The library refuses kernels of other sources than its own, which an earlier build may have left.
        shutil.rmtree(target.parent / "csrc", ignore_errors=True)
        for source in (path for pattern in KERNEL_SOURCES for path in ROOT.glob(pattern)):
            copy = target.parent / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(source), str(copy))

    def get_ext_filename(self, fullname: str) -> str:
        """Return the library's path, without the tag of a Python version that an extension module has."""
        return fullname.replace(".", "/") + ".so"

    def copy_extensions_to_source(self) -> None:
        """Do nothing for an editable install: CMake has put the library into the source tree already."""


class PlatformWheel(bdist_wheel):
    """Tags the wheel for every Python 3 of this platform: the library holds no Python symbol."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return py3-none-<platform>."""
        return "py3", "none", super().get_tag()[2]


if __name__ == "__main__":
    setup(
        ext_modules=[Extension("lbp.liblbp", sources=[])],
        cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
    )
