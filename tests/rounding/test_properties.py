"""Properties in the dtype of bounds that account for rounding, and the level in settings that are written down."""

import pytest
import torch
from torch import nn

from lbp.errors import InvalidInputError
from lbp.evaluation import EvaluationSettings
from lbp.verification import CascadeSettings
from lbp.verification.properties import Deadline, Verdict, verify_property
from lbp.verification.properties.case import UnsafeSets
from lbp.vnnlib import read_vnnlib

PROPERTY = """
(declare-const X_0 Real)
(declare-const Y_0 Real)
(assert (>= X_0 0.0))
(assert (<= X_0 1.0))
(assert (<= {row} {bound}))
"""


def written(tmp_path, row="Y_0", bound="0.0"):
    path = tmp_path / "property.vnnlib"
    path.write_text(PROPERTY.format(row=row, bound=bound))
    return read_vnnlib(path)


def constant(value):
    """A network whose output is one number."""
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.fill_(value)
    return model


@pytest.mark.parametrize("rounding", ["nearest", "outward"])
def test_any_output_above_the_bound_will_do_where_bounds_account_for_rounding(tmp_path, rounding):
    found = verify_property(
        constant(1e-6), written(tmp_path), (1,), methods=["CROWN"], dtype=torch.float32, rounding=rounding,
        deadline=Deadline(60 if rounding == "outward" else 0.2),
    )  # fmt: skip
    assert (found.verdict is Verdict.HOLDS) == (rounding == "outward")


def test_limits_are_rounded_up_and_coefficients_not_at_all(tmp_path):
    conjunctions = written(tmp_path, row="(* 0.1 Y_0)", bound="0.1").cases[0].unsafe
    with pytest.raises(InvalidInputError, match="does not hold the coefficients of the property exactly"):
        UnsafeSets.of(conjunctions, 1, torch.float32, "outward")
    assert UnsafeSets.of(conjunctions, 1, torch.float64, "outward").matrix.item() == 0.1
    (limit,) = written(tmp_path, bound="-0.1").cases
    assert UnsafeSets.of(limit.unsafe, 1, torch.float32, "outward").bound.item() >= -0.1
    assert UnsafeSets.of(limit.unsafe, 1, torch.float32).bound.item() < -0.1


def test_settings_that_results_are_compared_by_name_the_level():
    for settings in (CascadeSettings(eps=0.1), EvaluationSettings(eps=0.1)):
        assert settings.model_dump(mode="json")["rounding"] == "outward"
    with pytest.raises(ValueError, match="rounding"):
        CascadeSettings(eps=0.1, rounding="up")
