"""The script that records a GPU, without one: its time is limited, and what was done is kept and not done again."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.main import get_command

from lbp.bench import grid, methods
from lbp.bench.aims import CUDA_AIMS
from lbp.bench.contenders import CONTENDERS
from lbp.bench.op_cases import OP_NAMES
from lbp.bench.record import tree_commit
from lbp.bench.worker import Limits
from lbp.cli import app
from lbp.commands.bench import _known, _method_options

VERSIONS = {"driver": "1", "nvcc": "13", "cupy": "14", "torch": "2", "python": "3"}
FACTS = {"device": "A", "compute_capability": "9.0", "commit": "c", **VERSIONS}


@pytest.fixture
def planned(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend("benchmarks")
    module = importlib.import_module("gpu_stages")
    monkeypatch.setattr(module, "RECORDS", tmp_path / "records")
    return module


@pytest.fixture
def script(planned, monkeypatch, tmp_path):
    module = importlib.import_module("gpu_record")
    monkeypatch.setattr(module, "LOGS", tmp_path)
    monkeypatch.setattr(module, "RECORDS", planned.RECORDS)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


def stage(script, code, limit=30.0):
    return script.Stage("stage", limit, [sys.executable, "-c", code])


def test_the_limits_of_all_stages_fit_ten_minutes(script):
    stages = script.stages("gpu-a", "9.0")
    by_name = {stage.name: stage for stage in stages}
    assert len(by_name) == len(stages)
    phases = script.phases_of(by_name)
    assert sorted(stage.name for phase in phases for chain in phase for stage in chain) == sorted(by_name)
    assert sum(script.seconds_of(phase) for phase in phases) <= script.TIME_S < 600
    assert stages[0].environment["LBP_CUDA_ARCHITECTURES"] == "90"


def parameters_of(level, command):
    """Returns what `lbp bench` reads from a command of the script, and checks that it measures the level on a GPU."""
    _, _, module, name, *options = command
    assert (module, name) == ("lbp", "bench")
    parameters = get_command(app).commands[name].make_context(name, list(options)).params
    assert (parameters["levels"], parameters["device"], parameters["quick"]) == ([level], "cuda", False)
    return parameters


@pytest.fixture
def rows_of(monkeypatch):
    """Returns the keys of all rows of methods or training steps on a GPU, without measuring them."""
    monkeypatch.setattr(grid, "neurons", lambda network: 1)
    monkeypatch.setattr(methods, "peer_available", lambda folder: True)
    monkeypatch.setattr(methods, "_run", lambda runners, *_: [runner.row() for runner in runners])
    measures = {"methods": methods.measure_methods, "training": methods.measure_training}

    def rows(level, only=(), batch=(), contender=()):
        options = _method_options(tuple(only), Limits(1.0, 1, 1), 1, batch, contender, None, quick=False)
        measured = measures[level](torch.device("cuda", 0), options, lambda case: None)
        return {row.key for case in measured for row in case}

    return rows


@pytest.mark.parametrize("level", ["methods", "training"])
def test_every_network_method_batch_and_contender_is_measured_by_some_stage(script, rows_of, level):
    stages = [stage for stage in script.stages("gpu-a", "9.0") if stage.record and level in stage.command]
    found = {}
    for stage in stages:
        parameters = parameters_of(level, stage.command)
        found[stage.name] = rows_of(level, *(parameters[name] or () for name in ("only", "batch", "contender")))
    wanted = rows_of(level)
    assert len({case for _, case, _, _ in wanted}) == {"methods": 7 * 5 * 3, "training": 4 * 2}[level]
    assert set().union(*found.values()) == wanted
    assert all(found[name] < wanted for name in found if not name.startswith("full"))


def test_every_op_is_measured_by_some_stage_with_and_without_compilation(script):
    stages = [stage for stage in script.stages("gpu-a", "9.0") if stage.record and "ops" in stage.command]
    measured = {True: set(), False: set()}
    for stage in stages:
        parameters = parameters_of("ops", stage.command)
        only = parameters["only"] or ("",)
        measured[parameters["compiled"]] |= {op for op in OP_NAMES if any(part in op for part in only)}
    assert measured == {True: set(OP_NAMES), False: set(OP_NAMES)}


def test_what_completes_the_record_takes_only_the_time_that_others_leave(script):
    every = script.stages("gpu-a", "9.0")
    full = [stage for stage in every if stage.name.startswith("full-")]
    assert every[-len(full) :] == full
    phases = script.phases_of({stage.name: stage for stage in every})
    assert [stage.name for ((stage,),) in phases[-len(full) :]] == [stage.name for stage in full]
    assert script.seconds_of([[full[0]]]) == 0


@pytest.mark.parametrize(("left", "status"), [(70, "passed"), (60, "not run")])
def test_what_completes_the_record_is_not_begun_when_too_little_time_is_left_for_a_case(script, left, status):
    measuring = stage(script, "print('measured')", 0)._replace(record="gpu-a-methods.json")
    entry = script.run(measuring, time.monotonic() + left, reserved=0.0)
    assert entry["status"] == status


def test_the_run_is_well_where_no_time_was_left_for_what_completes_the_record(script, monkeypatch, recording):
    def run(stage, deadline, reserved):
        return {"stage": stage.name, "status": "passed" if stage.limit_s > 0 else "not run"}

    monkeypatch.setattr(script, "run", lambda stage, *_: {"stage": stage.name, "status": "not run"})
    with pytest.raises(SystemExit):
        recording("growth")
    monkeypatch.setattr(script, "run", run)
    assert recording()["full-ops"]["status"] == "not run"


def test_sanitizers_wait_for_processes_that_start_slowly(script):
    commands = [stage.command for stage in script.stages("gpu-a", "9.0") if stage.command[0] == "compute-sanitizer"]
    assert len(commands) == 3
    for command in commands:
        options = command[: command.index(sys.executable)]
        assert int(options[options.index("--launch-timeout") + 1]) >= 60


def test_a_case_that_lasts_long_may_end_within_the_limit(script):
    by_name = {stage.name: stage for stage in script.stages("gpu-a", "9.0")}
    assert script.run_limit(by_name["benchmark"], 330.0) == ["--run-limit", "5.00"]
    assert script.run_limit(by_name["full-methods"], 420.0) == ["--run-limit", "5.00"]


def test_help_lists_every_stage(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_record.py", "--help"])
    script.main()
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    names = [name for line in listed for name in line.split("|")[1].replace(",", " ").split()]
    assert names[2:] == [stage.name for stage in script.stages("gpu-a", "9.0")]


@pytest.mark.parametrize("name", ["methods", "methods-one-image", "training"])
def test_measurements_leave_out_who_compiles_or_keeps_matrices(script, name):
    stages = {stage.name: stage for stage in script.stages("gpu-a", "9.0")}
    command = stages[name].command
    contenders = [command[i + 1] for i, word in enumerate(command) if word == "--contender"]
    assert contenders == ["native", "reference", "auto_LiRPA patches"]


def test_a_stage_past_its_limit_is_interrupted_and_says_what_it_has(script):
    code = """
