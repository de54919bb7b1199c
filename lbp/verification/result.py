"""What a verification found."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class MethodResult:
    """One method on every example, on the CPU.

    Attributes:
        method: its name.
        margins: lower bounds [N, classes - 1] of the true logit minus every other; NaN where not computed.
        verified: bool [N]; all margins are finite and above 0, by more than rounding where they do not account for it,
            and the example is classified correctly.
        computed: bool [N]; False where a cascade did not need the method.
        seconds: float64 [N]; time of the example's batch divided by its examples, 0 where not computed.
    """

    method: str
    margins: Tensor
    verified: Tensor
    computed: Tensor
    seconds: Tensor

    @property
    def mean_margin(self) -> float:
        """Mean over the computed examples of the smallest margin bound; NaN if there is none or one is NaN."""
        smallest = self.margins[self.computed].double()
        return float(smallest.amin(dim=1).mean()) if len(smallest) else math.nan

    @property
    def mean_seconds(self) -> float:
        """Mean time of a computed example; NaN if there is none."""
        return float(self.seconds[self.computed].mean()) if bool(self.computed.any()) else math.nan


@dataclass(frozen=True)
class VerificationResult:
    """All methods on every example.

    Attributes:
        eps, norm: the region.
        strategy: bounding lines.
        rounding: what the bounds account for, one of `lbp.rounding.LEVELS`.
        cascade: later methods saw only what the earlier ones left open.
        labels: int64 [N].
        predictions: int64 [N]; -1 where a logit is NaN, so that no label is met.
        methods: a result per method, in the order in which they ran.
    """

    eps: float
    norm: float
    strategy: str
    rounding: str
    cascade: bool
    labels: Tensor
    predictions: Tensor
    methods: dict[str, MethodResult]

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def correct(self) -> Tensor:
        """Bool [N]: classified correctly without perturbation."""
        return self.predictions == self.labels

    @property
    def clean_error(self) -> float:
        """Share misclassified without perturbation."""
        return 1.0 - float(self.correct.double().mean())

    @property
    def verified(self) -> Tensor:
        """Bool [N]: verified by at least one method."""
        return torch.stack([result.verified for result in self.methods.values()]).any(dim=0)

    @property
    def verified_error(self) -> float:
        """Share that no method verified."""
        return 1.0 - float(self.verified.double().mean())

    def verified_errors(self) -> dict[str, float]:
        """Share of examples that each method leaves unverified; in a cascade, that it and the ones before it leave."""
        errors = {}
        verified = torch.zeros_like(self.correct)
        for name, result in self.methods.items():
            verified = verified | result.verified if self.cascade else result.verified
            errors[name] = 1.0 - float(verified.double().mean())
        return errors

    def verified_by(self) -> list[str | None]:
        """For every example the first method that verified it, or None."""
        names = list(self.methods)
        table = torch.stack([self.methods[name].verified for name in names])
        return [next((name for name, hit in zip(names, row, strict=True) if hit), None) for row in table.T.tolist()]

    def summary(self) -> dict[str, Any]:
        """Figures of the run as JSON values; a figure that does not exist is None."""
        errors = self.verified_errors()
        return {
            "examples": len(self),
            "eps": self.eps,
            "norm": "inf" if math.isinf(self.norm) else self.norm,
            "strategy": self.strategy,
            "rounding": self.rounding,
            "cascade": self.cascade,
            "clean_error": self.clean_error,
            "verified_error": self.verified_error,
            "methods": {
                name: {
                    "verified_error": errors[name],
                    "mean_margin": _json_number(result.mean_margin),
                    "seconds_per_image": _json_number(result.mean_seconds),
                    "computed": int(result.computed.sum()),
                }
                for name, result in self.methods.items()
            },
        }

    def records(self) -> list[dict[str, Any]]:
        """One JSON object per example: label, prediction, who verified it, smallest margin bound per method."""
        smallest = {name: result.margins.double().amin(dim=1).tolist() for name, result in self.methods.items()}
        return [
            {
                "index": index,
                "label": label,
                "prediction": prediction,
                "verified_by": verified_by,
                "margin": {name: _json_number(values[index]) for name, values in smallest.items()},
            }
            for index, (label, prediction, verified_by) in enumerate(
                zip(self.labels.tolist(), self.predictions.tolist(), self.verified_by(), strict=True)
            )
        ]


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None
