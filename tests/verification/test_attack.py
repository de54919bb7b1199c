"""The attacks that verdicts are held against."""

from fractions import Fraction
from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from lbp.errors import InvalidInputError
from lbp.nn import ParamRamp
from lbp.verification import pgd, square_attack
from lbp.verification.search import Box

ATTACKS = {
    "PGD margin": partial(pgd, loss="margin"),
    "PGD cross-entropy": partial(pgd, loss="cross-entropy"),
    "Square": partial(square_attack, queries=400),
}


@pytest.fixture(params=ATTACKS)
def attack(request):
    return ATTACKS[request.param]


def linear_model():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]))
        model[1].bias.zero_()
    return model


@pytest.mark.parametrize("shape", [(4,), (1, 4), (1, 2, 2), (4, 1, 1)])
def test_the_worst_point_of_a_linear_model_is_found(attack, shape):
    x = torch.full((1, *shape), 0.5, dtype=torch.float64)
    worst = attack(linear_model(), x, torch.tensor([0]), 0.1)
    assert worst.shape == x.shape
    assert worst.flatten()[:3].tolist() == pytest.approx([0.4, 0.6, 0.4])


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_points_stay_in_the_region_and_in_the_data_range(attack, eps):
    torch.manual_seed(0)
    x = torch.rand(20, 4, dtype=torch.float64)
    seen = []
    model = linear_model()
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    attack(model, x, torch.zeros(20, dtype=torch.int64), eps, clip=(0, 1))
    assert len(seen) > 40, "the random starts and every step are among them"
    for points in seen:
        assert bool((points >= (x - eps).clamp_min(0)).all())
        assert bool((points <= (x + eps).clamp_max(1)).all())


def test_data_normalised_outside_the_network_is_attacked_in_its_own_units(attack):
    # The same network on x and on (x - mean) / std, with the radius and the range transformed in the same way.
    torch.manual_seed(0)
    mean, std = (torch.tensor(values).view(3, 1, 1).double() for values in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.5]))
    raw = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x, labels = torch.rand(6, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])

    def normalised(z):
        return raw(z * std + mean)

    expected = attack(raw, x, labels, 0.1, clip=(0, 1))
    found = attack(normalised, (x - mean) / std, labels, 0.1 / std, clip=((0 - mean) / std, (1 - mean) / std))
    torch.testing.assert_close(found * std + mean, expected)


def test_an_example_meets_the_same_attack_in_every_batch(attack):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    x, labels = torch.rand(5, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    together = attack(model, x, labels, 0.2, seed=[7, 3, 5, 1, 9])
    alone = attack(model, x[2:3], labels[2:3], 0.2, seed=[5])
    torch.testing.assert_close(together[2:3], alone)
    assert torch.equal(together, attack(model, x, labels, 0.2, seed=[7, 3, 5, 1, 9]))


def test_the_best_iterate_is_kept_and_not_the_last():
    # The only bad points are |x| < 0.05, and the last, shortest steps of the descent keep crossing 0.
    class Valley(nn.Module):
        def forward(self, x):
            margin = x.abs().sum(1) - 0.05
            return torch.stack([margin, torch.zeros_like(margin)], 1)

    x, labels = torch.full((1, 1), 0.06, dtype=torch.float64), torch.tensor([0])
    worst = pgd(Valley(), x, labels, 0.3, steps=50, restarts=1, step_size=0.02)
    assert worst.abs().item() < 0.05


@pytest.mark.parametrize("early_stop", [False, True])
def test_an_early_stop_finds_a_misclassified_point_where_the_full_search_does(attack, early_stop):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    x = torch.rand(30, 6, dtype=torch.float64)
    labels = model(x).argmax(1)
    fooled = model(attack(model, x, labels, 0.3, early_stop=early_stop)).argmax(1) != labels
    assert 5 < int(fooled.sum()) < 30


def test_masked_gradients_stop_descent_but_not_the_search_without_gradients():
    # Beyond its bending point the ramp is flat: no gradient says that smaller inputs lead to the other class, and
    # random starts are about as large as the input.
    model = nn.Sequential(nn.Linear(40, 1), ParamRamp(1, eta=0.0, r=1.0), nn.Linear(1, 2)).double()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(-18.0)
        model[2].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[2].bias.copy_(torch.tensor([-0.5, 0.5]))
    x, labels = torch.full((1, 40), 0.5, dtype=torch.float64), torch.tensor([0])
    assert model(pgd(model, x, labels, 0.05, restarts=20)).argmax(1).item() == 0
    assert model(square_attack(model, x, labels, 0.05)).argmax(1).item() == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_attacks_need_no_gradients_around_them(attack, mode):
    model, region = linear_model(), {"eps": 0.1, "seed": 1}
    expected = attack(model, torch.full((1, 4), 0.5, dtype=torch.float64), torch.tensor([0]), **region)
    with mode():
        found = attack(model, torch.full((1, 4), 0.5, dtype=torch.float64), torch.tensor([0]), **region)
    assert torch.equal(found, expected)


def test_an_empty_batch_is_no_error(attack):
    assert attack(linear_model(), torch.empty(0, 4).double(), torch.empty(0, dtype=torch.int64), 0.1).shape == (0, 4)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0], "labels must be a tensor, got list"),
        (torch.tensor([0, 1]), r"labels must be int64 of shape \[1\], got torch.int64 of shape \[2\]"),
        (torch.tensor([0.0]), "labels must be int64"),
        (torch.tensor([9]), "labels run from 9 to 9, expected 0 to "),
        (torch.tensor([0], device="meta"), "labels is on the device meta"),
    ],
)
def test_bad_labels_are_refused(attack, labels, message):
    with pytest.raises(InvalidInputError, match=message):
        attack(linear_model(), torch.full((1, 4), 0.5).double(), labels, 0.1)


def test_an_unknown_loss_is_refused():
    with pytest.raises(InvalidInputError, match="loss must be one of margin, cross-entropy, got 'hinge'"):
        pgd(linear_model(), torch.full((1, 4), 0.5).double(), torch.tensor([0]), 0.1, loss="hinge")


@pytest.mark.parametrize("eps", [-0.1, float("nan")])
def test_bad_radii_are_refused(attack, eps):
    with pytest.raises(InvalidInputError, match="eps must be >= 0"):
        attack(linear_model(), torch.rand(1, 4), torch.tensor([0]), eps)


@settings(deadline=None, max_examples=30)
@given(x=st.floats(-1.5, 1.5, width=32), eps=st.floats(0, 1), wide=st.booleans())
@example(x=1.0, eps=0.1, wide=False)
def test_the_ends_of_the_box_lie_in_the_exact_region(x, eps, wide):
    point = torch.tensor([[x]], dtype=torch.float64 if wide else torch.float32)
    box = Box.around(point, eps, None)
    exact = Fraction(x) - Fraction(eps), Fraction(x) + Fraction(eps)
    low, high = Fraction(box.low.item()), Fraction(box.high.item())
    assert exact[0] <= low <= Fraction(x) <= high <= exact[1]
    unit = Fraction(torch.finfo(point.dtype).eps) * 4
    assert low - exact[0] <= unit
    assert exact[1] - high <= unit
    cut = Box.around(point, 2.0, (0.1, 0.7))
    assert Fraction(0.1) <= Fraction(cut.low.item()) <= Fraction(cut.high.item()) <= Fraction(0.7)