import time
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("3 passed")
"""
    entry = script.run(stage(script, code, 2.0), time.monotonic() + 60, reserved=60.0)
    assert entry["status"] == "ran out of time"
    assert entry["summary"] == ["3 passed"]


def test_a_record_keeps_what_was_reached_of_the_aims(script):
    aim = CUDA_AIMS[0]
    table = f"Ops\n relax_backward 1.0\n  {aim.words}   >= 0.85   0.91   met\n"
    assert script.summary(table, aims=True) == [f"{aim.words} >= 0.85 0.91 met"]
    assert script.summary(table, aims=False)[-1].strip() == f"{aim.words}   >= 0.85   0.91   met"
    assert len(CUDA_AIMS) < 40


def test_a_record_keeps_why_tests_were_skipped(script):
    said = ["SKIPPED [2] tests/gpu/test_dlpack.py:9: CuPy is missing", "5 passed, 2 skipped in 1.00s"]
    assert script.summary("\n".join(["..ss...", *said]), aims=False) == said
    stages = script.stages("gpu-a", "9.0")
    assert {part for stage in stages if "pytest" in stage.command for part in stage.command if part[:2] == "-r"} == {
        "-rsf"
    }


@pytest.mark.parametrize(
    "said",
    [
        '  File "x.py", line 1\nRuntimeError: lbp::ramp failed\nCUDA: kernel\nAutograd: fallback\na\nb\nc\nd',
        "a case ReLU: native RuntimeError: lbp::ramp failed\na\nb\nc\nd",
        "a case ReLU: native, every row differs from reference by 1.0e-01 of the largest bound\na\nb\nc\nd",
        "[3/70] nvcc x.cu\nx.cu(7): error: expected a ;\n1 error detected\nninja: build stopped\na\nb\nc\nd",
    ],
)
def test_a_record_keeps_the_error_of_a_stage_that_failed_however_much_was_said_after_it(script, said):
    (line,) = script.summary(said, aims=False)
    assert line == next(part for part in said.splitlines() if "rror: " in part or "differs" in part)


@pytest.mark.parametrize(
    ("said", "status"), [("2 passed, 1 skipped in 1s", "passed"), ("3 skipped in 1s", "failed"), ("", "failed")]
)
def test_tests_of_which_none_ran_have_not_passed(script, said, status):
    tests = stage(script, f"print({said!r})")
    tests = tests._replace(command=[*tests.command, "pytest"])
    assert script.run(tests, time.monotonic() + 60, reserved=0.0)["status"] == status


def test_no_stage_begins_when_the_time_is_up(script):
    entry = script.run(stage(script, "print('1 passed')"), time.monotonic() + 1, reserved=0.0)
    assert (entry["status"], entry["reason"]) == ("not run", "the time is up")
    assert script.run(stage(script, "print('1 passed')"), time.monotonic() + 60, reserved=0.0)["status"] == "passed"


@pytest.mark.parametrize(("left", "reserved", "limit"), [(605, 580, 30), (605, 300, 300), (605, 0, 600), (15, 0, 10)])
def test_a_stage_takes_what_the_others_do_not_need(script, left, reserved, limit):
    entry = script.run(stage(script, "print('1 passed')", 30.0), time.monotonic() + left, reserved)
    assert entry["limit_s"] == limit


def test_a_build_just_in_time_goes_on_where_it_was_interrupted(planned, monkeypatch, tmp_path):
    monkeypatch.setattr(planned, "JIT", tmp_path / "jit")
    planned.copy_for_jit()
    (tmp_path / "jit" / "build").mkdir()
    (tmp_path / "jit" / "lbp" / "left_over.py").touch()
    planned.copy_for_jit()
    assert (tmp_path / "jit" / "build").exists()
    assert not (tmp_path / "jit" / "lbp" / "left_over.py").exists()


def test_what_was_done_for_the_same_tree_and_machine_is_kept(script, tmp_path):
    path = tmp_path / "record.json"
    assert script.earlier_stages(path, FACTS) == {}
    path.write_text(json.dumps({**FACTS, "stages": [{"stage": "test", "status": "passed"}]}))
    assert script.earlier_stages(path, FACTS) == {"test": {"stage": "test", "status": "passed"}}
    assert script.earlier_stages(path, {**FACTS, "commit": "d"}) == {}


def test_the_commit_of_a_tree_is_that_of_lbp_bench_whatever_was_changed(script, tmp_path):
    root = tmp_path / "tree"
    assert script.tree_commit(tmp_path) == ""
    for name in ("lbp/__init__.py", "csrc/kernel.cu", "benchmarks/results/old.json"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("a")
    author = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    for arguments in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "A commit"]):
        subprocess.run(["git", "-C", str(root), *arguments], check=True)
    found = []
    for name, content in (
        ("benchmarks/results/old.json", "b"), ("csrc/kernel.cu", "b"), ("csrc/kernel.cu", "c"), ("csrc/new.cu", "a"),
        ("lbp/new.py", "a"), ("lbp/new.py", "b"), ("lbp/n\udcff.py", "b"),
    ):  # fmt: skip
        (root / name).write_text(content)
        found.append(script.tree_commit(root))
        assert found[-1] == tree_commit(root / "lbp")
    assert len(found[0]) == 40
    assert len({*found}) == len(found)


DAMAGED = (b"", b'{"device": "A", "stag', b"[]", b'{"device": "A"}', b"\xff\xfe")


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_record_of_stages_is_set_aside_and_what_was_measured_is_kept(script, recording, capsys, content):
    rows = '{"rows": ["measured"]}'
    script.RECORDS.mkdir()
    (script.RECORDS / "gpu-a.json").write_bytes(content)
    (script.RECORDS / "gpu-a-methods.json").write_text(rows)
    done = recording("growth")
    assert (script.RECORDS / "gpu-a.json.damaged").read_bytes() == content
    assert "gpu-a.json is damaged; it is set aside as gpu-a.json.damaged" in capsys.readouterr().err
    assert (done["methods"]["status"], done["growth"]["status"]) == ("unknown", "passed")
    recording("methods")
    assert (script.RECORDS / "gpu-a-methods.json").read_text() == rows
    assert (script.RESULTS / "gpu-a-methods.json").read_text() == rows


def test_a_damaged_record_gives_way_to_its_copy(script, recording):
    for folder in (script.RECORDS, script.RESULTS):
        folder.mkdir()
    entry = {"stage": "methods", "status": "passed"}
    (script.RESULTS / "gpu-a.json").write_text(json.dumps({**FACTS, "stages": [entry]}))
    (script.RESULTS / "gpu-a-methods.json").write_text('{"rows": ["measured"]}')
    for name in ("gpu-a.json", "gpu-a-methods.json"):
        (script.RECORDS / name).write_text("{")
        (script.RECORDS / f"{name}.damaged").write_text("of another day")
    assert recording("growth")["methods"] == entry
    assert (script.RECORDS / "gpu-a-methods.json").read_text() == '{"rows": ["measured"]}'
    assert (script.RECORDS / "gpu-a-methods.json.damaged").read_text() == "of another day"
    assert (script.RECORDS / "gpu-a-methods.json.damaged-2").read_text() == "{"


def test_a_damaged_copy_is_not_adopted(script, recording):
    script.RESULTS.mkdir()
    (script.RESULTS / "gpu-a-methods.json").write_text("{")
    recording("growth")
    assert not (script.RECORDS / "gpu-a-methods.json").exists()
    assert (script.RESULTS / "gpu-a-methods.json.damaged").read_text() == "{"


def test_a_record_is_complete_or_as_before_when_its_writing_is_cut_off(script, monkeypatch, tmp_path):
    path = tmp_path / "record.json"
    script.write_whole(path, b"before")

    def cut_off(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(script.os, "fsync", cut_off)
    with pytest.raises(KeyboardInterrupt):
        script.write_whole(path, b"half of what")
    assert path.read_bytes() == b"before"


def test_no_record_is_written_otherwise(script, monkeypatch, recording):
    recording("growth")
    written = []

    def write_whole(path, content):
        written.append(path.relative_to(script.LOGS))
        assert json.loads(content)

    monkeypatch.setattr(script, "write_whole", write_whole)
    (script.RECORDS / "gpu-a-growth.json").write_text('{"rows": []}')
    before = {path: path.stat().st_mtime_ns for path in script.LOGS.rglob("*.json")}
    recording("growth")
    assert {path: path.stat().st_mtime_ns for path in script.LOGS.rglob("*.json")} == before
    assert {*written} == {
        Path(name) for name in ("records/gpu-a.json", "results/gpu-a.json", "results/gpu-a-growth.json")
    }


@pytest.fixture
def recording(script, monkeypatch):
    """Runs the script's measurements, each a program that notes its arguments; returns these."""
    of_every = script.stages

    def stages(device, capability):
        code = "import sys; print(*sys.argv[1:])"
        every = [stage for stage in of_every(device, capability) if stage.record is not None]
        return [stage._replace(command=[sys.executable, "-c", code, *stage.command[3:]]) for stage in every]

    monkeypatch.setattr(script, "NEEDED", ())
    monkeypatch.setattr(script, "TOOLS", ())
    monkeypatch.setattr(script, "facts", lambda: dict(FACTS))
    monkeypatch.setattr(script, "stages", stages)
    monkeypatch.setattr(script, "unbuilt", set)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gpu_record.py", *arguments])
        script.main()
        done = json.loads((script.RESULTS / "gpu-a.json").read_text())["stages"]
        return {entry["stage"]: entry for entry in done}

    return run


