"""The floors of ARCHITECTURE.md are those of the imports: each module imports only what stands below it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def floors():
    """Returns the number of the floor of every part of the package, from the top."""
    rows = [line.split("|")[1] for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines() if "| `lbp/" in line]
    names = [re.findall(r"`(?:lbp/)?([\w.]+)/?`", row) for row in rows]
    return {name.removesuffix(".py"): number for number, row in enumerate(names) for name in row}


def parts_imported(path):
    """Returns the parts of the package that a module imports when it runs, not for the sake of types alone."""
    tree = ast.parse(path.read_text())
    for_types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    left_out = {id(inner) for node in for_types for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("lbp.")}


def modules():
    """Returns every module but the package's own two, with the part that it belongs to."""
    paths = (path for path in (ROOT / "lbp").rglob("*.py") if path.parent.name != "lbp" or path.stem[:2] != "__")
    return [(path, path.relative_to(ROOT / "lbp").with_suffix("").parts[0]) for path in paths]


def test_every_part_stands_on_a_floor():
    assert {part for _, part in modules()} == floors().keys()


def test_nothing_imports_what_stands_above_it():
    number = floors()
    upward = [
        (path.relative_to(ROOT).as_posix(), name)
        for path, part in modules()
        for name in parts_imported(path) & number.keys()
        if number[name] < number[part]
    ]
    assert upward == []
