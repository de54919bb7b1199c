"""What training reports: one record per step and per epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from lbp.settings import validation_message


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step.

    Attributes:
        epoch, step: counted from 0; steps run through the whole training.
        total_steps: of the whole training.
        examples: in the batch.
        loss: value of the loss.
        clean_errors: misclassified examples.
        verified_errors: examples that the training bounds do not verify; None while training naturally.
        eps: radius of the step.
    """

    epoch: int
    step: int
    total_steps: int
    examples: int
    loss: float
    clean_errors: int
    verified_errors: int | None
    eps: float


@dataclass(frozen=True)
class EpochRecord:
    """Means over one epoch; errors are shares, measured while training.

    Attributes:
        epoch: counted from 0.
        loss: mean loss.
        clean_error: share misclassified.
        verified_error: share not verified at the radius of its step; None while training naturally.
        eps: radius of the last step.
        seconds: wall-clock time.
        held_out_clean_error, held_out_verified_error: shares on the set that chooses the network, the latter by IBP at
            the final radius; None where nothing was measured.
    """

    epoch: int
    loss: float
    clean_error: float
    verified_error: float | None
    eps: float
    seconds: float
    held_out_clean_error: float | None = None
    held_out_verified_error: float | None = None

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


def summarize(steps: Sequence[StepRecord], seconds: float, held_out: tuple[float, float] | None) -> EpochRecord:
    """Sums up the steps of one epoch.

    Args:
        steps: of the epoch, at least one.
        seconds: wall-clock time.
        held_out: clean and verified error on the set that chooses the network.
    """
    examples = sum(record.examples for record in steps)
    counts = [record.verified_errors for record in steps]
    return EpochRecord(
        epoch=steps[-1].epoch,
        loss=sum(record.loss * record.examples for record in steps) / examples,
        clean_error=sum(record.clean_errors for record in steps) / examples,
        verified_error=None if None in counts else sum(count or 0 for count in counts) / examples,
        eps=steps[-1].eps,
        seconds=seconds,
        held_out_clean_error=None if held_out is None else held_out[0],
        held_out_verified_error=None if held_out is None else held_out[1],
    )


def read_history(values: Any) -> list[EpochRecord]:
    """Reads the records of the epochs of a training from JSON values.

    Raises:
        ValueError: they are not that.
    """
    try:
        history = _HISTORY.validate_python(values)
    except ValidationError as error:
        raise ValueError(f"history: {validation_message(error)}") from error
    if [record.epoch for record in history] != list(range(len(history))):
        raise ValueError("history: the epochs do not follow one another from 0")
    return history


_HISTORY = TypeAdapter(list[EpochRecord])
