"""Training curves for TensorBoard."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lbp.errors import MissingPackageError, OutputError, reason_of
from lbp.training.records import EpochRecord, StepRecord


class TensorBoardLog:
    """Writes losses, errors and radii as they come; a context manager.

    Curves by step are in the sub-folder `steps`, those by epoch in `epochs`: an x axis each. What a folder has already
    from the first step and the first epoch on that come now is hidden, so that a run which continues repeats no point
    and one which begins anew replaces the curves.

    Args:
        folder: of the log.

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
        self._make: Any = SummaryWriter
        self._writers: dict[str, Any] = {}
        with self._writing():
            for axis in ("steps", "epochs"):
                (folder / axis).mkdir(parents=True, exist_ok=True)

    def on_step(self, record: StepRecord) -> None:
        """Adds a step: loss and radius."""
        self._add("steps", record.step, {"step/loss": record.loss, "step/eps": record.eps})

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
        self._add("epochs", record.epoch + 1, {name: value for name, value in values.items() if value is not None})
        with self._writing():
            for writer in self._writers.values():
                writer.flush()  # what a run that is killed now continues from

    def __enter__(self) -> Self:
        """The log itself."""
        # A writer's thread keeps the error for whoever writes next, and raises it as well, which would be printed.
        self._print_error = threading.excepthook
        threading.excepthook = self._excepthook
        return self

    def _excepthook(self, arguments: Any) -> None:
        is_writer = type(arguments.thread).__module__.startswith("tensorboard.")
        if not (is_writer and isinstance(arguments.exc_value, OSError)):
            self._print_error(arguments)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the log; where that fails on top of another error, that one is told."""
        threading.excepthook = self._print_error
        try:
            self.close()
        except OutputError:
            if error is None:
                raise

    def close(self) -> None:
        """Writes what is still in memory; later calls do nothing."""
        writers, self._writers = self._writers, {}
        with self._writing(), ExitStack() as stack:
            for writer in writers.values():
                stack.callback(writer.close)

    def _add(self, axis: str, position: int, values: dict[str, float]) -> None:
        with self._writing():
            if axis not in self._writers:
                self._writers[axis] = self._make(self._folder / axis, purge_step=position)
            for name, value in values.items():
                self._writers[axis].add_scalar(name, value, position)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise OutputError(f"cannot write the TensorBoard log into {self._folder} ({reason_of(error)})") from error
