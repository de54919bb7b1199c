"""The stages of benchmarks/gpu_record.sh: their commands, their limits, and which of them run side by side.

benchmarks/gpu_record.py says what each is for, runs them and keeps the record.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "gpu_record"
RECORDS = LOGS / "records"
JIT = ROOT / "build" / "jit"
INTERRUPTED_S = 5  # that a stage has to say what it knows
# What `lbp bench` takes besides the cases that it begins: to start, and to end the last one. Where it compiles, or some
# contenders run into their limits, one case takes longer.
BESIDES_S, BESIDES_LONG_CASES_S = 30, 120
# What a stage that has no time of its own needs beside that, to be worth its start.
LEAST_S = 30
# What compute-sanitizer watches: a call of every op, forward and backward, and sizes that cut the work in other ways.
WATCHED = (
    *("-q", "-rsf", "tests/gpu/test_every_op.py", "tests/gpu/test_sizes.py", "tests/gpu/test_outward_intervals.py"),
    *("-k", "(reference or test_sizes) and not 140000"),
)
# Beside the other stages a process takes longer to start than the ten seconds that compute-sanitizer waits by default,
# after which it watches nothing.
SANITIZER_WAITS_S = 120
# Few enough kernels to be compiled one after the other.
FEW_KERNELS = "values_and_gradients and dtype0 and (ramp or relax_backward-dtype0 or interval_linear)"
JUST_IN_TIME = ("-q", "-rsf", "tests/gpu/test_every_op.py", "-k", FEW_KERNELS)
# Parts of the names of the ops that are measured: those whose bandwidth is a target (`lbp bench` begins with the sizes
# that fill a GPU), the fused back-substitution, and the intervals whose alternative is two products of the library.
MEASURED = ("ramp", "bounding_lines", "relax_backward", "relax_forward", "concretize", "interval_")

# One phase after the other; the chains of a phase run side by side, the stages of a chain in turn.
PHASES: Sequence[Sequence[Sequence[str]]] = (
    (("build",),),
    (("test",), ("test-cases",), ("memcheck",), ("racecheck",), ("synccheck",), ("jit-build", "jit-test")),
    # Few cases first, and those whose other contenders take long after those whose do not.
    (("methods",),),
    (("training",),),
    (("methods-one-image",),),
    (("growth",),),
    (("benchmark",),),
    # In what time is left.
    (("full-ops",),),
    (("full-methods",),),
    (("full-training",),),
    (("full-compiled",),),
)
# Whatever plugins the Python has: they warn, which tests take for errors. Lines are so wide that reasons have room.
WITHOUT_PLUGINS = MappingProxyType({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "2", "COLUMNS": "200"})


class Stage(NamedTuple):
    """A step of the record: a command, the seconds it may take, and the environment that it adds."""

    name: str
    limit_s: int  # 0 where it takes what others leave
    command: list[str]
    environment: Mapping[str, str] = MappingProxyType({})
    folder: Path = ROOT
    prepare: Callable[[], str | None] = lambda: None  # returns why the stage cannot run, or None
    record: str | None = None  # of `lbp bench`, to which it adds
    besides_s: int = BESIDES_S  # of a measurement, that remain after its last case has begun

    @property
    def least_s(self) -> int:
        """Seconds with less than which it is not begun."""
        return 0 if self.limit_s > 0 else self.besides_s + LEAST_S


def python(*arguments: str) -> list[str]:
    """Return a command of the Python that runs this script."""
    return [sys.executable, *arguments]


def side_by_side() -> list[str]:
    """Return the options by which pytest uses a few processors, where it can: each process has a CUDA context."""
    if importlib.util.find_spec("xdist") is None:
        return []
    return ["-p", "xdist", "-n", str(max(1, min(6, (os.cpu_count() or 2) // 2)))]


def sanitizer(tool: str) -> tuple[list[str], dict[str, str], Path, Callable[[], str | None]]:
    """Return the rest of the stage in which a tool of compute-sanitizer watches the kernels."""

    def missing() -> str | None:
        return None if shutil.which("compute-sanitizer") else "compute-sanitizer is not on PATH"

    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--target-processes", "application-only"]
    command += ["--launch-timeout", str(SANITIZER_WAITS_S)]
    # Without torch's cache an access beyond a tensor is one beyond an allocation.
    environment = dict(WITHOUT_PLUGINS) | ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if tool == "memcheck" else {})
    return [*command, *python("-m", "pytest", *WATCHED)], environment, ROOT, missing


def copy_for_jit() -> str | None:
    """Copy the package, so that the library that compiles just in time does not replace the one of the tree.

    What was built there before stays: a build that was interrupted goes on.
    """
    for folder in ("lbp", "tests", "csrc", "cmake"):
        shutil.rmtree(JIT / folder, ignore_errors=True)
        shutil.copytree(ROOT / folder, JIT / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("CMakeLists.txt", "pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, JIT)
    return None if importlib.util.find_spec("cupy_backends") else "CuPy is missing"


def stages(device: str, capability: str) -> list[Stage]:
    """Return all stages in their order; see PHASES.

    Args:
        device: begins the names of the records.
        capability: of the device, as "9.0".
    """
    ahead = {"LBP_CUDA": "ON", "LBP_CUDA_ARCHITECTURES": capability.replace(".", "")}
    just_in_time = {"LBP_CUDA": "JIT", "LBP_CACHE_DIR": str(JIT / "cache")}
    ops = [part for name in MEASURED for part in ("--only", name)]

    def bench(name: str, limit_s: int, of: str, level: str, *options: str, besides_s: int = BESIDES_S) -> Stage:
        record = f"{device}-{of}.json"
        command = python("-m", "lbp", "bench", level, "--device", "cuda", *options, "--output", str(RECORDS / record))
        return Stage(name, limit_s, command, {"COLUMNS": "160"}, record=record, besides_s=besides_s)

    tests = python("-m", "pytest", "-m", "gpu", "-q", "-rsf", "--tb=short")
    # Many, so that they have processes of their own.
    cases = ["tests/gpu/test_cpu_cases.py", "tests/gpu/test_compile.py"]
    others = [*tests, *side_by_side(), "tests/gpu", *(f"--ignore={path}" for path in cases)]
    # Who compiles, or keeps rows as matrices, would take the time of the others.
    contenders = [part for name in ("native", "reference", "auto_LiRPA patches") for part in ("--contender", name)]
    few = ("--repeats", "5", "--time-limit", "5")
    in_time = (*contenders, *few)
    long = BESIDES_LONG_CASES_S

    def only(*names: str) -> list[str]:
        return [part for name in names for part in ("--only", name)]

    networks = ("DM-Large", "DM-Medium", "CNN-7+BN")
    many = ("--batch", "32", "--batch", "256", *only(*networks, "CROWN-IBP", "IBP"))
    one = ("--batch", "1", *only(*networks, "LBP", "CROWN-LBP", "CROWN"))
    return [
        Stage("build", 80, python("setup.py", "build_ext", "--inplace"), ahead),
        Stage("test", 160, others, WITHOUT_PLUGINS),
        Stage("test-cases", 160, [*tests, *side_by_side(), *cases], WITHOUT_PLUGINS),
        Stage("memcheck", 160, *sanitizer("memcheck")),
        Stage("racecheck", 160, *sanitizer("racecheck")),
        Stage("synccheck", 160, *sanitizer("synccheck")),
        Stage("jit-build", 80, python("setup.py", "build_ext", "--inplace"), just_in_time, JIT, copy_for_jit),
        Stage("jit-test", 80, python("-m", "pytest", *JUST_IN_TIME), {**just_in_time, **WITHOUT_PLUGINS}, JIT),
        bench("methods", 80, "methods", "methods", *in_time, *many),
        bench("training", 60, "methods", "training", *in_time, "--batch", "128", *only(*networks, "DM-Small")),
        bench("methods-one-image", 45, "methods", "methods", *in_time, *one),
        bench("growth", 35, "growth", "growth", *few),
        bench("benchmark", 70, "bench", "ops", "--no-compiled", "--repeats", "5", *ops),
        bench("full-ops", 0, "bench", "ops", "--no-compiled", "--repeats", "5"),
        bench("full-methods", 0, "methods", "methods", *few, besides_s=long),
        bench("full-training", 0, "methods", "training", *few, besides_s=long),
        bench("full-compiled", 0, "bench", "ops", "--repeats", "5", besides_s=long),
    ]


def is_named(stage: Stage, name: str) -> bool:
    """Say whether a name stands for a stage: test for test-cases, too."""
    return stage.name == name or stage.name.startswith(f"{name}-")


def phases_of(chosen: Mapping[str, Stage]) -> list[list[list[Stage]]]:
    """Return the phases with the chains of what was chosen."""
    phases = ([[chosen[name] for name in chain if name in chosen] for chain in phase] for phase in PHASES)
    return [kept for phase in phases if (kept := [chain for chain in phase if chain])]


def seconds_of(phase: Iterable[Iterable[Stage]]) -> float:
    """Return how long a phase may take: as long as its longest chain."""
    return max(sum(stage.limit_s + INTERRUPTED_S for stage in chain if stage.limit_s > 0) for chain in phase)


def unbuilt() -> set[str]:
    """Return the stages whose library is not there, on another machine say, or has no kernels for devices."""
    libraries = {"build": [*(ROOT / "lbp").glob("liblbp*.so")], "jit-build": [*(JIT / "lbp").glob("liblbp*.so")]}
    ahead = any(SECTION_OF_KERNELS in path.read_bytes() for path in libraries["build"])
    return {name for name, found in libraries.items() if not found} | (set() if ahead else {"build"})


# Of a library whose kernels nvcc compiled.
SECTION_OF_KERNELS = b".nv_fatbin"
