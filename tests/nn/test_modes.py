"""Evaluation mode for a while."""

import contextlib

from torch import nn

from lbp.nn import evaluation_mode


def test_every_module_gets_its_own_mode_back_even_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2).eval(), nn.ReLU()))
    before = [module.training for module in model.modules()]
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    with contextlib.suppress(KeyError), evaluation_mode(model):
        raise KeyError
    assert [module.training for module in model.modules()] == before == [True, True, True, False, True]
