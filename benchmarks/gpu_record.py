"""What benchmarks/gpu_record.sh runs: stages with a time limit each, and a record that is kept after every one.

    benchmarks/gpu_record.sh                   all stages
    benchmarks/gpu_record.sh methods training  these; a name stands for all stages whose names begin with it
    benchmarks/gpu_record.sh --rest            those that the record of this commit and device lacks, or that have not
                                               passed
    benchmarks/gpu_record.sh --help            this text

| stage | what |
| --- | --- |
| build | the library, its kernels ahead of time for this device |
| test, test-cases | the tests that need a GPU |
| memcheck, racecheck, synccheck | a call of every op under compute-sanitizer |
| jit-build, jit-test | kernels compiled just in time |
| methods | IBP and CROWN-IBP on DM-Large, DM-Medium and CNN-7+BN, 32 and 256 images |
| training | training steps of 128 images |
| methods-one-image | LBP, CROWN-LBP and CROWN on the same networks |
| growth | how cost grows with a network's sizes |
| benchmark | the ops whose bandwidth is a target, and intervals |
| full-ops | all ops |
| full-methods | all networks, methods, numbers of images and contenders |
| full-training | training steps, all contenders |
| full-compiled | ops, PyTorch under torch.compile as well |

The last four add, call by call, what the record lacks of all that `lbp bench` measures on a GPU. Together with others
they take what time those leave, and are not begun where that is too short for a case. A case in which a contender is
missing is measured anew with all of them, as they take turns.

Tests and sanitizers run side by side, measurements alone. A stage that fails, or runs past its limit, is recorded as
such, and the next one runs. What earlier stages left of their time, and the whole of the time where few are named, is
added to the limit. After TIME_S seconds in all, which the environment may set, a stage is interrupted, or not begun:
the same command goes on. Measurements begin no further case near their limit, and the next call measures what is left,
where the record is of this commit, device and versions. Records and logs are in build/gpu_record, and what was measured
is copied to benchmarks/results: a tree that is copied anew between two calls loses nothing. A record that cannot be
read gets ".damaged" behind its name, and what the others hold is kept.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gpu_stages import INTERRUPTED_S, LOGS, RECORDS, ROOT, Stage, is_named, phases_of, seconds_of, stages, unbuilt

RESULTS = ROOT / "benchmarks" / "results"
NEEDED = (
    *("torch", "numpy", "pytest", "hypothesis", "matplotlib", "PIL", "typer", "rich", "pydantic", "safetensors"),
    "setuptools",
)
TOOLS = ("cmake", "ninja")
TIME_S = float(os.environ.get("TIME_S", "570"))


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
    command = [*stage.command, *run_limit(stage, limit)]
    entry: dict[str, Any] = {"stage": stage.name, "limit_s": max(0, round(limit))}
    entry["command"] = command_text(command, stage.environment)
    reason = stage.prepare() if limit > stage.least_s else "the time is up"
    if reason is not None:
        return entry | {"status": "not run", "reason": reason}
    log = LOGS / f"{stage.name}.log"
    environment = os.environ | stage.environment
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
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
    text = log.read_text(errors="replace")
    if status == "passed" and stage.record is not None and STOPPED.search(text):
        status = "stopped"
    if status == "passed" and "pytest" in stage.command and not re.search(r"\b[1-9]\d* passed", text):
        status = "failed"  # pytest is content with tests that are all skipped, for want of a library say
    entry |= {"status": status, "seconds": round(time.monotonic() - started, 1), "exit": process.returncode}
    return entry | {"summary": summary(text, aims=stage.name == "benchmark")}


# What `lbp bench` says that began no further case; it is no failure, and the next call measures the rest.
STOPPED = re.compile("^stopped after .* minutes", re.MULTILINE)


WELL = ("passed", "stopped")


def run_limit(stage: Stage, limit: float) -> list[str]:
    """Return the option by which a measurement ends by itself within its limit, in seconds."""
    if stage.record is None:
        return []
    return ["--run-limit", f"{max(limit - stage.besides_s, 1) / 60:.2f}"]


def end(process: subprocess.Popen[bytes]) -> None:
    """End the processes of a stage: pytest answers an interrupt with what it has found so far."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(INTERRUPTED_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def command_text(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the command as a reader of the record can repeat it: without this machine's paths."""
    settings = " ".join(f"{name}={value}" for name, value in environment.items())
    text = " ".join([settings, *command]).strip()
    return text.replace(sys.executable, "python3").replace(f"{ROOT}/", "")