@pytest.mark.parametrize("arguments", [["methods"], ["training"], ["--rest"], []])
@pytest.mark.parametrize(
    ("facts", "status", "kept"),
    [
        (FACTS, "ran out of time", True),
        (FACTS, "stopped", True),
        (FACTS, "failed", True),
        (FACTS, "not run", False),
        ({**FACTS, "commit": "d"}, "ran out of time", False),
    ],
)
def test_a_measurement_goes_on_where_its_record_is_of_this_tree_and_machine_and_begins_anew_otherwise(
    script, recording, arguments, facts, status, kept
):
    script.RESULTS.mkdir()
    (script.RESULTS / "gpu-a-methods.json").write_text('{"rows": []}')
    entry = {"stage": "methods", "status": status}
    (script.RESULTS / "gpu-a.json").write_text(json.dumps({**facts, "stages": [entry]}))
    recording(*arguments)
    assert (script.RECORDS / "gpu-a-methods.json").exists() == kept


def test_a_tree_that_is_copied_anew_goes_on_with_the_record_of_the_call_before(script, recording):
    recording("methods")
    (script.RECORDS / "gpu-a-methods.json").write_text('{"rows": ["of this call"]}')
    for name in ("gpu-a.json", "gpu-a-methods.json"):
        (script.RESULTS / name).write_text(json.dumps({**FACTS, "commit": "of the tree", "stages": []}))
    assert [*recording("training")] == ["methods", "training", "methods-one-image"]
    assert (script.RESULTS / "gpu-a-methods.json").read_text() == '{"rows": ["of this call"]}'


