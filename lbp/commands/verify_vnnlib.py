"""`lbp verify-vnnlib`."""

import csv
import io
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from lbp.commands.instances import beside, check_files, read_instances
from lbp.commands.options import (
    MemoryBudget,
    RoundingLevel,
    names,
    number,
    prepare_files,
    strategy_names,
    write_files,
)
from lbp.errors import InvalidInputError, OutputError, reason_of
from lbp.files import append_durably
from lbp.onnx_import import load_onnx, read_onnx
from lbp.rounding import LEVELS
from lbp.verification import method_names
from lbp.verification.properties import (
    CASCADE,
    Deadline,
    OutOfTimeError,
    PropertyResult,
    Verdict,
    check_split_method,
    verify_property,
)
from lbp.vnnlib import counterexample_text, read_vnnlib

EXIT_CODES = {Verdict.HOLDS: 0, Verdict.VIOLATED: 10, Verdict.UNKNOWN: 11, Verdict.TIMEOUT: 12}
"""Exit codes of a single instance; errors that a user can mend give 2, others 1."""

SENTENCES = {
    Verdict.HOLDS: "the property holds",
    Verdict.VIOLATED: "the property is violated, and a counterexample was found",
    Verdict.UNKNOWN: "neither a proof nor a counterexample was found",
    Verdict.TIMEOUT: "the time ran out",
}

DOUBLE_UP_TO = 100_000
"""Number of neurons up to which bounds are computed in float64 unless the user chooses."""

ERROR = "error"


@dataclass(frozen=True)
class Choices:
    """How instances are decided.

    Attributes:
        methods: for the whole box.
        split_method: for its parts.
        strategy: bounding lines.
        precision: "auto", "float32" or "float64".
        memory_budget: bytes that bounds may take; None: half of the memory that is free.
        rounding: what the bounds account for.
    """

    methods: tuple[str, ...]
    split_method: str
    strategy: str
    precision: str
    memory_budget: int | None
    rounding: str

    def dtype(self, neurons: int, own: torch.dtype) -> torch.dtype:
        """Return the dtype of the bounds of a network with so many neurons, in whose file `own` is the dtype.

        Evaluations of the network that "inference" is to cover are those in the dtype of the file.
        """
        if self.precision == "auto" and self.rounding == "inference":
            return own
        if self.precision == "auto":
            return torch.float64 if neurons <= DOUBLE_UP_TO else own
        return torch.float64 if self.precision == "float64" else torch.float32


def verify_vnnlib(
    network: Annotated[Path | None, typer.Argument(metavar="NET.onnx", help="Network.")] = None,
    specification: Annotated[Path | None, typer.Argument(metavar="PROP.vnnlib", help="Property.")] = None,
    timeout: Annotated[
        float | None, typer.Option(parser=number, metavar="SECONDS", help="Give up after this time.")
    ] = None,
    methods: Annotated[str, typer.Option(help="Methods for the whole box, in this order.")] = ",".join(CASCADE),
    split_method: Annotated[str, typer.Option(help="Method for the parts of a box of few inputs.")] = "CROWN",
    strategy: Annotated[str, typer.Option(help="Bounding lines: adaptive, tight, ...")] = "adaptive",
    precision: Annotated[str, typer.Option(help="Of the bounds: auto, float32 or float64.")] = "auto",
    memory_budget: MemoryBudget = None,
    rounding: RoundingLevel = "outward",
    result: Annotated[Path | None, typer.Option(help="Write the result as VNN-COMP does to this file.")] = None,
    counterexample: Annotated[Path | None, typer.Option(help="Write a counterexample to this file.")] = None,
    instances: Annotated[
        Path | None, typer.Option(help="CSV of networks, properties and timeouts, beside the files it names.")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="With --instances: append a line per instance here.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only read the networks and properties, and name refusals.")
    ] = False,
) -> None:
    """Decide a VNN-LIB property of an ONNX network: unsat (it holds), sat (it does not), unknown or timeout.

    Exit code of a single instance: 0 unsat, 10 sat, 11 unknown, 12 timeout, 2 error.
    """
    if precision not in ("auto", "float32", "float64"):
        raise InvalidInputError(f"--precision must be auto, float32 or float64, got {precision!r}")
    if rounding not in LEVELS:
        raise InvalidInputError(f"--rounding must be one of {', '.join(LEVELS)}, got {rounding!r}")
    chosen = tuple(method_names(names(methods)))
    check_split_method(split_method)
    strategy_names("--strategy", strategy)
    choices = Choices(chosen, split_method, strategy, precision, memory_budget, rounding)
    if timeout is not None and not timeout > 0:
        raise InvalidInputError(f"--timeout must be positive, got {timeout:g}")
    if check:
        _check_that_nothing_is_decided(
            {"--timeout": timeout, "--result": result, "--counterexample": counterexample, "--results": results}
        )
    read = [path for path in (network, specification, instances) if path is not None]
    prepare_files(result, counterexample, results, inputs=read)
    if instances is not None:
        if network is not None or result is not None or counterexample is not None:
            raise InvalidInputError("--instances takes neither NET.onnx, PROP.vnnlib, --result nor --counterexample")
        if check:
            named = read_instances(instances)
            pairs = [(beside(instances, each.network), beside(instances, each.specification)) for each in named]
            raise typer.Exit(2 if check_files(pairs) else 0)
        raise typer.Exit(_run_all(instances, results, choices, timeout))
    if network is None or specification is None or results is not None:
        raise InvalidInputError("give NET.onnx and PROP.vnnlib, or --instances (and --results) without them")
    if check:
        raise typer.Exit(2 if check_files([(network, specification)]) else 0)
    raise typer.Exit(_run_one(network, specification, choices, timeout, result, counterexample))


