"""Names, versions and pins agree wherever they are written down."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import lbp

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = {
    requirement.name.lower(): requirement
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
    for requirement in [Requirement(line)]
}
ASKED_FOR = (
    PROJECT["build-system"]["requires"]
    + PROJECT["project"]["dependencies"]
    + PROJECT["project"]["optional-dependencies"]["dev"]
)


def test_the_version_is_the_same_everywhere():
    version = PROJECT["project"]["version"]
    assert lbp.__version__ == version
    assert importlib.metadata.version("lbp") == version


@pytest.mark.parametrize("wanted", ASKED_FOR)
def test_every_dependency_is_pinned_within_its_range(wanted):
    requirement = Requirement(wanted)
    pin = PINS[requirement.name.lower()]
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    assert requirement.specifier.contains(specifier.version)


def test_the_stable_abi_is_that_of_the_oldest_torch_that_is_asked_for():
    (torch,) = (Requirement(text) for text in PROJECT["project"]["dependencies"] if text.startswith("torch"))
    (specifier,) = torch.specifier
    major, minor = map(int, specifier.version.split("."))
    source = (ROOT / "cmake" / "Torch.cmake").read_text()
    target = int(re.search(r"TORCH_TARGET_VERSION=(0x[0-9a-f]+)", source)[1], 16)
    assert target == (major << 56) | (minor << 48)
    assert f"VERSION_LESS {major}.{minor})" in source