def summary(log: str, *, aims: bool) -> list[str]:
    """Return the lines of a log that say how it went, else its last ones.

    Args:
        log: what a stage printed.
        aims: whether what was reached of the aims belongs to it; the tables of a record show them after every level.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = r"^SKIPPED|^FAILED|^ERROR|\d+ passed|\d+ failed|\d+ skipped|ERROR SUMMARY|RACECHECK SUMMARY|CUDA kernels"
    # Where a command or a compiler ended, and what `lbp bench` says of this package's runs that did.
    said += (
        r"|^([\w.]+\.)?\w*(Error|Exception): |\berror: |: native.* (\w*(Error|Exception): |differs from|process ended)"
    )
    said += "|share of the copy's bandwidth" if aims else ""
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
    # Its import would take seconds.
    cupy = [
        found.version for found in importlib.metadata.distributions() if re.match("cupy(-cuda|$)", found.name or "")
    ]
    return {
        "device": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "driver": driver,
        "nvcc": nvcc[0] if nvcc else None,
        "cupy": cupy[0] if cupy else None,
        "auto_LiRPA": importlib.util.find_spec("auto_LiRPA") is not None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": tree_commit(ROOT) or carried_commit(),
        "carried": carried_commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def tree_commit(root: Path) -> str:
    """Return the commit of a git tree, and after "+" what tells its changes apart; nothing where there is no git.

    The same as `lbp.bench.record.tree_commit` says, so that this script begins anew where `lbp bench` would refuse to
    go on. The package cannot be imported here, see `write_whole`.
    """

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True, timeout=60).stdout

    try:
        git("ls-files", "--error-unmatch", "lbp/__init__.py")
        commit = git("rev-parse", "HEAD").decode().strip()
        tracked = ("--", ":/", ":(top,exclude)benchmarks/results")
        differences = git("diff", "--no-ext-diff", "--no-textconv", "--binary", "HEAD", *tracked)
        sources = ("lbp", "csrc", "cmake", "CMakeLists.txt", "setup.py")
        others = git("ls-files", "--others", "--exclude-standard", "-z", "--", *sources).split(b"\0")
        changed = hashlib.sha256(differences)
        for name in sorted(os.fsdecode(name) for name in others if (root / os.fsdecode(name)).is_file()):
            changed.update(os.fsencode(name) + b"\0" + hashlib.sha256((root / name).read_bytes()).digest())
        return commit + (f"+{changed.hexdigest()[:8]}" if differences or any(others) else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def carried_commit() -> str:
    """Return the commit that `make carried` noted, for a tree that came without its history, or with an older one."""
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
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(__doc__)
        return
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
    LOGS.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    every = stages(device, record["compute_capability"])
    names = (f"{device}.json", *{stage.record: None for stage in every if stage.record is not None})
    path = RECORDS / names[0]
    is_lost = path.name in adopt(names)
    done = earlier_stages(path, record)
    if is_lost:
        done = with_unknown(every, done)
    chosen = {stage.name: stage for stage in choose(every, sys.argv[1:], done)}
    begin_anew(every, chosen, done)
    plan = phases_of(chosen)

    one_at_a_time = threading.Lock()

    def keep(stage: Stage, entry: dict[str, Any]) -> None:
        print(json.dumps(entry, indent=2), flush=True)
        if entry["status"] != "not run" or not has_run(stage.name, done):
            done[stage.name] = entry
        record["stages"] = [done[stage.name] for stage in every if stage.name in done]
        write_whole(path, json.dumps(record, indent=2).encode() + b"\n")
        for name in names:
            copy_whole(RECORDS / name, RESULTS / name)

    def run_chain(chain: Sequence[Stage], reserved: float) -> None:
        for stage in chain:
            entry = run(stage, started + TIME_S, reserved)
            with one_at_a_time:
                keep(stage, entry)

    for number, phase in enumerate(plan):
        print(", ".join(stage.name for chain in phase for stage in chain), "...", flush=True)
        reserved = sum(seconds_of(later) for later in plan[number + 1 :])
        with ThreadPoolExecutor(len(phase)) as pool:
            list(pool.map(run_chain, phase, [reserved] * len(phase)))  # with an error of any of them
    # For which no time was left, though it was not theirs, is well, too.
    waiting = {name for name, stage in chosen.items() if stage.limit_s == 0 and done[name]["status"] == "not run"}
    if any(done[name]["status"] not in WELL for name in chosen.keys() - waiting):
        sys.exit(1)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is complete or as before, whenever this script ends.

    As `lbp.files` does, which cannot be imported here: a library of another commit, which this script is about to
    replace, may keep the package from loading.
    """
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file, if it is there, so that the target is complete or as before."""
    if source.exists():
        write_whole(target, source.read_bytes())


def adopt(names: Sequence[str]) -> set[str]:
    """Bring records of an earlier call to where they go on, unless they are there.

    Args:
        names: of the record of all stages, then of what was measured.

    Returns:
        the names of those that were damaged and set aside.
    """
    RECORDS.mkdir(parents=True, exist_ok=True)
    damaged = set()
    for name in names:
        keys = ("stages", *SAME) if name == names[0] else ("rows",)
        for path in (RECORDS / name, RESULTS / name):
            if path.exists():
                if is_whole(path, keys):
                    break
                set_aside(path)
                damaged.add(name)
        if not (RECORDS / name).exists():
            copy_whole(RESULTS / name, RECORDS / name)
    return damaged


def is_whole(path: Path, keys: Iterable[str]) -> bool:
    """Say whether a file is JSON with these keys."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and set(keys) <= content.keys()


