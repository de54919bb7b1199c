"""What benchmarks/gpu_record.sh runs: stages with a time limit each, and a record that is kept after every one.

    benchmarks/gpu_record.sh             all stages
    benchmarks/gpu_record.sh build test  these
    benchmarks/gpu_record.sh --rest      those that the record of this commit and device lacks, or that have not passed;
                                         the benchmark measures what its own record lacks, and begins anew otherwise

A stage that fails, or runs past its limit, is recorded as such, and the next one runs. What earlier stages left of
their time, and the whole of TIME_S where few are named, is added to the limit. After TIME_S seconds in all a stage is
interrupted, or not begun: --rest goes on. Logs: build/gpu_record.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "gpu_record"
RESULTS = ROOT / "benchmarks" / "results"
JIT = ROOT / "build" / "jit"
NEEDED = (
    *("torch", "numpy", "pytest", "hypothesis", "matplotlib", "PIL", "typer", "rich", "pydantic", "safetensors"),
    "setuptools",
)
TOOLS = ("cmake", "ninja")
TIME_S = 570.0
INTERRUPTED_S = 5  # that a stage has to say what it knows
# What compute-sanitizer watches: a call of every op, forward and backward, and sizes that cut the work in other ways.
WATCHED = (
    *("-q", "-rf", "tests/gpu/test_every_op.py", "tests/gpu/test_sizes.py", "tests/gpu/test_outward_intervals.py"),
    *("-k", "(reference or test_sizes) and not 140000"),
)
# Few enough kernels to be compiled one after the other.
FEW_KERNELS = "values_and_gradients and dtype0 and (ramp or relax_backward-dtype0 or interval_linear)"
JUST_IN_TIME = ("-q", "-rf", "tests/gpu/test_every_op.py", "-k", FEW_KERNELS)
# Parts of the names of the ops that are measured: those whose bandwidth is a target (`lbp bench` begins with the sizes
# that fill a GPU), the fused back-substitution, and the intervals whose alternative is two products of the library.
MEASURED = ("ramp", "bounding_lines", "relax_backward", "relax_forward", "concretize", "interval_")


class Stage(NamedTuple):
    """A step of the record: a command, the seconds it may take, and the environment that it adds."""

    name: str
    limit_s: int
    command: list[str]
    environment: Mapping[str, str] = MappingProxyType({})
    folder: Path = ROOT
    prepare: Callable[[], str | None] = lambda: None  # returns why the stage cannot run, or None


def python(*arguments: str) -> list[str]:
    """Return a command of the Python that runs this script."""
    return [sys.executable, *arguments]


def sanitizer(tool: str) -> tuple[list[str], dict[str, str], Path, Callable[[], str | None]]:
    """Return the rest of the stage in which a tool of compute-sanitizer watches the kernels."""

    def missing() -> str | None:
        return None if shutil.which("compute-sanitizer") else "compute-sanitizer is not on PATH"

    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--target-processes", "application-only"]
    # Without torch's cache an access beyond a tensor is one beyond an allocation.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if tool == "memcheck" else {}
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


def stages(device: str, capability: str, *, continued: bool) -> list[Stage]:
    """Return all stages in their order, the most telling first; their limits add up to less than ten minutes.

    Args:
        device: begins the names of the records.
        capability: of the device, as "9.0".
        continued: whether the benchmark adds to the record of an earlier one of the same commit and machine.
    """
    ahead = {"LBP_CUDA": "ON", "LBP_CUDA_ARCHITECTURES": capability.replace(".", "")}
    just_in_time = {"LBP_CUDA": "JIT", "LBP_CACHE_DIR": str(JIT / "cache")}
    benchmark = ["bench", "ops", "--device", "cuda", "--no-compiled", "--output", str(RESULTS / f"{device}-ops.json")]
    for name in MEASURED:
        benchmark += ["--only", name]

    def start_afresh() -> None:
        if not continued:  # `lbp bench` refuses a record of another commit
            (RESULTS / f"{device}-ops.json").unlink(missing_ok=True)

    tests = python("-m", "pytest", "-m", "gpu", "-q", "-rf")
    # Last, as they take long and would show little alone.
    cases = ["tests/gpu/test_cpu_cases.py", "tests/gpu/test_compile.py"]
    return [
        Stage("build", 150, python("setup.py", "build_ext", "--inplace"), ahead),
        Stage("test", 110, [*tests, "tests/gpu", *(f"--ignore={path}" for path in cases)]),
        Stage("benchmark", 60, python("-m", "lbp", *benchmark), {"COLUMNS": "160"}, prepare=start_afresh),
        Stage("memcheck", 50, *sanitizer("memcheck")),
        Stage("test-cases", 60, [*tests, *cases]),
        Stage("racecheck", 40, *sanitizer("racecheck")),
        Stage("synccheck", 30, *sanitizer("synccheck")),
        Stage("jit-build", 40, python("setup.py", "build_ext", "--inplace"), just_in_time, JIT, copy_for_jit),
        Stage("jit-test", 40, python("-m", "pytest", *JUST_IN_TIME), just_in_time, JIT),
    ]


def run(stage: Stage, deadline: float, reserved: float) -> dict[str, Any]:
    """Run a stage, and return what is to be kept of it.

    Args:
        stage: to run.
        deadline: of `time.monotonic`, at which it has ended.
        reserved: seconds before that which it leaves to the stages after it, unless its own limit needs them.
    """
    started = time.monotonic()
    left = deadline - started - INTERRUPTED_S
    limit = min(left, max(stage.limit_s, left - reserved))
    entry: dict[str, Any] = {"stage": stage.name, "limit_s": round(limit), "command": command_text(stage)}
    reason = stage.prepare() if limit > 0 else "the time is up"
    if reason is not None:
        return entry | {"status": "not run", "reason": reason}
    log = LOGS / f"{stage.name}.log"
    environment = os.environ | stage.environment
    with log.open("w") as output:
        process = subprocess.Popen(
            stage.command,
            cwd=stage.folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # What a shell starts in the background ignores interrupts, and so would this script's processes.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            status = "passed" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "ran out of time"
            end(process)
    entry |= {"status": status, "seconds": round(time.monotonic() - started, 1), "exit": process.returncode}
    return entry | {"summary": summary(log.read_text(errors="replace"))}


def end(process: subprocess.Popen[bytes]) -> None:
    """End the processes of a stage: pytest answers an interrupt with what it has found so far."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(INTERRUPTED_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def command_text(stage: Stage) -> str:
    """Return the command as a reader of the record can repeat it: without this machine's paths."""
    settings = " ".join(f"{name}={value}" for name, value in stage.environment.items())
    text = " ".join([settings, *stage.command]).strip()
    return text.replace(sys.executable, "python3").replace(f"{ROOT}/", "")


