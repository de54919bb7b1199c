"""CUDA kernels compiled just in time: what a library that was built without nvcc has NVRTC do, through CuPy.

The library (csrc/cuda/compiled_kernel.h) asks for a kernel by its C++ name on that kernel's first launch on a device.
The sources are those that nvcc would have compiled, with the same rules for floating point. Machine code is kept in a
folder (`cache_folder`), so that a later process does not compile again.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lbp.errors import OutputError
from lbp.files import write_atomically

OPTIONS = (
    "--std=c++17",
    "--fmad=false",  # as in cmake/Cuda.cmake: no operation is fused unless the code says so
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
    "--device-as-default-execution-space",
)
# "LBP_KERNEL void LBP_LAUNCH_BOUNDS(256, 2) some_kernel(" and "struct SomeProduct {"
_DEFINED = re.compile(
    r"(?:\bLBP_KERNEL\s+void\s+(?:LBP_LAUNCH_BOUNDS\([^()]*\)\s*)?|\b(?:struct|class|enum)\s+(?=\w+\s*[{:]))(\w+)"
)
_CompilerFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int)


class CompileError(RuntimeError):
    """A kernel cannot be compiled just in time."""


class MachineCode(NamedTuple):
    """A compiled kernel: the symbol of its function, and the image that the driver loads."""

    symbol: str
    image: bytes


def sources() -> Path:
    """Return the folder of the kernels' sources: lbp/csrc of a wheel, csrc of a source tree."""
    packed = Path(__file__).with_name("csrc")
    return packed if packed.is_dir() else Path(__file__).parents[1] / "csrc"


def cache_folder() -> Path | None:
    """Return where machine code is kept: ``LBP_CACHE_DIR``, or lbp in the user's folder of caches.

    None where neither is named and the user has no home, as in some containers.
    """
    chosen = os.environ.get("LBP_CACHE_DIR")
    if chosen:
        return Path(chosen)
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return caches / "lbp"


def nvrtc_version() -> str:
    """Return the version of NVRTC, as "13.0".

    Raises:
        CompileError: CuPy or its NVRTC is missing.
    """
    return ".".join(map(str, _nvrtc().getVersion()))


class Jit:
    """The library's end of compiling just in time.

    Args:
        library: path of the loaded library, which must have been built for it.
    """

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.lbp_jit_kernel.restype = ctypes.c_char_p
        self._library.lbp_jit_kernel.argtypes = [ctypes.c_size_t]
        self._library.lbp_jit_refuse.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._library.lbp_jit_answer.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p]
        self.built_from = self._built_from()
        self._compiler = _CompilerFunction(self._answer)  # kept alive as long as the library may call it
        self._library.lbp_jit_set_compiler(self._compiler)

    def kernels(self) -> list[str]:
        """Return the names of all kernels that the library may launch, sorted."""

        def names() -> Iterator[str]:
            number = 0
            while (name := self._library.lbp_jit_kernel(number)) is not None:
                yield name.decode()
                number += 1

        return sorted(names())

    def _built_from(self) -> str:
        """Return the `sources_digest` of what the library was built from; "unknown" of one that does not say."""
        try:
            named = self._library.lbp_jit_sources
        except AttributeError:
            return "unknown"
        named.restype = ctypes.c_char_p
        digest: str = named().decode()
        return digest

    def _answer(self, request: int, kernel: bytes, major: int, minor: int) -> None:
        try:
            check_sources(self.built_from)
            code = compiled(kernel.decode(), 10 * major + minor)
        except Exception as error:  # the library turns it into the exception of the op
            self._library.lbp_jit_refuse(request, str(error).encode() or b"compiling failed without a reason")
        else:
            self._library.lbp_jit_answer(request, code.image, len(code.image), code.symbol.encode())


def check_sources(built_from: str) -> None:
    """Check that kernels are compiled from what their launchers were built from.

    A kernel of other sources may read its arguments elsewhere, or share the work otherwise, than its launcher has it.

    Args:
        built_from: the `sources_digest` of the library.

    Raises:
        CompileError: the sources are others.
    """
    if sources_digest() != built_from:
        raise CompileError(
            f"the kernels in {sources()} are not those that the library was built from, as after an update of one of "
            "the two: rebuild or reinstall lbp, and start again"
        )


def compiled(kernel: str, architecture: int) -> MachineCode:
    """Return the machine code of a kernel, from the cache where it is there and whole.

    Args:
        kernel: a C++ name, as `Jit.kernels` returns it.
        architecture: compute capability of the device, 90 for 9.0.

    Raises:
        CompileError: CuPy is missing, the sources are not there, or NVRTC reports an error.
    """
    folder = cache_folder()
    if folder is None:
        _warn_of_no_cache("at all: the user has no home")
        return compile_kernel(kernel, architecture)
    path = folder / f"{_key(kernel, architecture)}.kernel"
    code = _kept(path)
    if code is None:
        code = compile_kernel(kernel, architecture)
        _keep(path, code)
    return code


