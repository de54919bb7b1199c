"""The script that records a GPU, without one: its time is limited, and what was done is kept and not done again."""

import importlib
import json
import sys
import time

import pytest

from lbp.bench.aims import CUDA_AIMS

VERSIONS = {"driver": "1", "nvcc": "13", "cupy": "14", "torch": "2", "python": "3"}
FACTS = {"device": "A", "compute_capability": "9.0", "commit": "c", "changed_files": 0, **VERSIONS}


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend("benchmarks")
    module = importlib.import_module("gpu_record")
    monkeypatch.setattr(module, "LOGS", tmp_path)
    return module


def stage(script, code, limit=30.0):
    return script.Stage("stage", limit, [sys.executable, "-c", code])


def test_the_limits_of_all_stages_fit_ten_minutes(script):
    stages = script.stages("gpu-a", "9.0", continued=False)
    by_name = {stage.name: stage for stage in stages}
    assert len(by_name) == len(stages)
    phases = script.phases_of(by_name)
    assert sorted(stage.name for phase in phases for chain in phase for stage in chain) == sorted(by_name)
    assert sum(script.seconds_of(phase) for phase in phases) <= 600
    assert script.TIME_S < 600
    assert stages[0].environment["LBP_CUDA_ARCHITECTURES"] == "90"


@pytest.mark.parametrize("name", ["methods", "training"])
def test_measurements_leave_out_who_compiles_or_keeps_matrices(script, name):
    stages = {stage.name: stage for stage in script.stages("gpu-a", "9.0", continued=False)}
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
    stages = script.stages("gpu-a", "9.0", continued=False)
    assert {part for stage in stages if "pytest" in stage.command for part in stage.command if part[:2] == "-r"} == {
        "-rsf"
    }


def test_no_stage_begins_when_the_time_is_up(script):
    entry = script.run(stage(script, "print('1 passed')"), time.monotonic() + 1, reserved=0.0)
    assert (entry["status"], entry["reason"]) == ("not run", "the time is up")
    assert script.run(stage(script, "print('1 passed')"), time.monotonic() + 60, reserved=0.0)["status"] == "passed"


@pytest.mark.parametrize(("left", "reserved", "limit"), [(605, 580, 30), (605, 300, 300), (605, 0, 600), (15, 0, 10)])
def test_a_stage_takes_what_the_others_do_not_need(script, left, reserved, limit):
    entry = script.run(stage(script, "print('1 passed')", 30.0), time.monotonic() + left, reserved)
    assert entry["limit_s"] == limit


def test_a_build_just_in_time_goes_on_where_it_was_interrupted(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "JIT", tmp_path / "jit")
    script.copy_for_jit()
    (tmp_path / "jit" / "build").mkdir()
    (tmp_path / "jit" / "lbp" / "left_over.py").touch()
    script.copy_for_jit()
    assert (tmp_path / "jit" / "build").exists()
    assert not (tmp_path / "jit" / "lbp" / "left_over.py").exists()


def test_what_was_done_for_the_same_tree_and_machine_is_kept(script, tmp_path):
    path = tmp_path / "record.json"
    assert script.earlier_stages(path, FACTS) == {}
    path.write_text(json.dumps({**FACTS, "stages": [{"stage": "test", "status": "passed"}]}))
    assert script.earlier_stages(path, FACTS) == {"test": {"stage": "test", "status": "passed"}}
    assert script.earlier_stages(path, {**FACTS, "commit": "d"}) == {}


@pytest.mark.parametrize(
    ("arguments", "facts", "status", "kept"),
    [
        (["--rest"], FACTS, "ran out of time", True),
        (["--rest"], FACTS, "failed", True),
        (["--rest"], FACTS, "not run", False),
        (["--rest"], {**FACTS, "commit": "d"}, "ran out of time", False),
        (["benchmark"], FACTS, "ran out of time", False),
        ([], FACTS, "ran out of time", False),
    ],
)
def test_the_rest_of_a_benchmark_is_added_to_its_record_and_any_other_begins_anew(
    script, monkeypatch, tmp_path, arguments, facts, status, kept
):
    of_every, measured = script.stages, tmp_path / "gpu-a-bench.json"
    measured.write_text("{}")
    entry = {"stage": "benchmark", "status": status}
    (tmp_path / "gpu-a.json").write_text(json.dumps({**facts, "stages": [entry]}))

    def benchmark_alone(device, capability, *, continued):
        stages = {stage.name: stage for stage in of_every(device, capability, continued=continued)}
        return [stages["benchmark"]._replace(command=[sys.executable, "-c", "print('done')"], folder=tmp_path)]

    monkeypatch.setattr(script, "RESULTS", tmp_path)
    monkeypatch.setattr(script, "NEEDED", ())
    monkeypatch.setattr(script, "TOOLS", ())
    monkeypatch.setattr(script, "facts", lambda: dict(FACTS))
    monkeypatch.setattr(script, "stages", benchmark_alone)
    monkeypatch.setattr(sys, "argv", ["gpu_record.py", *arguments])
    script.main()
    assert measured.exists() == kept
    (done,) = json.loads((tmp_path / "gpu-a.json").read_text())["stages"]
    assert done["status"] == "passed"


def test_a_stage_for_which_no_time_was_left_keeps_what_it_did_before(script):
    done = {"test": {"status": "failed"}, "memcheck": {"status": "not run"}}
    assert [script.has_run(name, done) for name in ("test", "memcheck", "build")] == [True, False, False]
