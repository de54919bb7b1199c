"""Verification of labelled examples by every method, and the attack that it is held against."""

from lbp.verification.attack import pgd
from lbp.verification.cascade import CASCADE, CascadeSettings, run_cascade
from lbp.verification.falsify import AttackSettings, ContradictionError, Falsification, check_consistent, falsify
from lbp.verification.margins import certainly_above, margin_bounds
from lbp.verification.result import MethodResult, VerificationResult
from lbp.verification.square import square_attack
from lbp.verification.status import LayerStatus, neuron_status
from lbp.verification.verdicts import VERDICTS, ImageVerdict, count_verdicts, read_verdicts, summarize
from lbp.verification.verify import METHODS, method_names, verify

__all__ = [
    "CASCADE",
    "METHODS",
    "VERDICTS",
    "AttackSettings",
    "CascadeSettings",
    "ContradictionError",
    "Falsification",
    "ImageVerdict",
    "LayerStatus",
    "MethodResult",
    "VerificationResult",
    "certainly_above",
    "check_consistent",
    "count_verdicts",
    "falsify",
    "margin_bounds",
    "method_names",
    "neuron_status",
    "pgd",
    "read_verdicts",
    "run_cascade",
    "square_attack",
    "summarize",
    "verify",
]
