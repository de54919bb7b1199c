"""Who is compared: this package in its settings, plain PyTorch, and auto_LiRPA where it is installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import lbp
from lbp import reference
from lbp.bench.networks import Activation
from lbp.bench.plain import plain_functions


@dataclass(frozen=True)
class Contender:
    """Something that bounds a network.

    Attributes:
        name: in tables.
        package: "lbp" or "auto_LiRPA", which have the same interface.
        backend: of lbp.
        compiled: whether lbp's plain PyTorch functions run under `torch.compile`.
        options: `bound_opts`.
        methods: this contender's name of each method it knows.
        activations: that it knows.
        tighter: methods, by their names in lbp, whose bounds may be tighter than the textbook's: CROWN skips neurons
            that intervals decide and keeps the tighter of two bounds; a peer chooses lines of its own.
        trains: whether it takes part in the measurement of training steps.
        batches, networks: that it is measured with unless it is asked for by name; empty for all.
    """

    name: str
    package: str
    backend: str = "native"
    compiled: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, str] = field(default_factory=dict)
    activations: tuple[Activation, ...] = ("ReLU", "ParamRamp")
    tighter: frozenset[str] = frozenset()
    trains: bool = True
    batches: tuple[int, ...] = ()
    networks: tuple[str, ...] = ()

    def takes(self, network: str, batch: int) -> bool:
        """Says whether it is measured on a network with a batch unless it is asked for by name."""
        return (not self.networks or network in self.networks) and (not self.batches or batch in self.batches)


_OURS = {name: name for name in ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "CROWN")}
_PEERS = {
    "IBP": "IBP",
    "CROWN-IBP": "CROWN-IBP",
    "LBP": "forward",
    "CROWN-LBP": "forward+backward",
    "CROWN": "CROWN",
}
_EXACT = {"sparse_intermediate_bounds": False}

CONTENDERS = (
    Contender("native", "lbp", methods=_OURS, tighter=frozenset({"CROWN"})),
    Contender(
        "native, every row",
        "lbp",
        options=_EXACT,
        methods={"CROWN": "CROWN"},
        activations=("ReLU",),
        trains=False,
        batches=(1,),
    ),
    Contender(
        "native, dense",
        "lbp",
        options={**_EXACT, "conv_mode": "matrix"},
        methods={name: name for name in ("LBP", "CROWN-LBP", "CROWN")},
        activations=("ReLU",),
        trains=False,
        batches=(1,),
    ),
    Contender("reference", "lbp", backend="reference", options={**_EXACT, "conv_mode": "matrix"}, methods=_OURS),
    Contender(
        "reference compiled",
        "lbp",
        backend="reference",
        compiled=True,
        options={**_EXACT, "conv_mode": "matrix"},
        methods={name: name for name in ("IBP", "CROWN-IBP")},
        batches=(16, 32),
        networks=("DM-Small", "DM-Large"),
    ),
    Contender(
        "auto_LiRPA patches",
        "auto_LiRPA",
        options={"conv_mode": "patches"},
        methods=_PEERS,
        activations=("ReLU",),
        tighter=frozenset(_PEERS),
    ),
    Contender(
        "auto_LiRPA matrix",
        "auto_LiRPA",
        options={"conv_mode": "matrix"},
        methods=_PEERS,
        activations=("ReLU",),
        tighter=frozenset(_PEERS),
    ),
)
"""All contenders; the results of the others are compared with those of "reference"."""


def find(name: str) -> Contender:
    """Returns the contender of that name."""
    return next(contender for contender in CONTENDERS if contender.name == name)


def peer_available(path: Path | None) -> bool:
    """Says whether auto_LiRPA can be found, among the installed packages or in a folder."""
    return (path is not None and (path / "auto_LiRPA").is_dir()) or importlib.util.find_spec("auto_LiRPA") is not None


def peer_version(path: Path | None) -> str | None:
    """Returns the version of auto_LiRPA in a folder, or installed, without importing it; None where there is none."""
    source = None if path is None else path / "auto_LiRPA" / "__init__.py"
    if source is not None and source.exists():
        found = re.search(r"^__version__ *= *['\"](.+)['\"]", source.read_text(), re.MULTILINE)
        return "unknown" if found is None else found[1]
    try:
        return importlib.metadata.version("auto_LiRPA")
    except importlib.metadata.PackageNotFoundError:
        return None


def load(contender: Contender, peer: Path | None) -> ModuleType:
    """Imports a contender's package and chooses its backend for the rest of this process.

    Args:
        contender: to load.
        peer: folder that holds the package `auto_LiRPA`; None for the installed one.
    """
    if contender.package == "auto_LiRPA":
        if peer is not None:
            sys.path[:0] = [str(peer)]
        return importlib.import_module("auto_LiRPA")
    if contender.backend == "reference":
        _FOR_THIS_PROCESS.enter_context(plain_functions())
    if contender.compiled:
        _compile_reference()
    lbp.backend(contender.backend)
    return lbp


_FOR_THIS_PROCESS = ExitStack()
"""What a contender changes in its process; a test takes it back."""


def _compile_reference() -> None:
    """Puts every function of the plain PyTorch baseline under `torch.compile`, for the rest of this process.

    Every shape has a graph of its own: of free sizes Inductor cannot order the strides in relax_backward_conv2d. What
    would run as plain PyTorch, beyond the limit of graphs as well, is an error, as the row would be called compiled.
    """
    for name in reference.__all__:
        function: Callable[..., Any] = getattr(reference, name)
        if not isinstance(function, type):
            _FOR_THIS_PROCESS.callback(setattr, reference, name, function)
            setattr(reference, name, torch.compile(function, fullgraph=True, dynamic=False))
