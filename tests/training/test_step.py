"""One step: the losses of the paper, noise on r, and what a failed step leaves behind."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lbp import BoundedModule, BoundedTensor, PerturbationLpNorm, margins
from lbp.errors import UnanalysedRoundingError
from lbp.models import build
from lbp.nn import LazyParamRamp, LeakyReLU, ParamRamp
from lbp.precision import check_products, free_convolutions, full_precision
from lbp.training import Controls, TrainingSettings, TrainingStep, margin_loss
from lbp.training.objective import Parts

EPS = 0.05


def controls(**changes):
    values = {"certified": True, "eps": EPS, "kappa": 0.5, "beta": 0.0, "regularization": 0.0, "eta": None, "lr": 1e-3}
    return Controls(**{**values, **changes})


def network(activation="ramp"):
    torch.manual_seed(0)
    return build("DM-Small", (1, 8, 8), 10, activation, **({} if activation == "relu" else {"eta": 0.1}))


def make_step(model, data, **settings):
    chosen = TrainingSettings(**{"eps": EPS, "epochs": 1, "clip": None, **settings})
    return TrainingStep(model, data.images[:1], 10, chosen)


def run(step, data, number=0, **changes):
    return step(data.images, data.labels, controls(**changes), number)


def margin_bounds(model, data, method, strategy="adaptive"):
    net = BoundedModule(model, data.images[:1], {"activation_bound_option": strategy})
    region = BoundedTensor(data.images, PerturbationLpNorm(eps=EPS))
    return net.compute_bounds(x=(region,), C=margins(data.labels, 10), method=method, bound_upper=False)[0]


@pytest.mark.parametrize("loss", ["ibp", "crown-ibp"])
@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
def test_the_loss_is_that_of_the_paper(synthetic, loss, kappa):
    data, model, beta = synthetic(6), network(), 0.25 if loss == "crown-ibp" else 0.0
    lower = margin_bounds(model, data, "IBP")
    if beta:
        lower = (1 - beta) * lower + beta * margin_bounds(model, data, "CROWN-IBP")
    expected = kappa * F.cross_entropy(model(data.images), data.labels) + (1 - kappa) * margin_loss(lower)
    wrong = (model(data.images).argmax(1) != data.labels).sum()
    total, errors, unverified, failed = run(make_step(model, data, loss=loss), data, kappa=kappa, beta=beta)
    torch.testing.assert_close(total / 6, expected.detach(), rtol=1e-5, atol=0)
    assert errors == wrong
    assert unverified == 6 - (lower > 0).all(1).sum()
    assert failed == 0


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_the_fused_loss_bounds_the_other_and_is_trained(synthetic, beta):
    data = synthetic(6)
    values = []
    for fusion in (False, True):
        step = make_step(network(), data, loss="crown-ibp", fusion=fusion)
        values.append(run(step, data, kappa=0.0, beta=beta)[0])
    assert values[1] >= values[0]
    later = [run(step, data, number, kappa=0.0, beta=beta)[0] for number in range(1, 20)]
    assert later[-1] < values[1]


def test_the_batch_of_a_natural_step_is_seen_by_no_bound(synthetic):
    data, model = synthetic(6), network()
    expected = F.cross_entropy(model(data.images), data.labels).item()
    report = run(make_step(model, data, loss="natural"), data, certified=False, kappa=1.0)
    assert report[0].item() / 6 == pytest.approx(expected, rel=1e-5)
    assert report[2] == 0


def test_the_regularisers_lower_their_own_value(synthetic):
    data, model = synthetic(16), network("relu")
    with torch.no_grad():
        model.conv2.weight.mul_(20)
    step = make_step(model, data, regularization=5.0)
    plain = make_step(network("relu"), data)
    parts = Parts(bounds=True, clean=False, crown=False, regularized=True)
    weights = torch.tensor([EPS, 0.0, 0.0, 1.0])

    def penalty():
        total = step.objective(data.images, data.labels, weights, parts)
        return (total.loss - total.report[0] / 16).item()

    before = penalty()
    for number in range(30):
        run(step, data, number, kappa=0.0, regularization=5.0, lr=0.01)
        run(plain, data, number, kappa=0.0, lr=0.01)
    assert penalty() < before


def test_the_penalty_of_the_whole_batch_has_no_share(synthetic):
    data, model = synthetic(6), network("relu")
    with torch.no_grad():
        model.conv2.weight.mul_(20)
    objective = make_step(model, data, regularization=5.0).objective
    weights = torch.tensor([EPS, 0.0, 0.0, 1.0])

    def loss(share, regularized):
        parts = Parts(bounds=True, clean=False, crown=False, regularized=regularized)
        return objective(data.images, data.labels, weights, parts, share).loss.item()

    penalty = loss(1.0, True) - loss(1.0, False)
    assert penalty > 0.1
    assert loss(0.5, True) - loss(0.5, False) == pytest.approx(penalty, rel=1e-4)
    assert loss(0.5, False) == pytest.approx(loss(1.0, False) / 2)


@pytest.mark.parametrize("largest", [1e-6, None])
def test_the_gradient_is_clipped_to_its_largest_norm(synthetic, largest):
    data, model = synthetic(6), network()
    run(make_step(model, data, gradient_clip=largest), data)
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()
    assert norm == pytest.approx(1e-6, rel=1e-3) if largest else norm > 1e-3


def test_eta_and_the_learning_rate_follow_the_controls(synthetic):
    for activation, kind in (("ramp", ParamRamp), ("leaky-relu", LeakyReLU)):
        data, model = synthetic(6), network(activation)
        step = make_step(model, data)
        run(step, data, eta=0.25, lr=0.125)
        assert all(m.eta == 0.25 for m in model.modules() if isinstance(m, kind))
        assert step.optimizer.param_groups[0]["lr"] == 0.125


def test_noise_on_r_is_drawn_once_a_step_and_not_accumulated(synthetic):
    data, model = synthetic(6), network()
    step = make_step(model, data, r_noise=0.5)
    seen = []
    before = model.act1.r.detach().clone()
    step.objective.register_forward_pre_hook(lambda module, inputs: seen.append(model.act1.r.detach().clone()))
    run(step, data, 0, lr=1e-30)
    run(step, data, 1, lr=1e-30)
    run(step, data, 1, lr=1e-30)
    torch.testing.assert_close(model.act1.r.detach(), before)
    first, second, again = ((r - before) / (0.5 * before.mean()) for r in seen)
    assert first.std().item() == pytest.approx(1.0, abs=0.1)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(second, again)


def test_noise_on_r_moves_the_bending_points_that_passes_use(synthetic):
    """Centre and mean are those of the clamped r, however far below the minimum a parameter lies."""
    data, model = synthetic(6), network()
    with torch.no_grad():
        model.act1.r[: len(model.act1.r) // 2] = -100.0
    step = make_step(model, data, r_noise=0.5)
    kept, effective, seen = model.act1.r.detach().clone(), model.act1.effective_r().detach(), []
    step.objective.register_forward_pre_hook(lambda module, inputs: seen.append(model.act1.r.detach().clone()))
    run(step, data, lr=1e-30)
    drawn = (seen[0] - effective) / (0.5 * effective.mean())
    assert drawn.mean().item() == pytest.approx(0.0, abs=0.1)
    assert drawn.std().item() == pytest.approx(1.0, abs=0.1)
    torch.testing.assert_close(model.act1.r.detach(), kept)


def test_a_lazy_ramp_has_its_shape_before_noise_is_drawn(synthetic):
    torch.manual_seed(0)
    data = synthetic(6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), LazyParamRamp(r=0.1), nn.Linear(8, 10))
    step = make_step(model, data, r_noise=0.5)
    first, second = (run(step, data, number, lr=1e-30)[0] for number in range(2))
    assert first != second


def test_there_is_no_noise_in_the_warm_up(synthetic):
    data, model = synthetic(6), network()
    for module in (model.act1, model.act2, model.act3):
        module.warm_up = True
    kept = model.act1.r.detach().clone()
    run(make_step(model, data, r_noise=0.5), data, lr=1e-30)
    assert torch.equal(model.act1.r, kept)


def test_a_failed_step_and_all_after_it_change_no_weight(synthetic):
    data, model = synthetic(6), network()
    step = make_step(model, data)
    assert run(step, data, 0)[3] == 0
    kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
    broken = synthetic(6, seed=1)
    broken.images[2, 0, 3, 3] = torch.nan
    assert run(step, broken, 1)[3] == 1
    assert run(step, data, 2)[3] == 1
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("part", ["gradient", "loss"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gradient_or_a_loss_alone_that_is_not_finite_changes_no_weight(synthetic, part, value):
    data, model = synthetic(6), network()
    step = make_step(model, data)
    if part == "gradient":
        model.fc1.bias.register_hook(lambda gradient: gradient * value)
    else:
        step.objective.register_forward_hook(
            lambda module, inputs, output: output._replace(
                report=output.report * output.report.new_tensor([value, 1, 1])
            )
        )
    kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
    report = run(step, data)
    assert report[3] == 1
    assert report[0].isfinite() == (part == "gradient")
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_batch_statistics_of_the_clean_pass_serve_the_bounds(synthetic):
    data = synthetic(8)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    net = BoundedModule(model, data.images[:1])
    net(data.images)
    region = BoundedTensor(data.images, PerturbationLpNorm(eps=EPS))
    lower = net.compute_bounds(x=(region,), C=margins(data.labels, 10), method="IBP", bound_upper=False)[0]
    report = run(make_step(model, data), data, kappa=0.0)
    torch.testing.assert_close(report[0] / 8, margin_loss(lower).detach(), rtol=1e-5, atol=0)


def convolutions():
    """Whether cuDNN may choose the algorithm of a convolution under full precision, and in which precision it runs."""
    with full_precision():
        return torch.backends.cudnn.enabled, torch.backends.cudnn.conv.fp32_precision


def test_convolutions_of_a_step_are_left_to_cudnn_in_float32_in_every_thread_and_of_bounds_elsewhere_are_not(synthetic):
    data, model = synthetic(6), network()
    step = make_step(model, data)
    seen = []
    step.objective.register_forward_pre_hook(lambda module, inputs: seen.append(convolutions()))
    model.conv1.weight.register_hook(lambda gradient: seen.append(convolutions()))
    run(step, data)
    assert seen == [(True, "ieee"), (True, "ieee")]
    assert convolutions() == (False, "ieee")
    with ThreadPoolExecutor() as pool, free_convolutions():
        assert pool.submit(convolutions).result() == (True, "ieee")
        with pytest.raises(UnanalysedRoundingError, match="left to cuDNN while a training step runs"):
            check_products(torch.device("cuda"))
    assert torch.backends.cudnn.enabled
