"""The results file: what is appended stays, what is torn goes, what does not belong is refused."""

import fcntl
import json
import multiprocessing
import os

import pytest

from lbp.results import ResultsError, ResultsFile, read_lines

SETTINGS = {"eps": 0.1, "methods": ["IBP", "CROWN"], "clip": [0, 1]}
RECORDS = [{"index": 3, "margin": 0.1 + 0.2}, {"index": 0, "margin": None}, {"index": 7, "margin": -1e-300}]


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "results.jsonl"
    with ResultsFile(target, SETTINGS) as file:
        file.append(RECORDS[:1])
        file.append([])
        file.append(RECORDS[1:])
    return target


def test_records_and_settings_are_read_back_exactly(path):
    assert read_lines(path) == (SETTINGS, RECORDS)
    assert read_lines(path, SETTINGS) == (SETTINGS, RECORDS)


def test_an_existing_file_continues(path):
    with ResultsFile(path, SETTINGS) as file:
        file.append([{"index": 9}])
    assert read_lines(path)[1] == [*RECORDS, {"index": 9}]


def test_a_file_cut_anywhere_keeps_its_complete_lines_and_continues(path):
    content = path.read_bytes()
    head = content.index(b"\n") + 1
    for length in range(head, len(content)):
        path.write_bytes(content[:length])
        complete = content[:length].count(b"\n") - 1
        assert read_lines(path)[1] == RECORDS[:complete]
        with ResultsFile(path, SETTINGS) as file:
            file.append([{"index": 9}])
        assert read_lines(path)[1] == [*RECORDS[:complete], {"index": 9}]


def test_an_append_is_one_write_followed_by_a_sync(path, monkeypatch):
    calls = []
    write, sync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda *args: (calls.append("write"), write(*args))[1])
    monkeypatch.setattr(os, "fsync", lambda *args: (calls.append("sync"), sync(*args))[1])
    with ResultsFile(path, SETTINGS) as file:
        calls.clear()
        file.append([{"index": 8}, {"index": 9}])
    assert calls == ["write", "sync"]


@pytest.mark.parametrize("failure", ["error", "short write"])
def test_a_full_disk_leaves_the_lines_before(path, monkeypatch, failure):
    write = os.write

    def full(descriptor, content):
        if failure == "error":
            raise OSError(28, "No space left on device")
        return write(descriptor, content[: len(content) // 2])

    with ResultsFile(path, SETTINGS) as file:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(ResultsError, match=r"cannot write the results to .*results\.jsonl"):
            file.append([{"index": 9}])
        monkeypatch.setattr(os, "write", write)
    assert read_lines(path)[1] == RECORDS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0.2}, r"eps was 0.1, now 0.2"),
        ({"methods": ["IBP"]}, r"methods was \['IBP', 'CROWN'\], now \['IBP'\]"),
        ({"seed": 1}, "seed was None, now 1"),
    ],
)
def test_other_settings_are_refused_by_name(path, change, message):
    for use in (ResultsFile, read_lines):
        with pytest.raises(ResultsError, match=message):
            use(path, SETTINGS | change)
    assert read_lines(path)[1] == RECORDS


def test_settings_that_json_writes_differently_are_the_same(path):
    assert read_lines(path, SETTINGS | {"methods": ("IBP", "CROWN"), "clip": (0, 1)})[1] == RECORDS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello\n", "not a results file"),
        (b'{"some": "json"}\n', "not a results file"),
        (b'{"format": "lbp-results", "version": 99, "settings": {}}\n', "version 99, this release reads 1"),
        (b'{"format":"lbp-results","version":1,"settings":[]}\n', "results of version 1"),
        (b'{"format":"lbp-results","version":1,"settings":{}}\n{"index"\n{"index":1}\n', "line 2 is damaged"),
        (b'{"format":"lbp-results","version":1,"settings":{}}\n[1]\n', "line 2 is damaged"),
    ],
)
def test_other_and_damaged_files_are_refused(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ResultsError, match=message):
        read_lines(tmp_path / "file")
    with pytest.raises(ResultsError, match=message):
        ResultsFile(tmp_path / "file", {})
    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_file_that_was_killed_in_its_first_line_begins_anew(path, share):
    head = path.read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(head[: int(share * len(head))])
    with pytest.raises(ResultsError, match="not a results file"):
        read_lines(path)
    with ResultsFile(path, SETTINGS) as file:
        file.append(RECORDS)
    assert read_lines(path) == (SETTINGS, RECORDS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ResultsError, match="nowhere"):
        read_lines(tmp_path / "nowhere")


def test_a_file_in_use_is_refused(path):
    with ResultsFile(path, SETTINGS), pytest.raises(ResultsError, match="in use by another process"):
        ResultsFile(path, SETTINGS)
    ResultsFile(path, SETTINGS).close()


def test_of_two_writers_that_start_together_one_is_refused(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, answers = context.Barrier(2), context.Queue()

    def write(name):
        for number in range(8):
            ready.wait()
            try:
                with ResultsFile(tmp_path / f"{number}", SETTINGS) as file:
                    file.append([{"index": name}])
                    ready.wait()
                answers.put((number, name))
            except ResultsError:
                ready.wait()

    writers = [context.Process(target=write, args=(name,)) for name in (1, 2)]
    for writer in writers:
        writer.start()
    found = dict(answers.get(timeout=60) for _ in range(8))
    for writer in writers:
        writer.join()
    assert answers.empty()
    assert {number: read_lines(tmp_path / f"{number}")[1] for number in range(8)} == {
        number: [{"index": name}] for number, name in found.items()
    }


def test_the_file_that_is_locked_is_the_one_that_the_path_names(path, monkeypatch):
    lock = fcntl.flock

    def replaced(descriptor, operation):
        # What another process does between the opening and the lock.
        monkeypatch.setattr(fcntl, "flock", lock)
        path.unlink()
        return lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replaced)
    with ResultsFile(path, SETTINGS) as file:
        file.append(RECORDS)
    assert read_lines(path)[1] == RECORDS


def test_nan_never_reaches_a_file(path):
    with ResultsFile(path, SETTINGS) as file, pytest.raises(ValueError, match="not JSON compliant"):
        file.append([{"index": 9, "margin": float("nan")}])
    for line in path.read_text().splitlines():
        json.loads(line)
