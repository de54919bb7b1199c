"""The report about an installation is complete and never fails."""

import pytest
import torch

import lbp
from lbp import _native, info


def test_every_fact_is_a_filled_string():
    facts = info.collect()
    assert list(facts) == [
        *("lbp", "Python", "PyTorch", "native library", "instruction set"),
        *("threads", "CUDA kernels", "CUDA", "platform"),
    ]
    assert all(isinstance(value, str) and value for value in facts.values())


def test_the_native_library_is_loaded_and_names_its_instruction_set():
    facts = info.collect()
    assert facts["native library"] == "loaded"
    assert facts["instruction set"] in ("portable", "avx2", "avx512")


def test_versions_are_those_in_use():
    facts = info.collect()
    assert facts["lbp"] == lbp.__version__
    assert facts["PyTorch"] == torch.__version__


def test_a_library_that_cannot_be_loaded_is_reported_with_its_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_native, "missing", "liblbp.so is not there")
    facts = info.collect()
    assert facts["native library"] == "not loaded: liblbp.so is not there"
    assert facts["instruction set"] == "none"


def test_where_pytorch_has_no_cuda_nothing_is_said_to_be_missing_for_kernels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(_native, "jit", object())
    monkeypatch.setattr(_native, "cuda_build", _native.JUST_IN_TIME)
    assert info.collect()["CUDA kernels"] == "just in time, with a PyTorch that has CUDA"


def test_cuda_of_pytorch_is_described(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert info.collect()["CUDA"] == "PyTorch was built without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert info.collect()["CUDA"] == "13.0, no device available"
