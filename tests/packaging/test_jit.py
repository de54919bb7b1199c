"""Kernels compiled just in time: what is compiled, where it is kept, and what is said where it cannot be."""

import errno
import re
from pathlib import Path

import pytest
import torch

from lbp import _jit, _native, info

KERNEL = "lbp::cuda::some_kernel<float, lbp::cuda::SomeProduct<4>>"


class Nvrtc:
    """Stands in for NVRTC: keeps what it is asked for, and its image is the program's text."""

    class NVRTCError(RuntimeError):
        pass

    def __init__(self):
        self.sources, self.options, self.fails = [], [], False

    def getVersion(self):
        return 13, 0

    def getSupportedArchs(self):
        return [75, 80, 90, 100]

    def createProgram(self, source, name, headers, include_names):
        self.sources.append(source)
        return source

    def addNameExpression(self, program, name):
        pass

    def compileProgram(self, program, options):
        self.options.append(options)
        if self.fails:
            raise self.NVRTCError("NVRTC_ERROR_COMPILATION (6)")

    def getProgramLog(self, program):
        return "line 3: expected a ;"

    def getCUBIN(self, program):
        return b"\x7fELF\n" + program.encode()

    def getPTX(self, program):
        return "ptx of " + program

    def getLoweredName(self, program, name):
        return "_Z" + re.sub(r"\W", "", name)

    def destroyProgram(self, program):
        pass


@pytest.fixture
def nvrtc(monkeypatch, tmp_path):
    """The stand-in, with two headers as sources and an empty cache."""
    folder = tmp_path / "csrc" / "cuda" / "kernels"
    folder.mkdir(parents=True)
    (folder / "some.cuh").write_text(
        "template <typename T, typename P>\nLBP_KERNEL void LBP_LAUNCH_BOUNDS(P::kThreads, 2) some_kernel(const A<T>);"
    )
    (folder / "product.cuh").write_text("template <int n>\nstruct SomeProduct {};\nstruct Other;")
    stand_in = Nvrtc()
    monkeypatch.setattr(_jit, "sources", lambda: tmp_path / "csrc")
    monkeypatch.setattr(_jit, "_nvrtc", lambda: stand_in)
    monkeypatch.setenv("LBP_CACHE_DIR", str(tmp_path / "cache"))
    _jit._headers.cache_clear()
    yield stand_in
    _jit._headers.cache_clear()


class Library:
    """Stands in for a library, which keeps the answers of the compiler, and says what it was built from or does not."""

    def __init__(self, built_from):
        self.images, self.refusals = [], []
        self.lbp_jit_kernel = lambda number: None
        self.lbp_jit_set_compiler = lambda compiler: None
        self.lbp_jit_answer = lambda request, image, size, symbol: self.images.append(image)
        self.lbp_jit_refuse = lambda request, reason: self.refusals.append(reason.decode())
        if built_from is not None:
            self.lbp_jit_sources = lambda: built_from.encode()


def ask(monkeypatch, built_from):
    """Have a library that was built from such sources ask for a kernel, and return the library."""
    library = Library(built_from)
    monkeypatch.setattr(_jit.ctypes, "CDLL", lambda path: library)
    _jit.Jit(Path("lib.so"))._answer(1, KERNEL.encode(), 9, 0)
    return library


def test_a_kernel_is_compiled_with_the_headers_of_its_name_and_without_fused_operations(nvrtc):
    code = _jit.compiled(KERNEL, 90)
    assert nvrtc.sources[0].startswith('#include "cuda/kernels/product.cuh"\n#include "cuda/kernels/some.cuh"\n')
    (options,) = nvrtc.options
    assert "--gpu-architecture=sm_90" in options
    assert "--fmad=false" in options
    assert not any("fast" in option for option in options)
    assert code.image == b"\x7fELF\n" + nvrtc.sources[0].encode()


def test_a_second_process_reads_what_the_first_has_compiled(nvrtc):
    first = _jit.compiled(KERNEL, 90)
    assert _jit.compiled(KERNEL, 90) == first
    assert len(nvrtc.sources) == 1


def test_another_device_another_version_and_other_sources_are_compiled_anew(nvrtc, monkeypatch):
    _jit.compiled(KERNEL, 90)
    _jit.compiled(KERNEL, 80)
    monkeypatch.setattr(nvrtc, "getVersion", lambda: (13, 1))
    _jit.compiled(KERNEL, 90)
    header = _jit.sources() / "cuda" / "kernels" / "some.cuh"
    header.write_text(header.read_text() + "\n")
    _jit.compiled(KERNEL, 90)
    assert len(nvrtc.sources) == 4


def test_a_library_gets_kernels_of_the_sources_that_it_was_built_from(nvrtc, monkeypatch):
    library = ask(monkeypatch, _jit.sources_digest())
    assert len(library.images) == 1
    assert not library.refusals


def test_kernels_of_other_sources_than_those_of_the_library_are_refused(nvrtc, monkeypatch):
    before = _jit.sources_digest()
    assert ask(monkeypatch, before).images
    (_jit.sources() / "arguments.h").write_text("template <typename T> struct A { T more; };")
    for built_from in (before, None):
        library = ask(monkeypatch, built_from)
        assert not library.images
        assert "are not those that the library was built from" in library.refusals[0]
        assert "rebuild or reinstall lbp" in library.refusals[0]
    assert ask(monkeypatch, _jit.sources_digest()).images


