"""Instances files of VNN-COMP: their lines, and whether everything that they name can be read."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from lbp.errors import InvalidInputError, LbpError, reason_of
from lbp.onnx_import import load_onnx
from lbp.settings import parse_decimal
from lbp.vnnlib import read_vnnlib


class Instance(NamedTuple):
    """A network and a property.

    Attributes:
        network, specification: names of files, beside the instances file.
        seconds: time limit; None: none.
    """

    network: str
    specification: str
    seconds: float | None


def read_instances(path: Path) -> list[Instance]:
    """Return the instance of every line.

    Raises:
        InvalidInputError: no such file, or a line of another form.
    """
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise InvalidInputError(f"{path}: cannot be read ({reason_of(error)})") from error
    found = []
    for place, cells in enumerate(lines, start=1):
        if not cells:
            continue
        try:
            network, specification, *limits = (cell.strip() for cell in cells)
            limit = parse_decimal(limits[0]) if limits else None
            if limit is not None and not limit > 0:
                raise ValueError("no time")
            found.append(Instance(network, specification, limit))
        except ValueError as error:
            raise InvalidInputError(
                f"{path}, line {place}: expected NET.onnx,PROP.vnnlib,SECONDS with SECONDS above 0, got {cells}"
            ) from error
    return found


def beside(instances: Path, name: str) -> Path:
    """Return the file that a line names, or its compressed form where only that is there."""
    path = instances.parent / name
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.exists() and not path.exists() else path


def check_files(pairs: Sequence[tuple[Path, Path]]) -> int:
    """Read networks and properties, each file once, and print what each is or why it is refused.

    A property is refused as well where its variables do not fit the network beside it.

    Returns:
        the number of refusals.
    """
    console, refused = Console(soft_wrap=True), 0
    networks: dict[Path, tuple[int, int] | None] = {}
    properties: dict[Path, tuple[int, int] | None] = {}
    for network, specification in pairs:
        if network not in networks:
            networks[network] = _shown(console, network, _network_sizes)
        if specification not in properties:
            properties[specification] = _shown(console, specification, _property_sizes)
        sizes, expected = properties[specification], networks[network]
        if sizes is not None and expected is not None and sizes != expected:
            console.print(f"refused {specification}: does not fit {network}", highlight=False, markup=False)
            refused += 1
    for kind, files in (("networks", networks), ("properties", properties)):
        bad = sum(sizes is None for sizes in files.values())
        refused += bad
        console.print(f"{kind}: {len(files) - bad} read, {bad} refused", highlight=False)
    return refused


def _shown(console: Console, path: Path, sizes_of: Callable[[Path], tuple[int, int]]) -> tuple[int, int] | None:
    try:
        sizes = sizes_of(path)
    except LbpError as error:
        console.print(f"refused {error}", highlight=False, markup=False)
        return None
    console.print(f"read {path}: {sizes[0]} inputs, {sizes[1]} outputs", highlight=False, markup=False)
    return sizes


def _network_sizes(path: Path) -> tuple[int, int]:
    module = load_onnx(path)
    return math.prod(module.input_shape), math.prod(module.output_shape)


def _property_sizes(path: Path) -> tuple[int, int]:
    problem = read_vnnlib(path)
    return problem.inputs, problem.outputs
