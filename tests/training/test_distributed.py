"""Several processes train like one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from training.two_processes import an_epoch_that_diverges, held_out, means, one_step

import lbp
from lbp import checkpoint
from lbp.errors import InvalidInputError
from lbp.nn import GlobalBatchNorm
from lbp.training import read_settings, run
from lbp.training.distributed import World

WORKER = Path(__file__).with_name("two_processes.py")
# The last batch, of 6, and the first two are divided into parts of different size.
TOML = """
[data]
limit = 38
[model]
activation = { name = "ramp", eta = 0.01 }
[training]
eps = 0.02
epochs = 3
batch_size = 15
validation_share = 0.05
warm_up_epochs = 1
ramp_epochs = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    (folder / "net.toml").write_text(TOML)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    source = str(Path(lbp.__file__).parents[1])
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    finished = subprocess.run(
        [*torchrun, str(WORKER), str(folder)], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    return folder


def test_a_run_under_torchrun_gives_the_losses_of_one_process(folder):
    one, two = run(read_settings(folder / "net.toml")), checkpoint.load(folder / "net.safetensors")
    assert len(two.training["history"]) == 3
    for first, second in zip(one.history, two.training["history"], strict=True):
        assert second["loss"] == pytest.approx(first.loss, rel=1e-4)
        assert second["clean_error"] == pytest.approx(first.clean_error, abs=1 / 36)
        assert second["held_out_verified_error"] == first.held_out_verified_error
    weights = two.model.state_dict()
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)


def test_a_step_with_batch_normalisation_noise_and_regularisers_is_that_of_one_process(folder):
    expected = one_step(World())
    for rank in range(2):
        found = torch.load(folder / f"step-{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()))


@pytest.fixture(scope="module")
def found(folder):
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


def test_held_out_examples_are_divided_and_counted_together(found):
    (*of_seven, seen), (*of_one, _) = held_out(World(), 7), held_out(World(), 1)
    assert of_seven[0] == 3 / 7
    assert of_seven[1] < 1
    assert seen == 7
    assert [part["held out"] for part in found] == [
        [[*of_seven, 4], [*of_one, 1]],
        [[*of_seven, 3], [*of_one, 0]],
    ]


def test_mean_activations_are_those_of_all_images_of_which_each_process_looks_at_its_share(found):
    for place, (count, shares) in enumerate([(7, (4, 3)), (1, (1, 0))]):
        expected, all_of_them = means(World(), count)
        assert all_of_them == count
        for part, share in zip(found, shares, strict=True):
            values, seen = part["means"][place]
            assert seen == share
            assert values == pytest.approx(expected, rel=1e-12)


def test_all_processes_name_the_layer_that_diverges(found):
    message = an_epoch_that_diverges(World())
    assert "epoch 0, step 1: in the clean pass the output of layer 0 is not finite" in message
    assert [part["diverged"] for part in found] == [message, message]


def test_no_thread_of_the_group_outlives_it(found):
    for part in found:
        assert part["threads"]
        assert [name for name in part["threads"] if "gloo" in name] == []


def test_parts_of_a_batch_cover_it_in_order():
    batch = torch.arange(11)
    parts = [World(rank, 3).part(batch) for rank in range(3)]
    assert torch.equal(torch.cat(parts), batch)
    assert [len(part) for part in parts] == [4, 4, 3]
    with pytest.raises(InvalidInputError, match="2 examples cannot be divided among 3 processes"):
        World(0, 3).part(batch[:2])


def test_the_current_gpu_is_named_by_its_number_as_tensors_name_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert World(device=torch.device("cuda")).device == torch.device("cuda:3")
    assert World(device=torch.device("cuda:1")).device == torch.device("cuda:1")
    assert World().device == torch.device("cpu")


@pytest.mark.parametrize(("kind", "shape"), [(nn.BatchNorm1d, (6, 4)), (nn.BatchNorm2d, (6, 4, 3, 3))])
def test_batch_normalisation_over_one_process_is_that_of_pytorch(kind, shape):
    torch.manual_seed(0)
    layers = []
    x = torch.randn(shape, dtype=torch.float64)
    for stand_in in (False, True):
        layer = kind(4, momentum=0.2).double()
        inputs = x.clone().requires_grad_()
        module = GlobalBatchNorm(layer, lambda values: values) if stand_in else layer
        for _ in range(2):
            output = module(inputs)
        output.square().mul(torch.arange(x[0].numel()).reshape(x.shape[1:])).sum().backward()
        layers.append((output, inputs.grad, layer.weight.grad, *layer.buffers(), module.eval()(x)))
    for first, second in zip(*layers, strict=True):
        torch.testing.assert_close(first, second)


def test_batch_normalisation_without_running_statistics_is_refused():
    with pytest.raises(InvalidInputError, match="needs weights and running statistics"):
        GlobalBatchNorm(nn.BatchNorm1d(3, track_running_stats=False), lambda values: values)
