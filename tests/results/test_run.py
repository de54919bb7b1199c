"""Every image exactly once: over interruptions, over processes, over both."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time

import pytest
from pydantic import Field

from lbp.distributed import Workers, workers
from lbp.results import ResultsError, ResultsFile, read_lines, run_images
from lbp.settings import Settings

SETTINGS = {"power": 2}


class Squares:
    """Work that can fail after some batches, and counts what it was asked for."""

    def __init__(self, batch=3, fail_after=None):
        self.batch, self.fail_after, self.asked = batch, fail_after, []

    def __call__(self, todo, emit):
        for number, start in enumerate(range(0, len(todo), self.batch)):
            if number == self.fail_after:
                raise KeyboardInterrupt
            part = todo[start : start + self.batch]
            self.asked += part
            emit([{"index": index, "square": index**2} for index in reversed(part)])


def expected(total):
    return [{"index": index, "square": index**2} for index in range(total)]


def in_order(path):
    return sorted(read_lines(path, SETTINGS)[1], key=lambda record: record["index"])


@pytest.mark.parametrize("total", [0, 1, 10])
def test_results_come_in_the_order_of_the_images(tmp_path, total):
    for path in (None, tmp_path / "results"):
        assert run_images(Squares(), total, settings=SETTINGS, path=path) == expected(total)


def test_an_interrupted_run_continues_without_repetition(tmp_path):
    path = tmp_path / "results"
    first, second = Squares(fail_after=2), Squares()
    with pytest.raises(KeyboardInterrupt):
        run_images(first, 10, settings=SETTINGS, path=path)
    assert run_images(second, 10, settings=SETTINGS, path=path, resume=True) == expected(10)
    assert sorted(first.asked + second.asked) == list(range(10))
    assert len(read_lines(path)[1]) == 10


def test_a_finished_run_is_not_run_again(tmp_path):
    run_images(Squares(), 10, settings=SETTINGS, path=tmp_path / "results")
    again = Squares()
    assert run_images(again, 10, settings=SETTINGS, path=tmp_path / "results", resume=True) == expected(10)
    assert again.asked == []


def test_results_are_never_overwritten(tmp_path):
    path = tmp_path / "results"
    run_images(Squares(), 4, settings=SETTINGS, path=path)
    content = path.read_bytes()
    with pytest.raises(ResultsError, match="exists; continue it by --resume"):
        run_images(Squares(), 4, settings=SETTINGS, path=path)
    with pytest.raises(ResultsError, match="power was 2, now 3"):
        run_images(Squares(), 4, settings={"power": 3}, path=path, resume=True)
    assert path.read_bytes() == content


class Square(Settings):
    index: int
    square: int = Field(ge=0)


def test_a_damaged_record_is_refused_before_anything_is_built_on_it(tmp_path):
    path, again = tmp_path / "results", Squares()
    run_images(Squares(), 4, settings=SETTINGS, path=path, kind=Square)
    path.write_bytes(path.read_bytes().replace(b'"square":4', b'"square":-' + b"4"))
    with pytest.raises(ResultsError, match=r"line \d is no result of this kind \(square: .* got -4\)"):
        run_images(again, 5, settings=SETTINGS, path=path, resume=True, kind=Square)
    assert again.asked == []


@pytest.mark.parametrize("index", [-1, 4, 10**30])
def test_a_result_of_an_image_that_is_not_there_is_refused(tmp_path, index):
    path, again = tmp_path / "results", Squares()
    run_images(Squares(), 4, settings=SETTINGS, path=path)
    path.write_bytes(path.read_bytes().replace(b'"index":3', b'"index":%d' % index))
    with pytest.raises(ResultsError, match=f"results: a result of image {index}, where there are 4"):
        run_images(again, 4, settings=SETTINGS, path=path, resume=True)
    assert again.asked == []


@pytest.mark.parametrize("index", ["true", "1.0", "null"])
def test_a_result_without_the_number_of_its_image_is_refused(tmp_path, index):
    path, again = tmp_path / "results", Squares()
    run_images(Squares(), 4, settings=SETTINGS, path=path)
    path.write_text(path.read_text().replace('"index":1', f'"index":{index}'))
    with pytest.raises(ResultsError, match="a result without the number of its image"):
        run_images(again, 4, settings=SETTINGS, path=path, resume=True)
    assert again.asked == []


def test_a_result_with_the_label_of_another_image_is_refused(tmp_path):
    path, again, labels = tmp_path / "results", Squares(), [0, 1, 1]

    def work(todo, emit):
        emit([{"index": index, "label": labels[index]} for index in todo])

    found = run_images(work, 3, settings=SETTINGS, labels=labels, path=path)
    assert run_images(again, 3, settings=SETTINGS, labels=labels, path=path, resume=True) == found
    path.write_bytes(path.read_bytes().replace(b'"index":2,"label":1', b'"index":2,"label":0'))
    with pytest.raises(ResultsError, match="results: image 2 has the label 1, not that of its line"):
        run_images(again, 3, settings=SETTINGS, labels=labels, path=path, resume=True)
    assert again.asked == []


def test_progress_starts_with_what_was_found(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_images(Squares(fail_after=1), 7, settings=SETTINGS, path=tmp_path / "results")
    seen = []
    run_images(
        Squares(), 7, settings=SETTINGS, path=tmp_path / "results", resume=True,
        progress=lambda records, total: seen.append((len(records), total)),
    )  # fmt: skip
    assert seen == [(3, 7), (3, 7), (1, 7)]


def test_left_out_images_are_an_error():
    with pytest.raises(ResultsError, match="2 of 5 images have no result, the first is image 3"):
        run_images(lambda todo, emit: Squares()(todo[:3], emit), 5, settings=SETTINGS)


def test_contradictory_results_are_an_error(tmp_path):
    path = tmp_path / "results"
    run_images(Squares(), 4, settings=SETTINGS, path=path)
    with path.open("a") as stream:
        stream.write('{"index":2,"square":5}\n')
    with pytest.raises(ResultsError, match="image 2 has two different results"):
        run_images(Squares(), 4, settings=SETTINGS, path=path, resume=True)


def test_parts_of_several_processes_are_continued_by_one(tmp_path):
    # What two processes leave behind when they are killed: a part each, and no collected file.
    path = tmp_path / "results"
    for rank, indices in enumerate([[0, 2], [1]]):
        run_images(
            lambda todo, emit, indices=indices: emit([{"index": index, "square": index**2} for index in indices]),
            0, settings=SETTINGS, path=tmp_path / f"results.part-{rank}",
        )  # fmt: skip
    with pytest.raises(ResultsError, match="part-0 exists"):
        run_images(Squares(), 6, settings=SETTINGS, path=path)
    rest = Squares()
    assert run_images(rest, 6, settings=SETTINGS, path=path, resume=True) == expected(6)
    assert rest.asked == [3, 4, 5]
    assert [name.name for name in tmp_path.iterdir()] == ["results"]
    assert in_order(path) == expected(6)


def in_threads(size, run):
    """Runs a function in threads, each of which is a worker of a group."""
    meeting, spoken = threading.Barrier(size), [None] * size

    class Together(Workers):
        def gather(self, value):
            spoken[self.rank] = value
            meeting.wait()
            heard = list(spoken)
            meeting.wait()
            return heard

    threads = [threading.Thread(target=run, args=(Together(rank, size),), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_machines_without_a_common_disk_leave_no_parts(tmp_path):
    def run(group):
        path = tmp_path / ("first" if group.rank < 2 else "second") / "results"
        path.parent.mkdir(exist_ok=True)
        run_images(Squares(), 8, settings=SETTINGS, path=path, group=group)

    in_threads(4, run)
    assert [name.relative_to(tmp_path).as_posix() for name in tmp_path.glob("*/*")] == ["first/results"]
    assert in_order(tmp_path / "first" / "results") == expected(8)


@pytest.mark.parametrize("size", [1, 2])
def test_nobody_else_may_touch_the_files_of_a_run(tmp_path, size):
    path, refusals, results = tmp_path / "results", [], []

    def run(group):
        def work(todo, emit):
            Squares()(todo[:1], emit)
            with pytest.raises(ResultsError) as refusal:
                run_images(Squares(), 8, settings=SETTINGS, path=path, resume=True)
            refusals.append(str(refusal.value))
            Squares()(todo[1:], emit)

        results.append(run_images(work, 8, settings=SETTINGS, path=path, group=group))

    in_threads(size, run)
    assert results == [expected(8)] * size
    assert refusals == [f"{path} is in use by another process; wait for it, or name another file"] * size
    assert in_order(path) == expected(8)


def test_parts_in_use_are_left_alone(tmp_path):
    path, part = tmp_path / "results", tmp_path / "results.part-1"
    with ResultsFile(part, SETTINGS) as live:
        live.append(expected(2))
        with pytest.raises(ResultsError, match="part-1 is in use by another process"):
            run_images(Squares(), 8, settings=SETTINGS, path=path, resume=True)
        live.append(expected(3)[2:])
    assert list(tmp_path.iterdir()) == [part], "what is refused leaves no file of its own"
    assert read_lines(part)[1] == expected(3)


def another_run_comes_first(path, monkeypatch):
    """Lets another run do all images just before the next one opens its file."""

    def opened_late(*arguments):
        monkeypatch.setattr(results, "ResultsFile", ResultsFile)
        run_images(Squares(), 8, settings=SETTINGS, path=path)
        return ResultsFile(*arguments)

    results = sys.modules["lbp.results.run"]
    monkeypatch.setattr(results, "ResultsFile", opened_late)


def test_what_another_run_finished_meanwhile_is_not_done_again(tmp_path, monkeypatch):
    path, later = tmp_path / "results", Squares()
    another_run_comes_first(path, monkeypatch)
    assert run_images(later, 8, settings=SETTINGS, path=path, resume=True) == expected(8)
    assert later.asked == []


def test_without_resume_results_that_appear_meanwhile_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "results"
    another_run_comes_first(path, monkeypatch)
    with pytest.raises(ResultsError, match="exists; continue it by --resume"):
        run_images(Squares(), 8, settings=SETTINGS, path=path)
    assert in_order(path) == expected(8)


def test_a_disk_that_is_full_at_the_end_keeps_the_parts(tmp_path, monkeypatch):
    path, errors = tmp_path / "results", []
    append = ResultsFile.append

    def full(file, records):
        records = list(records)
        if file.path == path and any(record["index"] % 2 for record in records):
            raise ResultsError(f"cannot write the results to {path} (No space left on device)")
        append(file, records)

    def run(group):
        with pytest.raises(ResultsError, match="No space left") as caught:
            run_images(Squares(), 8, settings=SETTINGS, path=path, group=group)
        errors.append(str(caught.value))

    with monkeypatch.context() as patch:
        patch.setattr(ResultsFile, "append", full)
        in_threads(2, run)
    assert len(errors) == 2, "all processes stop"
    rest = Squares()
    assert run_images(rest, 8, settings=SETTINGS, path=path, resume=True) == expected(8)
    assert rest.asked == []
    assert list(tmp_path.iterdir()) == [path]


def test_every_process_takes_a_share_of_its_own():
    # Without a process group the shares can be seen one by one.
    class Alone(Workers):
        def gather(self, value):
            return [value]

    shares = []
    for rank in range(3):
        work = Squares()
        with pytest.raises(ResultsError, match="have no result"):
            run_images(work, 10, settings=SETTINGS, group=Alone(rank, 3))
        shares.append(work.asked)
    assert sorted(index for share in shares for index in share) == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


class Killed(Squares):
    """Work that ends by kill -9."""

    def __call__(self, todo, emit):
        try:
            super().__call__(todo, emit)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGKILL)


def in_process(environment, work, path):
    os.environ |= environment
    with workers() as group:
        run_images(work, 12, settings=SETTINGS, path=path, resume=True, group=group)


def run_processes(works, path):
    """Runs one process per work as torchrun would, and gives their exit codes; -9 is a kill."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(works))}
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=in_process, args=(common | {"RANK": str(rank)}, work, path))
        for rank, work in enumerate(works)
    ]
    for process in processes:
        process.start()
    # torchrun ends the others when one process dies.
    while (codes := [process.exitcode for process in processes]).count(None):
        if any(code not in (None, 0) for code in codes):
            for process in processes:
                process.kill()
        time.sleep(0.01)
    return codes


def test_a_killed_process_loses_nothing(tmp_path):
    path = tmp_path / "results"
    assert run_processes([Killed(batch=1, fail_after=5)], path) == [-signal.SIGKILL]
    assert read_lines(path)[1] == expected(5)
    assert run_processes([Squares()], path) == [0]
    assert sorted(record["index"] for record in read_lines(path)[1]) == list(range(12))


def test_two_processes_share_the_images_and_survive_a_kill(tmp_path):
    path = tmp_path / "results"
    codes = run_processes([Killed(batch=1, fail_after=2), Killed(batch=1, fail_after=2)], path)
    assert -signal.SIGKILL in codes
    known = [record for part in tmp_path.glob("results*") for record in read_lines(part)[1]]
    assert 2 <= len(known) <= 4
    assert run_processes([Squares(), Squares()], path) == [0, 0]
    assert [name.name for name in tmp_path.iterdir()] == ["results"]
    assert in_order(path) == expected(12)


def test_a_refusal_stops_every_process(tmp_path):
    path = tmp_path / "results"
    run_images(Squares(), 4, settings={"power": 3}, path=path)
    assert run_processes([Squares(), Squares()], path) == [1, 1]
    assert [name.name for name in tmp_path.iterdir()] == ["results"]
