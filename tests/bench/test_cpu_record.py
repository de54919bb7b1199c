"""The script that records a CPU runs every piece whatever becomes of the others, and its exit code tells."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from lbp.bench.aims import CPU_AIMS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cpu_record.sh"
README = SCRIPT.with_name("README.md")


def run(folder, code="exit 0"):
    """Runs the script with a Python that only notes its arguments; returns the exit code and the commands."""
    python, log = folder / "python", folder / "log"
    python.write_text(f'#!/usr/bin/env bash\necho "${{@:3}}" >> {log}\n{code}\n')
    python.chmod(0o755)
    log.unlink(missing_ok=True)
    done = subprocess.run(
        [SCRIPT, folder / "record.json", "--peer", "folder"],
        env={**os.environ, "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, log.read_text().splitlines()


def test_every_piece_adds_to_the_record_and_its_pictures_are_drawn_last(tmp_path):
    code, commands = run(tmp_path)
    record = tmp_path / "record.json"
    assert code == 0
    assert all(command.endswith(f"--peer folder --output {record}") for command in commands[:-1])
    assert commands[-1] == f"bench --show {record} --plots {tmp_path / 'record-plots'}"
    assert {command.split()[1] for command in commands[:-1]} == {aim.level for aim in CPU_AIMS} | {"growth"}


def test_the_pieces_are_those_of_the_readme_and_take_seventy_minutes_at_most(tmp_path):
    _, commands = run(tmp_path)
    pieces = [command.partition(" --peer")[0] for command in commands[:-1]]
    rows = re.findall(r"^\| `lbp (bench .*)` \| (\d+) \|$", README.read_text(), re.MULTILINE)
    assert [command for command, _ in rows] == pieces
    minutes = [int(piece.split("--run-limit ")[1]) for piece in pieces]
    assert minutes == [int(count) for _, count in rows]
    assert f"add up to {sum(minutes)} minutes" in README.read_text()
    assert sum(minutes) <= 70


@pytest.mark.parametrize("failing", ["methods", "training", "--show"])
def test_a_piece_that_fails_does_not_stop_the_others_but_is_told_by_the_exit_code(tmp_path, failing):
    code, commands = run(tmp_path, f'[ "$4" = {failing} ] && exit 3\nexit 0')
    assert code == 3
    assert commands == run(tmp_path)[1]


def test_an_interrupted_piece_is_the_last(tmp_path):
    code, commands = run(tmp_path, "exit 130")
    assert code == 130
    assert len(commands) == 1
