"""Deciding a property: attack, bounds from cheap to tight, splitting."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor, nn

from lbp.errors import InvalidInputError
from lbp.graph.float64_copy import float64_copy, own_dtype
from lbp.methods.names import parse_method
from lbp.nn import evaluation_mode
from lbp.verification.answers import answers
from lbp.verification.properties.attack import Confirmation, Counterexample, Evaluation, attack
from lbp.verification.properties.bounds import BoxBounds
from lbp.verification.properties.case import UnsafeSets, middle
from lbp.verification.properties.deadline import Deadline, OutOfTimeError
from lbp.verification.properties.split import Splitting
from lbp.verification.verify import method_names
from lbp.vnnlib import Case, Property

CASCADE = ("IBP", "CROWN-IBP", "CROWN-LBP", "CROWN")
"""Methods tried one after the other on the whole box."""

FEW_INPUTS = 20
"""Boxes of at most so many inputs are split."""


class Verdict(Enum):
    """What is known about a property, by the words of VNN-COMP for its negation, the existence of a counterexample."""

    HOLDS = "unsat"
    VIOLATED = "sat"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class PropertyResult:
    """The answer about a property.

    Attributes:
        verdict: the answer.
        seconds: that it took.
        decided_by: the methods that decided the cases, "attack" or "splitting", in order, each once; a sentence where
            the property has no cases.
        counterexample: where the property is violated.
        boxes: number of boxes bounded while splitting.
    """

    verdict: Verdict
    seconds: float
    decided_by: tuple[str, ...] = ()
    counterexample: Counterexample | None = None
    boxes: int = 0


def check_split_method(name: str) -> None:
    """Refuses a method that cannot bound the parts of a box that is split.

    Raises:
        UnsupportedArgumentError: an unknown method.
        InvalidInputError: IBP.
    """
    if parse_method(name).output == "ibp":
        raise InvalidInputError("split_method: IBP has no linear bounds to choose the cut by; use CROWN or LBP")


def verify_property(
    network: nn.Module,
    problem: Property,
    input_shape: tuple[int, ...],
    *,
    methods: Sequence[str] = CASCADE,
    split_method: str = "CROWN",
    strategy: str = "adaptive",
    dtype: torch.dtype = torch.float64,
    network_dtype: torch.dtype | None = None,
    deadline: Deadline | None = None,
    evaluations: Sequence[Evaluation] | None = None,
    memory_budget: int | str | None = None,
    rounding: str = "outward",
    seed: int = 0,
) -> PropertyResult:
    """Decide whether a property holds for a network.

    The property holds when, for every case, every part of the box and every unsafe set, one row of the set is above its
    bound. It is violated by a point only if outward bounds in float64 show that the network violates it there in exact
    arithmetic, and all evaluations of the network agree, among them the one in float64; with `rounding="nearest"` the
    evaluations decide alone. NaN decides nothing.

    Args:
        network: from [B, *input_shape] to [B, outputs]; copied, and left as it is.
        problem: the property; its inputs are in the order of the flattened input.
        input_shape: of one example.
        methods: for the whole box, in this order.
        split_method: for the parts of boxes with at most `FEW_INPUTS` inputs.
        strategy: bounding lines of the activations.
        dtype: of the bounds, float32 or float64. Bounds in float64 of a float32 network are those of its
            `lbp.graph.float64_copy`.
        network_dtype: format in which the network is given; by default float64 where it holds float64 tensors, else
            float32.
        deadline: when to give up; without one, boxes are split until they are decided.
        evaluations: other ways to compute the output, float64 [inputs] to [outputs], that must agree with the network
            about a counterexample; by default the network in float32, a float32 network as it is. The first one's
            output is reported.
        memory_budget: bytes, or text like "4GiB", that bounds may take; None: half of the memory that is free.
        rounding: what the bounds account for, as `lbp.verify` takes it; "inference" covers evaluations in `dtype`.
            Unless it is "nearest", both answers hold in exact arithmetic (docs/rounding.md, section 1).
        seed: of the attack.

    Raises:
        InvalidInputError: a network that does not fit the property, IBP as split_method, a budget that is too small, a
            box beyond the dtype of the bounds, coefficients of the property that it does not hold exactly, or bounds in
            float32 that are to account for rounding of a network with parameters or buffers in another format.
        UnanalysedRoundingError: a layer, or an environment, whose rounding errors are not known.
        UnsupportedLayerError: a layer without bounds.
        UnsupportedArgumentError: an unknown method.
    """
    names = method_names(methods) if methods else []
    check_split_method(split_method)
    deadline = deadline or Deadline()
    own = network_dtype or own_dtype(network)
    settings = _Settings(names, split_method, strategy, dtype, own, memory_budget, rounding, seed)
    session = _Session(network, problem, input_shape, settings, evaluations, deadline)
    decided: list[str] = []
    verdict = Verdict.HOLDS
    try:
        with deadline.interrupting(), evaluation_mode(session.network):
            if not problem.cases:
                decided.append("no input satisfies the assertions")
            for case in problem.cases:
                outcome = session.decide(case)
                decided += outcome.decided_by
                if outcome.counterexample is not None:
                    return session.result(Verdict.VIOLATED, decided, outcome.counterexample)
                if not outcome.holds:
                    verdict = Verdict.UNKNOWN
    except OutOfTimeError:
        return session.result(Verdict.TIMEOUT, decided)
    return session.result(verdict, decided)


@dataclass(frozen=True)
class _Settings:
    """How the cases of a property are decided; `verify_property` says what each is."""

    methods: Sequence[str]
    split_method: str
    strategy: str
    dtype: torch.dtype
    network_dtype: torch.dtype
    memory_budget: int | str | None
    rounding: str
    seed: int

    def bounds(self, network: nn.Module, input_shape: tuple[int, ...]) -> BoxBounds:
        """Return the bounds of a network over boxes."""
        return BoxBounds(network, input_shape, self.dtype, self.strategy, self.memory_budget, self.rounding)

    def bounds_at_points(self, double: nn.Module, input_shape: tuple[int, ...]) -> BoxBounds | None:
        """Return those of a network in float64 that confirm counterexamples; None where evaluations decide alone."""
        if self.rounding == "nearest":
            return None
        return BoxBounds(double, input_shape, torch.float64, self.strategy, self.memory_budget)


@dataclass(frozen=True)
class _Outcome:
    holds: bool = field(kw_only=True)
    decided_by: tuple[str, ...]
    counterexample: Counterexample | None = None


class _Session:
    """A network and a property, with what all cases share."""

    def __init__(
        self,
        network: nn.Module,
        problem: Property,
        input_shape: tuple[int, ...],
        settings: _Settings,
        evaluations: Sequence[Evaluation] | None,
        deadline: Deadline,
    ) -> None:
        dtype, own = settings.dtype, settings.network_dtype
        network = copy.deepcopy(network).eval().requires_grad_(False)
        _check_formats(dtype, own, settings.rounding)
        _check_parameters(network, dtype, settings.rounding)
        _check_fit(network, problem, input_shape, own)
        _check_boxes(problem, dtype)
        double = float64_copy(network, torch.zeros(1, *input_shape, dtype=own, device="cpu"))
        self.network = double if dtype == torch.float64 else copy.deepcopy(network).to(dtype)
        self.problem = problem
        self.input_shape = input_shape
        self.settings = settings
        self.deadline = deadline
        self.boxes = 0
        if evaluations is None:
            single = network if own == torch.float32 else copy.deepcopy(network).float()
            evaluations = (_evaluation(single, input_shape, torch.float32),)
        evaluations = (*evaluations, _evaluation(double, input_shape, torch.float64))
        self.confirm = Confirmation(problem, evaluations, settings.bounds_at_points(double, input_shape))
        self.bounds = settings.bounds(self.network, input_shape)

    def result(
        self, verdict: Verdict, decided_by: Sequence[str], counterexample: Counterexample | None = None
    ) -> PropertyResult:
        words = tuple(dict.fromkeys(decided_by))
        return PropertyResult(verdict, self.deadline.elapsed, words, counterexample, self.boxes)

    def decide(self, case: Case) -> _Outcome:
        if any(len(part.bound) == 0 for part in case.unsafe):
            found = self.confirm(middle(case.box.lower, case.box.upper), case.box)
            return _Outcome(() if found is None else ("attack",), found, holds=False)
        sets = UnsafeSets.of(case.unsafe, self.problem.outputs, self.settings.dtype, self.settings.rounding)
        few = self.problem.inputs <= FEW_INPUTS
        found = self._attack(case, sets, steps=20, restarts=100 if few else 2)
        if found is not None:
            return _Outcome(("attack",), found, holds=False)
        used = []
        low, high = case.box.lower.unsqueeze(0), case.box.upper.unsqueeze(0)
        for method in self.settings.methods:
            self.deadline.check()
            excluded = sets.excluded(self.bounds.lower(low, high, sets, method))[0]
            if bool(excluded.any()):
                used.append(method)
                sets = sets.only(~excluded)
            if len(sets) == 0:
                return _Outcome(tuple(used), holds=True)
        found = self._attack(case, sets, steps=100, restarts=200 if few else 10)
        if found is not None:
            return _Outcome(("attack",), found, holds=False)
        return self._split(case, sets, used) if few else _Outcome(tuple(used), holds=False)

    def _split(self, case: Case, sets: UnsafeSets, used: Sequence[str]) -> _Outcome:
        splitting = Splitting(self.network, self.bounds, sets, self.confirm, self.settings.split_method)
        try:
            found = splitting.run(case.box, self.deadline)
        finally:
            self.boxes += splitting.bounded
        holds = found is None and not splitting.too_small
        return _Outcome((*used, "splitting"), found, holds=holds)

    def _attack(self, case: Case, sets: UnsafeSets, *, steps: int, restarts: int) -> Counterexample | None:
        return attack(
            self.network,
            self.input_shape,
            case.box,
            sets,
            self.confirm,
            self.deadline,
            steps=steps,
            restarts=restarts,
            at_once=self.bounds.points_within(len(sets.bound)),
            seed=self.settings.seed,
        )


def _evaluation(network: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype) -> Evaluation:
    def evaluate(x: Tensor) -> Tensor:
        return answers(network, x.to(dtype).reshape(1, *input_shape)).reshape(-1)

    return evaluate


def _check_formats(dtype: torch.dtype, own: torch.dtype, rounding: str) -> None:
    for name, value in (("dtype", dtype), ("network_dtype", own)):
        if value not in (torch.float32, torch.float64):
            raise InvalidInputError(f"{name} must be torch.float32 or torch.float64, got {value!r}")
    # Its numbers that are no tensors, and what it computes from its parameters, would be rounded as well.
    if own == torch.float64 and dtype == torch.float32 and rounding != "nearest":
        raise InvalidInputError(
            f"the network is {own}, {dtype} bounds would be those of a network with rounded numbers; use "
            "dtype=torch.float64 (--precision float64), or convert the network by .float() first"
        )


def _check_parameters(network: nn.Module, dtype: torch.dtype, rounding: str) -> None:
    """Refuse bounds of a network that is not the given one: what it computes in other formats would be another."""
    if rounding == "nearest" or dtype == torch.float64:
        return
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != dtype:
            raise InvalidInputError(
                f"{name!r} of shape {list(tensor.shape)} is {tensor.dtype}, in which the network may compute, but "
                f"bounds are to be in {dtype}; use dtype=torch.float64 (--precision float64), or convert the network "
                f"by .to({dtype}) first"
            )


def _check_fit(network: nn.Module, problem: Property, input_shape: tuple[int, ...], dtype: torch.dtype) -> None:
    size = torch.Size(input_shape).numel()
    if size != problem.inputs:
        raise InvalidInputError(
            f"the network takes inputs of shape {list(input_shape)}, {size} numbers, but the property is about "
            f"{problem.inputs} inputs"
        )
    try:
        with torch.no_grad():
            output = network(torch.zeros(1, *input_shape, dtype=dtype, device="cpu"))
    except Exception as error:
        raise InvalidInputError(
            f"the network does not run on an input of shape {[1, *input_shape]}, {dtype}, on the CPU: {error}. Convert "
            "it by .float() or .double() and .cpu(), or name its format (network_dtype)"
        ) from error
    if output[0].numel() != problem.outputs:
        raise InvalidInputError(
            f"the network gives outputs of shape {list(output.shape[1:])}, {output[0].numel()} numbers, but the "
            f"property is about {problem.outputs} outputs"
        )


def _check_boxes(problem: Property, dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    for case in problem.cases:
        beyond = (torch.maximum(case.box.lower.abs(), case.box.upper.abs()) > largest).nonzero()
        if len(beyond):
            index = int(beyond[0])
            low, high = float(case.box.lower[index]), float(case.box.upper[index])
            raise InvalidInputError(
                f"the property has X_{index} in [{low:g}, {high:g}], which {dtype} does not hold; use "
                "dtype=torch.float64 (--precision float64)"
            )
