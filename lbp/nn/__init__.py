"""Activation modules with parameters that the bounds take into account."""

from lbp.nn.modes import evaluation_mode
from lbp.nn.param_ramp import R_MIN, LazyParamRamp, ParamRamp

__all__ = ["R_MIN", "LazyParamRamp", "ParamRamp", "evaluation_mode"]
