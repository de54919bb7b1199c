"""Compiles every CUDA kernel for every architecture, without a GPU: `make cuda-check`.

check_cuda.py nvcc     the library with all kernels ahead of time; a table of what ptxas says, and of how many threads
                       that leaves room for on a multiprocessor; fails where a memory-bound kernel spills, where one
                       that takes whole packs does not read 16 bytes at a time, or an instruction's rounding is
                       unproven; then that library on the CPU
check_cuda.py nvrtc    all kernels that the library compiles just in time, by NVRTC, those that share their headers by
                       turns for one architecture and the next; some as a user's machine does
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from occupancy import occupancy

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = (80, 90, 100, 120)
NATIVE = ROOT / "build" / "native"  # of `make native`
AHEAD = ROOT / "build" / "ahead-of-time"
KEPT = AHEAD / "kept"  # of nvcc's steps
# Their time goes into arithmetic on register tiles; all other kernels are bound by memory, where a spill is traffic.
COMPUTE_BOUND = re.compile(r"\btile_product_kernel\b")
# Float32 kernels that read whole packs, those whose bandwidth is a target among them: compiled just in time as on a
# user's machine, too.
AS_LAUNCHED = re.compile(r"_kernel<float\b.*true>$")
AS_LAUNCHED_ON = 90
# What the proof of docs/rounding.md leaves out: flushing to zero, approximations, sums of floating-point numbers in the
# order of arrival. float64 division and powers start from an approximation that they then correct.
UNPROVEN = re.compile(
    r"(?<![.\w])(?!rcp\.approx\.ftz\.f64\b)[a-z0-9]+(?:\.\w+)*\.(?:ftz|approx|full)\b[.\w]*|\b(?:atom|red)\.[.\w]*\.f\d+"
)
# A kernel whose body names dynamic shared memory.
WITH_DYNAMIC_SHARED = re.compile(
    r"LBP_KERNEL void (?:LBP_LAUNCH_BOUNDS\([^()]*\)\s*)?(\w+)\((?:(?!LBP_KERNEL).)*?LBP_DYNAMIC_SHARED", re.DOTALL
)
LIST_DYNAMIC_SHARED = """
#include <cstdio>
#include "cuda/dynamic_shared.h"
int main() {
  for (const auto& most : lbp::cuda::kMostDynamicShared) std::printf("%s\\t%zu\\n", most.kernel, most.bytes);
}
"""
# Those whose first flag says that they read whole packs.
IN_PACKS = re.compile(r"_kernel<float, (?!false).*true>$")
# A kernel in PTX, and accesses of 16 bytes in it.
ENTRY = re.compile(r"^\.visible \.entry (\w+)\(.*?^\}$", re.MULTILINE | re.DOTALL)
WHOLE_PACK = re.compile(r"\bld\.global[.\w]*\.(?:v4\.\w32|v2\.\w64)\b")
WORKERS = max(2, (os.cpu_count() or 2) // 2)


class Usage(NamedTuple):
    """What ptxas says of a kernel on one architecture."""

    registers: int
    shared_bytes: int
    local_bytes: int  # spilled, or arrays that registers cannot hold


def find_nvcc() -> Path:
    """Return nvcc: of the machine, else of the wheels in this environment."""
    found = shutil.which("nvcc")
    packed = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "bin", "nvcc")
    if found is None and not packed.exists():
        sys.exit("nvcc is missing: `pip install -r constraints-nvcc.txt` installs it")
    return Path(found) if found else packed


def build_library() -> str:
    """Build the library with kernels for all architectures in a package of its own; return what ptxas says.

    What the host's compiler makes of csrc/torch and csrc/cpu is the same in every library, and there already.
    """
    nvcc = find_nvcc()
    settings = {
        "LBP_CUDA": "ON",
        "LBP_HOST_OBJECTS": NATIVE / "host_objects",
        "LBP_OUTPUT_DIR": AHEAD / "lbp",
        "CMAKE_CUDA_COMPILER": nvcc,
        "Python_EXECUTABLE": sys.executable,
    }
    shutil.rmtree(AHEAD, ignore_errors=True)
    KEPT.mkdir(parents=True)
    # Where the libraries of a wheel's nvcc are, which looks for them elsewhere.
    libraries = [str(nvcc.parents[1] / "lib"), *filter(None, [os.environ.get("LIBRARY_PATH")])]
    configuring = os.environ | {"LIBRARY_PATH": os.pathsep.join(libraries)}
    # Not among the settings, where they would be for the trials of nvcc, too.
    building = configuring | {"NVCC_APPEND_FLAGS": f"-Xptxas=-v --keep --keep-dir={KEPT}"}
    folder, log = AHEAD / "build", ""
    options = [f"-D{name}={value}" for name, value in settings.items()]
    for command, variables in (
        (["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *options], configuring),
        (["cmake", "--build", folder], building),
    ):
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=variables
        )
        log = result.stdout
        if result.returncode != 0:
            sys.exit(f"The library with CUDA kernels ahead of time does not build:\n{log}")
    return log


def check_instructions() -> None:
    """Fail where the PTX that `build_library` kept has instructions that the proof of bounds does not know."""
    programs = sorted(KEPT.glob("*.ptx"))
    for program in programs:
        unproven = sorted(set(UNPROVEN.findall(program.read_text())))
        if unproven:
            sys.exit(
                f"{program.stem}.cu has instructions whose rounding docs/rounding.md does not cover: "
                f"{', '.join(unproven)}"
            )
        check_accesses(program.read_text())
    if len(programs) < len(list((ROOT / "csrc" / "cuda").glob("*.cu"))):
        sys.exit(f"nvcc kept the PTX of {', '.join(program.stem for program in programs)} only")


def check_accesses(program: str) -> None:
    """Fail where a kernel of float32 that is launched for whole packs reads none at once."""
    kernels = {entry[1]: entry[0] for entry in ENTRY.finditer(program)}
    if len(kernels) != program.count(".entry "):
        sys.exit(f"of {program.count('.entry ')} kernels in a program of PTX, {len(kernels)} were recognised")
    for name, text in zip(demangled(list(kernels)), kernels.values(), strict=True):
        if IN_PACKS.search(name) and not WHOLE_PACK.search(text):
            sys.exit(f"{name} reads nothing by 16 bytes at a time")


def check_library() -> None:
    """Use the library that `build_library` made in a process that sees no GPU."""
    shutil.copytree(
        ROOT / "lbp", AHEAD / "lbp", ignore=shutil.ignore_patterns("*.so", "__pycache__"), dirs_exist_ok=True
    )
    environment = os.environ | {"PYTHONPATH": str(AHEAD), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, ROOT / ".ci" / "check_on_cpu.py", AHEAD], cwd=AHEAD, env=environment, check=True)


def usages(report: str) -> Iterator[tuple[str, int, Usage]]:
    """Yield the kernels, by mangled names, and their architectures, of what ptxas says."""
    for part in report.split("Compiling entry function ")[1:]:
        _, name, _, architecture, *_ = part.split("'")
        # Spills lie in the stack frame.
        local = int(re.search(r"(\d+) bytes stack frame", part)[1])
        registers = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        yield (
            name,
            int(architecture.removeprefix("sm_")),
            Usage(int(registers[1]) if registers else 0, int(shared[1]) if shared else 0, local),
        )


def threads_of_blocks(program: str) -> dict[str, int]:
    """Return the threads of a block of every kernel, by mangled name, in a program of PTX."""
    bounds = {entry[1]: re.search(r"^\.maxntid (\d+)", entry[0], re.MULTILINE) for entry in ENTRY.finditer(program)}
    return {name: int(bound[1]) for name, bound in bounds.items() if bound}


def most_dynamic_shared() -> dict[str, int]:
    """Return how many bytes of dynamic shared memory launches ask for at most, by how the names of kernels begin.

    csrc/cuda/dynamic_shared.h says so; fails where it does not name the kernels that have any.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "list")
        options = ["-std=c++17", "-w", "-DLBP_CUDA_JIT=1", f"-I{ROOT / 'csrc'}", "-x", "c++", "-", "-o", program]
        compiler = shlex.split(os.environ.get("CXX", "c++"))
        subprocess.run([*compiler, *options], input=LIST_DYNAMIC_SHARED, text=True, check=True)
        listing = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    most = {name: int(size) for name, size in (line.split("\t") for line in listing.splitlines())}
    sources = "".join(path.read_text() for path in sorted((ROOT / "csrc" / "cuda" / "kernels").glob("*.cuh")))
    having = set(WITH_DYNAMIC_SHARED.findall(sources))
    if having != {name.partition("<")[0] for name in most}:
        sys.exit(f"dynamic_shared.h names other kernels than those that have dynamic shared memory: {sorted(having)}")
    return most


