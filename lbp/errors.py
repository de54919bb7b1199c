"""Errors that the package raises; each also belongs to the built-in class that callers expect."""


def reason_of(error: Exception) -> str:
    """Why, in words: of an error of the operating system without its number, and without the path."""
    return getattr(error, "strerror", None) or str(error)


class LbpError(Exception):
    """Base of every error that the package raises on purpose."""


class InvalidInputError(LbpError, ValueError):
    """An argument has a wrong value, shape, dtype or device."""


class UnsupportedLayerError(LbpError, NotImplementedError):
    """The model holds an operation that has no bounds."""


class UnsupportedArgumentError(LbpError, NotImplementedError):
    """An argument asks for something that is not implemented and would change the result."""


class UnanalysedRoundingError(LbpError, NotImplementedError):
    """Bounds that hold in floating point are asked for, where the rounding errors are not analysed."""


class StaleBoundsError(LbpError, RuntimeError):
    """Cached intermediate bounds do not belong to the present parameters, mode or input."""


class MissingStatisticsError(LbpError, RuntimeError):
    """Batch normalisation uses batch statistics, but no clean forward pass has provided them."""


class UnknownNodeError(LbpError, KeyError):
    """No node of the graph has the given name."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class MissingPackageError(LbpError, ImportError):
    """A package is needed that is not installed."""


class OnnxFileError(LbpError, ValueError):
    """A file is no readable ONNX network, or does not have one input and one output of known shape."""


class OutputError(LbpError, OSError):
    """Results cannot be written where the user wants them."""