def compile_kernel(kernel: str, architecture: int) -> MachineCode:
    """Compile a kernel by NVRTC; see `compiled`."""
    symbols, image = compile_kernels([kernel], architecture)
    return MachineCode(symbols[kernel], image)


def compile_kernels(kernels: Sequence[str], architecture: int, *options: str) -> tuple[dict[str, str], bytes]:
    """Compile kernels as one program.

    A device that is newer than NVRTC gets PTX of the newest architecture that NVRTC has, which the driver compiles.

    Args:
        kernels: C++ names, as `Jit.kernels` returns them.
        architecture: compute capability of the device, 90 for 9.0.
        options: more options for NVRTC.

    Returns:
        The symbol of each kernel, and the image that the driver loads.

    Raises:
        CompileError: see `compiled`.
    """
    nvrtc = _nvrtc()
    known = [supported for supported in nvrtc.getSupportedArchs() if supported <= architecture]
    if not known:
        raise CompileError(f"NVRTC {nvrtc_version()} does not compile for sm_{architecture}: the device is too old")
    target = f"sm_{architecture}" if architecture in known else f"compute_{max(known)}"
    headers = sorted({header for kernel in kernels for header in headers_of(kernel)})
    # The host compiler's names leave out the namespace that a type shares with the kernel.
    source = (
        "".join(f'#include "{header}"\n' for header in headers) + "using namespace lbp;\nusing namespace lbp::cuda;\n"
    )
    program = nvrtc.createProgram(source, "lbp.cu", (), ())
    try:
        for kernel in kernels:
            nvrtc.addNameExpression(program, kernel)
        nvrtc.compileProgram(program, (f"--gpu-architecture={target}", f"-I{sources()}", *OPTIONS, *options))
        image = nvrtc.getCUBIN(program) if target.startswith("sm") else nvrtc.getPTX(program).encode()
        return {kernel: nvrtc.getLoweredName(program, kernel) for kernel in kernels}, image
    except nvrtc.NVRTCError as error:
        raise CompileError(
            f"{', '.join(kernels)} does not compile for {target}: {error}\n{nvrtc.getProgramLog(program)}"
        ) from error
    finally:
        nvrtc.destroyProgram(program)


def headers_of(kernel: str) -> list[str]:
    """Return the headers, relative to `sources`, that define a kernel and the types in its name.

    Raises:
        CompileError: none defines the kernel.
    """
    defined = _headers()
    function = kernel.partition("<")[0].rpartition("::")[2]
    if function not in defined:
        raise CompileError(f"no header in {sources() / 'cuda' / 'kernels'} defines {function}: reinstall lbp")
    return sorted({defined[name] for name in re.findall(r"\w+", kernel) if name in defined})


@cache
def _headers() -> dict[str, str]:
    """Kernel's function, or type that kernels have as a template argument -> header that defines it."""
    root = sources()
    return {
        name: path.relative_to(root).as_posix()
        for path in sorted(root.glob("cuda/kernels/*.cuh"))
        for name in _DEFINED.findall(path.read_text())
    }


def sources_digest() -> str:
    """Return a digest of what kernels are compiled from, as cmake/KernelSources.cmake computes it.

    It takes 2 ms, and sources may change while a process runs.
    """
    root = sources()
    patterns = ("*.h", "math/*.h", "cuda/**/*.cuh")
    names = sorted(path.relative_to(root).as_posix() for pattern in patterns for path in root.glob(pattern))
    listing = "".join(f"{_digest((root / name).read_bytes()).decode()}  {name}\n" for name in names)
    return _digest(listing.encode()).decode()


def _key(kernel: str, architecture: int) -> str:
    parts = (sources_digest(), kernel, str(architecture), nvrtc_version(), *OPTIONS)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _kept(path: Path) -> MachineCode | None:
    """Read a file of the cache; None where there is none that is whole."""
    try:
        digest, content = path.read_bytes().split(b"\n", 1)
        symbol, image = content.split(b"\n", 1)
    except (OSError, ValueError):
        return None
    return MachineCode(symbol.decode(), image) if digest == _digest(content) else None


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _keep(path: Path, code: MachineCode) -> None:
    """Write to the cache so that no process ever reads half a file; say so where it cannot be written."""
    content = code.symbol.encode() + b"\n" + code.image
    try:
        write_atomically(path, _digest(content) + b"\n" + content)
    except OutputError as error:
        _warn_of_no_cache(f"in {path.parent}: {error}")


def _warn_of_no_cache(why: str) -> None:
    warnings.warn(
        f"lbp: compiled kernels cannot be kept {why}; so every process compiles them again; name a folder by "
        "LBP_CACHE_DIR",
        stacklevel=3,
    )


@cache
def _nvrtc() -> Any:
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except Exception as error:  # CuPy raises what the dynamic linker says, of several types
        raise CompileError(
            f"NVRTC cannot be loaded through CuPy ({error}). This build of lbp compiles its CUDA kernels on first use: "
            "`pip install lbp[cupy]` installs what it takes; or rebuild lbp where nvcc is on PATH"
        ) from error
    return nvrtc