def test_a_name_stands_for_all_stages_that_begin_with_it_and_no_other_is_known(script, recording):
    assert [*recording("methods")] == ["methods", "methods-one-image"]
    assert [*recording("growth")] == ["methods", "methods-one-image", "growth"]
    with pytest.raises(SystemExit, match="no stage is called method; there are methods"):
        recording("method")


def test_what_is_built_for_measurements_is_built_where_it_is_missing(script, monkeypatch):
    every = script.stages("gpu-a", "9.0")
    monkeypatch.setattr(script, "unbuilt", lambda: {"build", "jit-build"})
    assert [stage.name for stage in script.choose(every, ["training"], {})] == ["build", "training"]
    assert [stage.name for stage in script.choose(every, ["jit"], {})] == ["jit-build", "jit-test"]
    monkeypatch.setattr(script, "unbuilt", set)
    assert [stage.name for stage in script.choose(every, ["training"], {})] == ["training"]


def test_a_library_without_kernels_for_devices_is_built_again(planned, monkeypatch, tmp_path):
    monkeypatch.setattr(planned, "ROOT", tmp_path)
    monkeypatch.setattr(planned, "JIT", tmp_path / "jit")
    for tree in (tmp_path, tmp_path / "jit"):
        (tree / "lbp").mkdir(parents=True)
        (tree / "lbp" / "liblbp.so").write_bytes(b".rodata")
    assert planned.unbuilt() == {"build"}
    (tmp_path / "lbp" / "liblbp.so").write_bytes(b".rodata .nv_fatbin")
    assert planned.unbuilt() == set()


