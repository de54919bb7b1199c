"""The reader of plain pickles: data comes through, programs do not."""

import os
import pickle
import random
import struct

import numpy as np
import pytest

from lbp.data.plain_pickle import PickleRefusedError, read_plain_pickle

PLAIN = {
    b"data": np.arange(12, dtype=np.uint8).reshape(2, 6),
    b"fortran": np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
    b"labels": [0, 1, 300, -5, 2**40],
    "text": ("é", b"x" * 300, 1.5, None, True, False, [], {}, ()),
}


class Calls:
    """A pickle of this object calls a function when it is loaded by pickle."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(5))
def test_plain_data_comes_through(protocol):
    read = read_plain_pickle(pickle.dumps(PLAIN, protocol))
    assert read.keys() == PLAIN.keys()
    for key in (b"data", b"fortran"):
        assert read[key].dtype == np.uint8
        assert np.array_equal(read[key], PLAIN[key])
    assert read[b"labels"] == PLAIN[b"labels"]
    assert read["text"] == PLAIN["text"]


def test_strings_of_python_2_are_bytes():
    python2 = b"\x80\x02}q\x01U\x04dataq\x02U\x03\xff\x00aq\x03s."
    assert read_plain_pickle(python2) == {b"data": b"\xff\x00a"}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "function", [os.system, os.mkdir, eval, exec, open, __import__, getattr, np.load, bytearray, pickle.loads]
)
def test_calls_are_refused_and_not_made(tmp_path, monkeypatch, protocol, function):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"data": Calls(function, "touched")}, protocol)
    with pytest.raises(PickleRefusedError):
        read_plain_pickle(content)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(ios\nsystem\nS'true'\no.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02cnumpy\nload\n.",
        b"\x80\x02cnumpy\nndarray\n.",
        b"\x80\x02cnumpy\nndarray\n)R.",
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"Pname\n.",
        b"\x80\x02\x8c\x05numpy\x8c\x04load\x93.",
    ],
)
def test_hand_written_programs_are_refused(content):
    with pytest.raises(PickleRefusedError):
        read_plain_pickle(content)


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.dtype("O")])
def test_arrays_of_other_types_are_refused(kind):
    with pytest.raises(PickleRefusedError):
        read_plain_pickle(pickle.dumps(np.zeros(3, kind), 2))


def test_every_truncation_is_refused():
    content = pickle.dumps(PLAIN, 2)
    for length in range(len(content)):
        with pytest.raises(PickleRefusedError):
            read_plain_pickle(content[:length])


def test_announced_lengths_allocate_nothing():
    for opcode, length in ((b"B", "<I"), (b"\x8e", "<Q"), (b"\x96", "<Q"), (b"r", "<I"), (b"\x8b", "<I")):
        content = b"\x80\x05]" + opcode + struct.pack(length, 2**31 - 1) + b"abc."
        try:
            assert read_plain_pickle(content) == []
        except PickleRefusedError:
            continue


def test_shared_lists_do_not_unfold():
    nested = []
    for _ in range(15):
        nested = [nested] * 50
    read = read_plain_pickle(pickle.dumps(nested, 2))
    assert read[0] is read[49]


def test_lists_that_contain_themselves_are_refused():
    endless = []
    endless.append(endless)
    with pytest.raises(PickleRefusedError):
        read_plain_pickle(pickle.dumps(endless, 2))


def test_random_damage_is_refused_or_read_as_data():
    content = pickle.dumps(PLAIN, 2)
    generator = random.Random(0)
    for _ in range(2000):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        try:
            read_plain_pickle(bytes(damaged))
        except PickleRefusedError:
            continue