def _check_that_nothing_is_decided(options: Mapping[str, object]) -> None:
    """Refuse options about answers where none is asked for; None: not given."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InvalidInputError(f"--check only reads files and decides nothing; leave out {', '.join(given)}")


def _run_one(
    network: Path,
    specification: Path,
    choices: Choices,
    timeout: float | None,
    result: Path | None,
    counterexample: Path | None,
) -> int:
    """Decide one instance, write what is asked for, and return the exit code."""
    try:
        found = _decide(network, specification, choices, timeout)
    except BaseException:
        if result is not None:
            with suppress(OutputError):  # what is to be told is why there is no verdict
                write_files([(result, f"{ERROR}\n".encode())])
        raise
    console = Console(soft_wrap=True)
    console.print(_sentence(found), highlight=False)
    witness = found.counterexample
    point = "" if witness is None else counterexample_text(witness.x, witness.y)
    files = [] if result is None else [(result, f"{found.verdict.value}\n{point}".encode())]
    if counterexample is not None and point:
        files.append((counterexample, point.encode()))
    try:
        write_files(files)
    except OutputError:
        console.print(point, highlight=False, markup=False, end="")
        raise
    return EXIT_CODES[found.verdict]


def _run_all(instances: Path, results: Path | None, choices: Choices, timeout: float | None) -> int:
    """Decide all instances of a file, a line each; an error ends its instance only and gives code 2 at the end."""
    console, errors = Console(soft_wrap=True), 0
    counts: dict[str, int] = {}
    for network, specification, limit in read_instances(instances):
        seconds = min(value for value in (limit, timeout, float("inf")) if value is not None)
        deadline = Deadline()
        try:
            found = _decide(beside(instances, network), beside(instances, specification), choices, seconds)
            word, text = found.verdict.value, _sentence(found)
        except Exception as error:
            word, text = ERROR, f"{ERROR}: {type(error).__name__}: {error}"
            errors += 1
        counts[word] = counts.get(word, 0) + 1
        console.print(f"{network} {specification} {text}", highlight=False, markup=False)
        if results is not None:
            _append(results, [network, specification, word, f"{deadline.elapsed:.3f}"])
    console.print(", ".join(f"{count} {word}" for word, count in sorted(counts.items())) or "no instances")
    return 2 if errors else 0


def _decide(network: Path, specification: Path, choices: Choices, timeout: float | None) -> PropertyResult:
    """Decide one instance; the time for reading counts."""
    deadline = Deadline(None if timeout == float("inf") else timeout)
    try:
        with deadline.interrupting():
            problem = read_vnnlib(specification)
            file, module = read_onnx(network), load_onnx(network)
    except OutOfTimeError:
        return PropertyResult(Verdict.TIMEOUT, deadline.elapsed)
    own = torch.float64 if file.dtype is np.float64 else torch.float32
    return verify_property(
        module,
        problem,
        module.input_shape,
        methods=choices.methods,
        split_method=choices.split_method,
        strategy=choices.strategy,
        dtype=choices.dtype(module.neurons, own),
        network_dtype=own,
        deadline=deadline,
        memory_budget=choices.memory_budget,
        rounding=choices.rounding,
        evaluations=[lambda x: torch.from_numpy(file.evaluate(x.numpy()))],
    )


def _sentence(found: PropertyResult) -> str:
    by = f" ({', '.join(found.decided_by)})" if found.decided_by else ""
    boxes = f", {found.boxes} boxes" if found.boxes else ""
    return f"{found.verdict.value}: {SENTENCES[found.verdict]}{by} in {found.seconds:.2f} s{boxes}"


def _append(path: Path, cells: list[str]) -> None:
    """Add a line to a CSV file in one write.

    Raises:
        OutputError: the file cannot be written.
    """
    line = io.StringIO(newline="")
    csv.writer(line).writerow(cells)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            append_durably(descriptor, line.getvalue().encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OutputError(f"cannot write the results to {path} ({reason_of(error)})") from error