def set_aside(path: Path) -> None:
    """Rename a damaged file, and say so."""
    number, target = 1, path.with_name(f"{path.name}.damaged")
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.damaged-{number}")
    path.rename(target)
    print(f"{path} is damaged; it is set aside as {target.name}", file=sys.stderr, flush=True)


def with_unknown(every: Iterable[Stage], done: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what was done when the record of it was lost: whoever may have measured what is there, has.

    `lbp bench` goes on with it, or refuses if it is of another commit, and says so; it is not removed.
    """
    reason = "its entry was lost with a damaged record"
    return {
        stage.name: {"stage": stage.name, "status": "unknown", "reason": reason}
        for stage in every
        if stage.record is not None and (RECORDS / stage.record).exists()
    } | done


def choose(every: Sequence[Stage], arguments: Sequence[str], done: Mapping[str, Mapping[str, Any]]) -> list[Stage]:
    """Return the stages that the command line wants, and before them the build that they need."""
    if not arguments:
        return list(every)
    if list(arguments) == ["--rest"]:
        passed = {name for name, entry in done.items() if entry["status"] == "passed"} - unbuilt()
        return [stage for stage in every if stage.name not in passed]
    unknown = [name for name in arguments if not any(is_named(stage, name) for stage in every)]
    if unknown:
        sys.exit(f"no stage is called {', '.join(unknown)}; there are {', '.join(stage.name for stage in every)}")
    named = [stage for stage in every if any(is_named(stage, name) for name in arguments)]
    needed = {"build"} & unbuilt() if any(stage.folder == ROOT for stage in named) else set()
    return [stage for stage in every if stage in named or stage.name in needed]


def begin_anew(every: Sequence[Stage], chosen: Mapping[str, Stage], done: Mapping[str, Mapping[str, Any]]) -> None:
    """Remove what measurements wrote for another tree or machine: `lbp bench` refuses to add to it."""
    for record in {stage.record for stage in chosen.values()} - {None}:
        if not any(has_run(stage.name, done) for stage in every if stage.record == record):
            (RECORDS / str(record)).unlink(missing_ok=True)


def has_run(name: str, done: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a stage has run, to its end or not."""
    return name in done and done[name]["status"] != "not run"


# Of a record of all stages: what differs where it is about another tree or machine.
SAME = ("device", "driver", "nvcc", "cupy", "torch", "python", "commit")


def earlier_stages(path: Path, record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by name the stages of a record, if there is one, that is about the same tree, device and versions."""
    if not path.exists():
        return {}
    earlier = json.loads(path.read_text())
    if any(earlier[name] != record[name] for name in SAME):
        return {}
    return {entry["stage"]: entry for entry in earlier["stages"]}


if __name__ == "__main__":
    main()
