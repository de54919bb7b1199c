"""What all pictures share: colours, names of lines, PNG files without a display."""

import io
from typing import TYPE_CHECKING

from lbp.errors import MissingPackageError
from lbp.strategies import STATUSES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart; pale for linear, strong for unstable.
STATUS_COLOURS = dict(zip(STATUSES, ("#bbbbbb", "#e69f00", "#56b4e9", "#cc79a7", "#777777", "#d55e00"), strict=True))

_METHOD_COLOURS = {
    "IBP": "#000000",
    "CROWN-IBP": "#e69f00",
    "LBP": "#56b4e9",
    "CROWN-LBP": "#009e73",
    "CROWN": "#d55e00",
}
_OTHER_COLOUR = "#cc79a7"
_LINE_STYLES = {"tight": "-", "adaptive": "--"}
_OTHER_STYLE = ":"


def method_colour(method: str) -> str:
    """The colour of a method in every picture."""
    return _METHOD_COLOURS.get(method, _OTHER_COLOUR)


def line_style(strategy: str) -> str:
    """Solid for tight, dashed for adaptive lines, dotted for others."""
    return _LINE_STYLES.get(strategy, _OTHER_STYLE)


def plain(text: str) -> str:
    """A text, such as a file's name, as matplotlib draws it as it is: dollars are no marks of a formula."""
    return text.replace("$", r"\$")


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches.

    Raises:
        MissingPackageError: the package matplotlib is not installed, or cannot be loaded.
    """
    # Here and not above: what draws nothing shall neither wait for matplotlib nor need it.
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(f"pictures need the package matplotlib: pip install matplotlib ({error})") from error

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: "Figure") -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
