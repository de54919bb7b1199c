"""Tests that need a CUDA device: `pytest -m gpu`. Elsewhere the first case of each is skipped, with the reason."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ops import cases

from lbp import _native


def why_not() -> str | None:
    """Say what is missing for these tests, or None."""
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    if not torch.cuda.is_available():
        return "no CUDA device is available"
    if _native.missing is not None or _native.cuda_build == "none":
        return "this build of lbp has no CUDA kernels"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = why_not()
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
    if reason is not None:
        first = {item.nodeid.partition("[")[0]: item for item in reversed(here)}
        others = {*here}.difference(first.values())
        items[:] = [item for item in items if item not in others]
        config.hook.pytest_deselected(items=[*others])


@pytest.fixture
def native_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `ops.cases.evaluate` run the native backend on the device; the reference stays on the CPU."""
    monkeypatch.setattr(cases, "native_device", "cuda")


@pytest.fixture
def cuda_by_default() -> Iterator[None]:
    """Make tensors on the device where a test names none."""
    torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)