@pytest.mark.parametrize(
    "damaged",
    [
        lambda whole: b"",
        lambda whole: b"no end of line",
        lambda whole: whole[:-1],
        lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
        lambda whole: whole.partition(b"\n")[2],
    ],
    ids=["empty", "one line", "truncated", "one bit", "without its digest"],
)
def test_a_damaged_file_in_the_cache_is_replaced(nvrtc, damaged):
    code = _jit.compiled(KERNEL, 90)
    (path,) = _jit.cache_folder().iterdir()
    whole = path.read_bytes()
    path.write_bytes(damaged(whole))
    assert _jit.compiled(KERNEL, 90) == code
    assert path.read_bytes() == whole
    assert len(nvrtc.sources) == 2


def test_a_cache_that_cannot_be_written_costs_time_and_no_result(nvrtc, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LBP_CACHE_DIR", str(tmp_path / "file" / "folder"))
    with pytest.warns(UserWarning, match="name a folder by LBP_CACHE_DIR"):
        assert _jit.compiled(KERNEL, 90).image


def test_a_kernel_that_cannot_be_kept_leaves_nothing_behind(nvrtc, monkeypatch):
    folder = _jit.cache_folder()
    folder.mkdir()

    def disk_is_full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", disk_is_full)
    with pytest.warns(UserWarning, match=r"No space left on device.*every process compiles them again"):
        assert _jit.compiled(KERNEL, 90).image
    assert not any(folder.iterdir())


def test_a_user_without_a_home_has_no_cache(nvrtc, monkeypatch):
    monkeypatch.delenv("LBP_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.warns(UserWarning, match="the user has no home.*name a folder by LBP_CACHE_DIR"):
        assert _jit.compiled(KERNEL, 90).image


def test_the_cache_stands_with_the_users_other_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("LBP_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _jit.cache_folder() == tmp_path / "lbp"


def test_a_device_newer_than_nvrtc_gets_ptx_for_its_driver(nvrtc):
    assert _jit.compiled(KERNEL, 121).image.startswith(b"ptx of ")
    assert "--gpu-architecture=compute_100" in nvrtc.options[0]


def test_a_device_that_nvrtc_no_longer_knows_is_refused(nvrtc):
    with pytest.raises(_jit.CompileError, match=r"NVRTC 13\.0 does not compile for sm_61: the device is too old"):
        _jit.compiled(KERNEL, 61)


def test_an_error_of_the_compiler_is_shown_with_its_log(nvrtc):
    nvrtc.fails = True
    with pytest.raises(_jit.CompileError, match=r"some_kernel.*does not compile for sm_90.*\nline 3: expected a ;"):
        _jit.compiled(KERNEL, 90)
    assert not _jit.cache_folder().exists()


def test_a_kernel_without_a_source_is_named(nvrtc):
    with pytest.raises(_jit.CompileError, match="defines other_kernel: reinstall lbp"):
        _jit.compiled("lbp::cuda::other_kernel<float>", 90)


def test_without_cupy_the_report_says_what_to_install(monkeypatch):
    def missing():
        raise _jit.CompileError("NVRTC cannot be loaded; `pip install lbp[cupy]`")

    monkeypatch.setattr(_jit, "_nvrtc", missing)
    monkeypatch.setattr(_native, "jit", object())
    monkeypatch.setattr(_native, "cuda_build", "just in time")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert info.collect()["CUDA kernels"].startswith("just in time, not possible: NVRTC cannot be loaded")
    assert "lbp[cupy]" in info.collect()["CUDA kernels"]


@pytest.mark.skipif(_native.jit is None, reason="this build compiles nothing just in time")
class TestThisBuild:
    def test_every_kernel_that_it_launches_has_a_header(self):
        for kernel in _native.jit.kernels():
            for header in _jit.headers_of(kernel):
                assert (_jit.sources() / header).is_file()

    def test_it_says_which_sources_it_was_built_from(self):
        assert _native.jit.built_from == _jit.sources_digest()

    def test_a_kernel_of_it_compiles(self):
        pytest.importorskip(
            "cupy_backends", reason="needs CuPy: `make cuda-check` installs it and compiles all kernels"
        )
        if not _native.jit.kernels():
            pytest.skip("no kernel is launched yet")
        symbols, image = _jit.compile_kernels(_native.jit.kernels()[:1], 90)
        assert image.startswith(b"\x7fELF")
        assert all(symbol.encode() in image for symbol in symbols.values())


def test_the_sources_of_a_wheel_come_before_those_of_a_tree(monkeypatch, tmp_path):
    monkeypatch.setattr(_jit, "__file__", str(tmp_path / "lbp" / "_jit.py"))
    assert _jit.sources() == tmp_path / "csrc"
    (tmp_path / "lbp" / "csrc").mkdir(parents=True)
    assert _jit.sources() == tmp_path / "lbp" / "csrc"


def test_the_cupy_extra_is_the_one_that_errors_name():
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert re.search(r"^cupy = \[", project.read_text(), re.MULTILINE)