def occupancies(architecture: int, threads: int, usage: Usage, dynamic: int) -> str:
    """Return what share of a multiprocessor's threads can be there, with the most dynamic shared memory and with none.

    Args:
        architecture: compute capability, 90 for 9.0.
        threads: of a block.
        usage: of the kernel.
        dynamic: bytes that a launch asks for at most.
    """
    least, most = (
        f"{100 * occupancy(architecture, threads, usage.registers, usage.shared_bytes + more):.0f}"
        for more in (dynamic, 0)
    )
    return f"{most} %" if least == most else f"{least} to {most} %"


def demangled(names: list[str]) -> list[str]:
    """Return the names as C++ writes them, without return type, parameters and namespace."""
    listing = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return [
        re.sub(r"\(lbp::[^()]*\)$|^void ", "", re.sub(r"^void ", "", line)).replace("lbp::cuda::", "")
        for line in listing.splitlines()
    ]


def check_nvcc() -> None:
    """Build the library, print the table, fail on spills, and use the library."""
    started, most_dynamic = time.monotonic(), most_dynamic_shared()
    table: dict[str, dict[int, Usage]] = defaultdict(dict)
    for name, architecture, usage in usages(build_library()):
        table[name][architecture] = usage
    if any(tuple(sorted(row)) != ARCHITECTURES for row in table.values()) or not table:
        sys.exit(f"not every kernel was compiled for {ARCHITECTURES}, as cmake/Cuda.cmake has them")
    check_instructions()
    threads_of: dict[str, int] = {}
    for program in KEPT.glob("*.ptx"):
        threads_of |= threads_of_blocks(program.read_text())
    print(
        "threads per block; bytes of dynamic shared memory per block, at most; by architecture registers per thread / "
        "bytes of static shared memory per block, bytes of local memory (*: spills and stack), and how much of a "
        "multiprocessor's threads its blocks can fill: with the most dynamic shared memory, and with none\n"
    )
    print("| kernel | threads | dynamic |" + "".join(f" sm_{architecture} |" for architecture in ARCHITECTURES))
    print("| --- | ---: | ---: |" + " ---: |" * len(ARCHITECTURES))
    spilling = []
    for name, symbol in sorted(zip(demangled(list(table)), table, strict=True)):
        row, threads = table[symbol], threads_of[symbol]
        dynamic = next((size for begin, size in most_dynamic.items() if name.startswith(begin)), 0)
        cells = [f" {threads} | {dynamic} |"]
        for architecture in ARCHITECTURES:
            usage = row[architecture]
            spill = f" *{usage.local_bytes}" if usage.local_bytes else ""
            filled = occupancies(architecture, threads, usage, dynamic)
            cells.append(f" {usage.registers} / {usage.shared_bytes}{spill}, {filled} |")
            if usage.local_bytes and not COMPUTE_BOUND.search(name):
                spilling.append(f"{name} on sm_{architecture}: {usage.local_bytes} bytes")
        print(f"| {name} |" + "".join(cells))
    print(f"\n{len(table)} kernels, {time.monotonic() - started:.0f} s")
    if spilling:
        sys.exit("Memory-bound kernels spill registers:\n" + "\n".join(spilling))
    check_library()


