"""A process may keep the memory that it frees: what it writes again costs no page of the system."""

import subprocess
import sys

import pytest

from lbp import host_memory

SECOND_TOUCH = """
import ctypes, resource, runpy, sys
kept = runpy.run_path(sys.argv[1])["keep_freed_memory"]()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(2**26))
    ctypes.memset(block, 1, 2**26)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(kept, pages() > pages() + 16)
"""


def environment(monkeypatch, **variables):
    for name in ("GLIBC_TUNABLES", *host_memory._VARIABLES):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.skipif(host_memory.libc_function("gnu_get_libc_version") is None, reason="the C library is not glibc")
@pytest.mark.parametrize("variables", [{}, {"MALLOC_MMAP_THRESHOLD_": "131072"}])
def test_memory_that_was_freed_is_used_again_unless_the_environment_says_otherwise(monkeypatch, variables):
    environment(monkeypatch, **variables)
    command = [sys.executable, "-c", SECOND_TOUCH, host_memory.__file__]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert output == [str(not variables)] * 2


def test_tunables_of_the_environment_stay(monkeypatch):
    environment(monkeypatch, GLIBC_TUNABLES="glibc.malloc.check=1:glibc.malloc.mmap_max=0")
    assert not host_memory.keep_freed_memory()


def test_a_library_without_the_function_keeps_nothing(monkeypatch):
    environment(monkeypatch)
    monkeypatch.setattr(host_memory, "libc_function", lambda name: None)
    assert not host_memory.keep_freed_memory()
    host_memory.release_freed_memory()
