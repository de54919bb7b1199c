"""Pictures of curves and of neuron status: PNG files with something drawn, for awkward numbers too."""

import io
import math

import matplotlib.image
import pytest

from lbp.errors import InvalidInputError
from lbp.evaluation.slope_sweep import SlopeCurve
from lbp.evaluation.tightness import WidthCurve
from lbp.plots import plot_neuron_status, plot_slope_sweep, plot_tightness, plot_training
from lbp.strategies import STATUSES
from lbp.verification import LayerStatus


def assert_drawn(content):
    assert content.startswith(b"\x89PNG")
    assert matplotlib.image.imread(io.BytesIO(content))[..., :3].std() > 0.02


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
    assert_drawn(plot_neuron_status([(f"net {k}", status) for k in range(networks)], "title"))


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
