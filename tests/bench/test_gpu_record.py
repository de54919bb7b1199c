"""The script that records a GPU, without one: its time is limited, and what was done is kept and not done again."""

import importlib
import json
import sys
import time

import pytest

FACTS = {"device": "A", "driver": "1", "nvcc": "13", "torch": "2", "python": "3", "commit": "c", "changed_files": 0}


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend("benchmarks")
    module = importlib.import_module("gpu_record")
    monkeypatch.setattr(module, "LOGS", tmp_path)
    return module


def stage(script, code, limit=30.0):
    return script.Stage("stage", limit, [sys.executable, "-c", code])


def test_the_limits_of_all_stages_fit_ten_minutes(script):
    stages = script.stages("gpu-a", "9.0")
    assert sum(stage.limit_s for stage in stages) <= 600
    assert len({stage.name for stage in stages}) == len(stages)
    assert script.TIME_S < 600
    assert stages[0].environment["LBP_CUDA_ARCHITECTURES"] == "90"


def test_a_stage_past_its_limit_is_interrupted_and_says_what_it_has(script):
    code = """
import time
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("3 passed")
"""
    entry = script.run(stage(script, code, 2.0), time.monotonic() + 60)
    assert entry["status"] == "ran out of time"
    assert entry["summary"] == ["3 passed"]


def test_no_stage_begins_when_the_time_is_up(script):
    entry = script.run(stage(script, "print('1 passed')"), time.monotonic() + 1)
    assert (entry["status"], entry["reason"]) == ("not run", "the time is up")
    assert script.run(stage(script, "print('1 passed')"), time.monotonic() + 60)["status"] == "passed"


def test_what_was_done_for_the_same_tree_and_machine_is_kept(script, tmp_path):
    path = tmp_path / "record.json"
    assert script.earlier_stages(path, FACTS) == {}
    path.write_text(json.dumps({**FACTS, "stages": [{"stage": "test", "status": "passed"}]}))
    assert script.earlier_stages(path, FACTS) == {"test": {"stage": "test", "status": "passed"}}
    assert script.earlier_stages(path, {**FACTS, "commit": "d"}) == {}