def test_a_stage_is_kept_as_soon_as_it_ends_whatever_runs_beside_it(script, planned, monkeypatch, recording):
    def run(stage, deadline, reserved):
        if stage.name == "growth":  # until the record has what runs beside it
            path = script.RESULTS / "gpu-a.json"
            while not (path.exists() and (seen := json.loads(path.read_text())["stages"])):
                time.sleep(0.01)
            return {"stage": stage.name, "status": "passed", "seen": [entry["stage"] for entry in seen]}
        return {"stage": stage.name, "status": "passed"}

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setattr(planned, "PHASES", ((("growth",), ("training",)),))
    assert recording("growth", "training")["growth"]["seen"] == ["training"]


def test_a_measurement_ends_by_itself_within_its_limit_and_the_rest_measures_what_it_left(script, monkeypatch):
    said = "import sys; print('stopped after', sys.argv[-1], 'minutes; the same command ... measures the rest')"
    measuring = stage(script, said)._replace(record="gpu-a-methods.json", limit_s=90)
    entry = script.run(measuring, time.monotonic() + 605, reserved=300.0)
    assert entry["status"] == "stopped"
    assert entry["command"].endswith("--run-limit 4.50")
    every = [measuring, stage(script, "")._replace(name="test")]
    done = {"stage": entry, "test": {"status": "passed"}}
    monkeypatch.setattr(script, "unbuilt", set)
    assert script.choose(every, ["--rest"], done) == [measuring]


@pytest.mark.parametrize(
    ("name", "level"),
    [
        *(("methods", "methods"), ("training", "training"), ("methods-one-image", "methods"), ("growth", "growth")),
        *(("benchmark", "ops"), ("full-ops", "ops"), ("full-methods", "methods"), ("full-training", "training")),
        ("full-compiled", "ops"),
    ],
)
def test_lbp_bench_knows_the_options_and_names_of_a_measurement(script, name, level):
    (measuring,) = (stage for stage in script.stages("gpu-a", "9.0") if stage.name == name)
    parameters = parameters_of(level, [*measuring.command, *script.run_limit(measuring, 60.0)])
    only = tuple(parameters["only"] or ())
    assert _known(only) == only
    assert set(parameters["contender"] or ()) <= {contender.name for contender in CONTENDERS}


def test_a_stage_for_which_no_time_was_left_keeps_what_it_did_before(script):
    done = {"test": {"status": "failed"}, "memcheck": {"status": "not run"}}
    assert [script.has_run(name, done) for name in ("test", "memcheck", "build")] == [True, False, False]