def check_nvrtc() -> None:
    """Compile all kernels that the library names, grouped by the headers that they need."""
    from lbp import _jit, _native

    if _native.jit is None:
        sys.exit(f"this build compiles nothing just in time ({_native.cuda_build}): build with LBP_CUDA=JIT")
    started, groups = time.monotonic(), defaultdict(list)
    kernels = _native.jit.kernels()
    for kernel in kernels:
        groups[tuple(_jit.headers_of(kernel))].append(kernel)
    # The sources are the same for all of these architectures, and nvcc compiles every kernel for each.
    jobs = [
        (group[number :: len(ARCHITECTURES)] or group[:1], architecture)
        for group in groups.values()
        for number, architecture in enumerate(ARCHITECTURES)
    ]
    with ThreadPoolExecutor(WORKERS) as pool:
        # What optimised machine code takes is what `check_nvcc` shows; here the question is what NVRTC accepts.
        list(pool.map(lambda job: _jit.compile_kernels(*job, "--Ofast-compile=max"), jobs))
        accepted = time.monotonic() - started
        launched = [kernel for kernel in kernels if AS_LAUNCHED.search(kernel)]
        list(pool.map(lambda kernel: _jit.compile_kernel(kernel, AS_LAUNCHED_ON), launched))
    names = ", ".join(f"sm_{architecture}" for architecture in ARCHITECTURES)
    print(
        f"NVRTC {_jit.nvrtc_version()} compiled {len(kernels)} kernels, "
        f"and every header for {names}, in {accepted:.0f} s"
    )
    alone = time.monotonic() - started - accepted
    print(f"and {len(launched)} of them optimised, as when launched, for sm_{AS_LAUNCHED_ON} in {alone:.0f} s")


if __name__ == "__main__":
    {"nvcc": check_nvcc, "nvrtc": check_nvrtc}[sys.argv[1]]()