def summary(log: str) -> list[str]:
    """Return the lines of a log that say how it went, else its last ones."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = r"^FAILED|^ERROR|\d+ passed|\d+ failed|ERROR SUMMARY|CUDA kernels|share of the copy's bandwidth"
    telling = [re.sub(" +", " ", line) for line in lines if re.search(said, line)]
    return [line.replace(f"{ROOT}/", "") for line in (telling[-40:] or lines[-5:])]


def facts() -> dict[str, Any]:
    """Return device, versions and commit."""
    import torch

    if not torch.cuda.is_available():
        sys.exit("no CUDA device is available to this Python's torch: this record is about one")
    properties = torch.cuda.get_device_properties(0)
    driver = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "-i", "0")
    nvcc = re.findall(r"V([\d.]+)", output_of("nvcc", "--version"))
    cupy = importlib.util.find_spec("cupy") is not None and output_of(
        *python("-c", "import cupy; print(cupy.__version__)")
    )
    return {
        "device": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "driver": driver,
        "nvcc": nvcc[0] if nvcc else None,
        "cupy": cupy or None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": output_of("git", "rev-parse", "HEAD") or carried_commit(),
        "changed_files": len(output_of("git", "status", "--porcelain", ".", ":!benchmarks/results").splitlines()),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def carried_commit() -> str:
    """Return the commit that `make carried` noted, for a tree that came without its history."""
    noted = ROOT / "build" / "carried" / "commit"
    return noted.read_text().strip() if noted.exists() else "unknown"


def output_of(*command: str) -> str:
    """Return what a command prints, or nothing where it cannot run."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def main() -> None:
    """Run the stages named on the command line, or all, and write the record after each."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    missing += [name for name in TOOLS if shutil.which(name) is None]
    if missing:
        sys.exit(
            f'{sys.executable} has no {", ".join(missing)}. `make carried CARRIED_ALSO="{" ".join(TOOLS)}"` fills '
            "build/carried with their wheels on a machine with a network; bring that folder here, and gpu_record.sh "
            "installs them beside this Python."
        )
    started = time.monotonic()
    record: dict[str, Any] = facts()
    device = "gpu-" + re.sub(r"[^a-z0-9]+", "-", record["device"].lower()).strip("-")
    path = RESULTS / f"{device}.json"
    done = earlier_stages(path, record)
    rest = sys.argv[1:] == ["--rest"]
    every = stages(device, record["compute_capability"], continued=rest and has_run("benchmark", done))
    passed = {name for name, entry in done.items() if entry["status"] == "passed"} - unbuilt()
    wanted = [stage.name for stage in every if stage.name not in passed] if rest else sys.argv[1:]
    LOGS.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    chosen = [stage for stage in every if stage.name in wanted or not sys.argv[1:]]
    for number, stage in enumerate(chosen):
        print(f"{stage.name} ...", flush=True)
        reserved = sum(later.limit_s + INTERRUPTED_S for later in chosen[number + 1 :])
        entry = run(stage, started + TIME_S, reserved)
        print(json.dumps(entry, indent=2), flush=True)
        if entry["status"] != "not run" or not has_run(stage.name, done):
            done[stage.name] = entry
        record["stages"] = [done[stage.name] for stage in every if stage.name in done]
        path.write_text(json.dumps(record, indent=2) + "\n")
    if any(done[stage.name]["status"] != "passed" for stage in chosen):
        sys.exit(1)


def has_run(name: str, done: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a stage has run, to its end or not."""
    return name in done and done[name]["status"] != "not run"


def unbuilt() -> set[str]:
    """Return the stages whose library is not there, on another machine say."""
    return {name for name, tree in (("build", ROOT), ("jit-build", JIT)) if not any((tree / "lbp").glob("liblbp*.so"))}


def earlier_stages(path: Path, record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by name the stages of a record that is about the same tree, device and versions."""
    same = ("device", "driver", "nvcc", "cupy", "torch", "python", "commit", "changed_files")
    try:
        earlier = json.loads(path.read_text())
        if any(earlier[name] != record[name] for name in same):
            return {}
        return {entry["stage"]: entry for entry in earlier["stages"]}
    except (OSError, ValueError, KeyError):
        return {}


if __name__ == "__main__":
    main()
