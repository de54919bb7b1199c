"""The reference is an oracle only as long as nothing that it checks computes with it."""

import ast
from pathlib import Path

import pytest

import lbp

PACKAGE = Path(lbp.__file__).parent
MEASURED = {PACKAGE / "bench" / name for name in ("contenders.py", "plain.py")}
"""The reference as a contender of its own, plain PyTorch."""

SHARED = {"lbp.precision", "lbp.strategies"}
"""What the reference itself may take of the package: precision of library products, names and types."""


def sources(folder, outside):
    return [path for path in sorted(folder.rglob("*.py")) if outside not in path.parents]


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "lbp":
            yield from (f"lbp.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def is_dispatch(node):
    """Whether a statement is `if current_backend() == "reference"`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "current_backend() == 'reference'"


def uses_outside_dispatch(tree):
    inside = {use for branch in ast.walk(tree) if is_dispatch(branch) for part in branch.body for use in ast.walk(part)}
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == "reference" and isinstance(node.ctx, ast.Load)
        if node not in inside
    ]


@pytest.mark.parametrize(
    "path", sources(PACKAGE, PACKAGE / "reference"), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_nothing_computes_with_the_reference_but_the_backend_of_that_name(path):
    tree = ast.parse(path.read_text())
    found = {name for name in imports(tree) if name == "lbp.reference" or name.startswith("lbp.reference.")}
    if not found or path in MEASURED:
        return
    assert path.parent == PACKAGE / "ops"
    assert found == {"lbp.reference"}
    assert uses_outside_dispatch(tree) == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "reference").glob("*.py")), ids=lambda path: path.name)
def test_the_reference_computes_with_nothing_of_what_it_checks(path):
    tree = ast.parse(path.read_text())
    assert {name for name in imports(tree) if name.startswith("lbp")} <= SHARED | {
        f"lbp.reference.{other.stem}" for other in (PACKAGE / "reference").glob("*.py")
    }
