"""What setup.py builds, how it names it, and what it says when a tool is missing."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from setuptools import Distribution, Extension

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """setup.py as a module: it sets up nothing unless it is run."""
    spec = importlib.util.spec_from_file_location("lbp_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bare_machine(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder that is all of PATH; the interpreter has no scripts, and no compiler is named."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(script.sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def install(folder: Path, *names: str) -> None:
    for name in names:
        program = folder / name
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)


def test_the_wheel_serves_every_python_3_of_the_platform(script):
    command = script.PlatformWheel(Distribution({"name": "lbp", "ext_modules": [Extension("lbp.liblbp", [])]}))
    command.ensure_finalized()
    python, abi, platform = command.get_tag()
    assert (python, abi) == ("py3", "none")
    assert platform.startswith("linux_")


def test_the_library_lands_in_the_package_without_a_version_tag(script, tmp_path):
    distribution = Distribution({"name": "lbp", "packages": ["lbp"], "ext_modules": [Extension("lbp.liblbp", [])]})
    command = script.BuildLibrary(distribution)
    command.build_lib = str(tmp_path)
    command.ensure_finalized()
    assert Path(command.get_ext_fullpath("lbp.liblbp")) == tmp_path / script.LIBRARY
    assert command.get_ext_filename("lbp.liblbp") == str(script.LIBRARY)


@pytest.mark.parametrize(
    ("present", "sentence"),
    [
        ([], "cmake is missing.*pip install cmake"),
        (["cmake"], "ninja is missing.*pip install ninja"),
        (["cmake", "ninja"], r"A C\+\+17 compiler is missing.*Install one"),
    ],
)
def test_a_missing_tool_is_named_with_its_remedy(script, bare_machine, present, sentence):
    install(bare_machine, *present)
    with pytest.raises(SystemExit, match=sentence):
        script.build_library()


def test_a_compiler_that_cxx_names_wrongly_is_reported(script, bare_machine, monkeypatch):
    install(bare_machine, "cmake", "ninja", "g++")
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(SystemExit, match=r"CXX=no-such-compiler -m64 is not on PATH"):
        script.build_library()


def test_a_missing_torch_is_named_with_its_remedy(script, bare_machine, monkeypatch):
    install(bare_machine, "cmake", "ninja", "g++")
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"PyTorch is missing.*pip install 'torch>=2.11'.*--no-build-isolation"):
        script.build_library()


def test_a_failed_build_ends_with_the_command_that_failed(script, bare_machine):
    install(bare_machine, "cmake", "ninja", "g++")
    with pytest.raises(SystemExit, match=r"failed.*Command: .*cmake -S"):
        script.build_library()


def test_the_interpreters_own_tools_come_before_those_of_the_system(script):
    first = script.search_path().split(os.pathsep)[0]
    assert Path(first) == Path(script.sysconfig.get_path("scripts"))
    assert Path(first).is_relative_to(sys.prefix)


def test_the_wheel_carries_the_sources_of_kernels_that_are_compiled_just_in_time(script, monkeypatch, tmp_path):
    (tmp_path / "liblbp.so").write_bytes(b"library")
    monkeypatch.setattr(script, "build_library", lambda: tmp_path / "liblbp.so")
    command = script.BuildLibrary(Distribution({"name": "lbp", "ext_modules": [Extension("lbp.liblbp", [])]}))
    command.build_lib = str(tmp_path / "build")
    command.ensure_finalized()
    command.build_extension(Extension("lbp.liblbp", []))
    packed = tmp_path / "build" / "lbp"
    assert (packed / "liblbp.so").read_bytes() == b"library"
    for folder in ("csrc", "csrc/math", "csrc/cuda", "csrc/cuda/kernels"):
        for source in (ROOT / folder).glob("*.cuh" if "cuda" in folder else "*.h"):
            assert (packed / folder / source.name).read_text() == source.read_text()


def test_sources_that_an_earlier_build_has_packed_are_not_in_the_wheel(script, monkeypatch, tmp_path):
    (tmp_path / "liblbp.so").write_bytes(b"library")
    monkeypatch.setattr(script, "build_library", lambda: tmp_path / "liblbp.so")
    command = script.BuildLibrary(Distribution({"name": "lbp", "ext_modules": [Extension("lbp.liblbp", [])]}))
    command.build_lib = str(tmp_path / "build")
    command.ensure_finalized()
    packed = tmp_path / "build" / "lbp" / "csrc"
    packed.mkdir(parents=True)
    for name in ("arguments.h", "of_another_name.h"):
        (packed / name).write_text("// newer than the sources, and of others")
    command.build_extension(Extension("lbp.liblbp", []))
    assert (packed / "arguments.h").read_text() == (ROOT / "csrc" / "arguments.h").read_text()
    assert not (packed / "of_another_name.h").exists()


@pytest.mark.parametrize("value", ["ON", "OFF", None])
def test_the_choice_of_cuda_kernels_reaches_cmake_and_an_earlier_one_is_forgotten(script, monkeypatch, value):
    commands = []
    monkeypatch.setattr(script.subprocess, "run", lambda command, **keywords: commands.append(command) or Done())
    monkeypatch.delenv("LBP_CUDA", raising=False)
    if value is not None:
        monkeypatch.setenv("LBP_CUDA", value)
    script.build_library()
    assert ("-ULBP_CUDA" if value is None else f"-DLBP_CUDA={value}") in commands[0]


class Done:
    returncode = 0
