"""Modules with parameters that the bounds take into account."""

from lbp.nn.batch_norm import GlobalBatchNorm
from lbp.nn.leaky_relu import LeakyReLU
from lbp.nn.modes import evaluation_mode
from lbp.nn.param_ramp import R_MIN, LazyParamRamp, ParamRamp

__all__ = ["R_MIN", "GlobalBatchNorm", "LazyParamRamp", "LeakyReLU", "ParamRamp", "evaluation_mode"]
