"""The step that benchmarks time."""

import pytest
import torch

from lbp.training.benchmark import make_step


@pytest.mark.parametrize("activation", ["relu", "ramp"])
@pytest.mark.parametrize("loss", ["natural", "ibp", "crown-ibp"])
def test_a_step_reports_its_batch(activation, loss):
    state = torch.get_rng_state()
    step = make_step("DM-Small", activation, loss, input_shape=(1, 8, 8), batch_size=5, eps=0.1)
    assert torch.equal(torch.get_rng_state(), state)
    first, second = step(), step()
    assert first.shape == (4,)
    assert second[0] < first[0], "the step trains"
    assert first[3] == second[3] == 0
    assert (first[2] > 0) == (loss != "natural")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("loss", ["natural", "ibp", "crown-ibp"])
def test_captured_steps_are_those_run_one_by_one(loss):
    reports = []
    for capture in (False, True):
        step = make_step("DM-Small", "ramp", loss, batch_size=32, device="cuda", capture=capture)
        reports.append(torch.stack([step() for _ in range(10)]))
    torch.testing.assert_close(*reports, rtol=1e-4, atol=1e-3)
