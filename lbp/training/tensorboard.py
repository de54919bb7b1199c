"""Training curves for TensorBoard."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lbp.errors import LbpError, OutputError
from lbp.training.records import EpochRecord, StepRecord


class MissingPackageError(LbpError, ImportError):
    """An optional package is not installed."""


class TensorBoardLog:
    """Writes losses, errors and radii as they come; a context manager.

    Args:
        folder: of the log; an existing one is continued.

    Raises:
        MissingPackageError: the package tensorboard is not installed.
        OutputError: the log cannot be written; so do the methods.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingPackageError(
                "the TensorBoard log needs the package tensorboard: pip install 'lbp[tensorboard]'"
            ) from error
        self._folder = folder
        with self._writing():
            self._writer: Any = SummaryWriter(folder)

    def on_step(self, record: StepRecord) -> None:
        """Adds a step: loss and radius."""
        with self._writing():
            self._writer.add_scalar("step/loss", record.loss, record.step)
            self._writer.add_scalar("step/eps", record.eps, record.step)

    def on_epoch(self, record: EpochRecord) -> None:
        """Adds an epoch: means over the training set, and errors on the set that chooses the network."""
        values = {
            "train/loss": record.loss,
            "train/clean error": record.clean_error,
            "train/verified error": record.verified_error,
            "held out/clean error": record.held_out_clean_error,
            "held out/verified error": record.held_out_verified_error,
            "train/eps": record.eps,
        }
        with self._writing():
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(name, value, record.epoch + 1)

    def __enter__(self) -> Self:
        """The log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes what is still in memory."""
        with self._writing():
            self._writer.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"cannot write the TensorBoard log into {self._folder} ({reason})") from error
