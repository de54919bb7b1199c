"""Pictures of curves and of neuron status: PNG files with something drawn, for awkward numbers too."""

import io
import math
import sys

import matplotlib.colors
import matplotlib.image
import pytest

from lbp.errors import InvalidInputError, MissingPackageError
from lbp.evaluation.slope_sweep import SlopeCurve
from lbp.evaluation.tightness import WidthCurve
from lbp.plots import plot_neuron_status, plot_slope_sweep, plot_tightness, plot_training
from lbp.strategies import STATUSES
from lbp.verification import LayerStatus


def assert_drawn(content):
    assert content.startswith(b"\x89PNG")
    assert matplotlib.image.imread(io.BytesIO(content))[..., :3].std() > 0.02


def assert_nothing_is_cut_off(content):
    pixels = matplotlib.image.imread(io.BytesIO(content))[..., :3]
    assert (pixels[:, [0, -1]] == 1).all(), "what is wider than the picture ends at its edges"


@pytest.mark.parametrize("widths", [(0.1, 10.0, 1e12), (0.1, math.nan, 1.0), (0.0, 0.0, 0.0)])
def test_tightness(widths):
    curves = [
        WidthCurve(method, strategy, (0.1, 0.2, 0.3), widths)
        for method in ("IBP", "CROWN", "Relaxed-CROWN-2")
        for strategy in ("tight", "adaptive", "constant")
    ]
    assert_drawn(plot_tightness(curves, "title"))


@pytest.mark.parametrize("margins", [(2.0, -1e6), (math.nan, 1.0)])
def test_slope_sweep(margins):
    assert_drawn(plot_slope_sweep([SlopeCurve("LBP", "tight", (0.0, 0.5), margins, (0.1, 0.9))], "title"))


@pytest.mark.parametrize("networks", [1, 3])
def test_neuron_status(networks):
    status = [LayerStatus(f"act{k}", dict.fromkeys(STATUSES, 1 / 6)) for k in range(4)]
    content = plot_neuron_status([(f"net {k}", status) for k in range(networks)], "title")
    assert_drawn(content)
    assert_nothing_is_cut_off(content)


def epoch(number, **more):
    return {"epoch": number, "loss": 2.0 / (number + 1), "clean_error": 0.1, "verified_error": None, "eps": 0.0} | more


def test_training():
    natural = [epoch(number) for number in range(4)]
    certified = [
        epoch(number, verified_error=0.5, held_out_clean_error=0.2, held_out_verified_error=None if number < 2 else 0.6)
        for number in range(4)
    ]
    assert_drawn(plot_training({"natural": natural, "certified": certified}, "title"))
    with pytest.raises(InvalidInputError, match="empty: no epochs to draw"):
        plot_training({"empty": []}, "title")


def test_a_training_of_one_epoch_is_points():
    pixels = matplotlib.image.imread(io.BytesIO(plot_training({"short": [epoch(0, eps=0.3)]}, "title")))[..., :3]
    blue = matplotlib.colors.to_rgb("C0")
    radius = pixels[-len(pixels) // 5 :]  # without a legend, where the colour would be anyway
    assert (abs(radius - blue).max(axis=-1) < 0.01).any()


def test_without_matplotlib_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match="pictures need the package matplotlib"):
        plot_training({"run": [epoch(0)]}, "title")
