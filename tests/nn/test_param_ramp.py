"""ParamRamp: its values, its trainable bending points, its life cycle and its state."""

import copy
import math

import pytest
import torch

from lbp.errors import InvalidInputError
from lbp.nn import R_MIN, LazyParamRamp, ParamRamp


def piecewise(z, r, eta):
    """The definition, branch by branch."""
    return torch.where(z < 0, eta * z, torch.where(z <= r, z, eta * z + (1 - eta) * r))


@pytest.mark.parametrize("shape", [3, (3,), (2, 3), (4, 1, 1)])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_forward_is_the_piecewise_definition(shape, eta):
    activation = ParamRamp(shape, eta=eta, r=0.7, dtype=torch.float64)
    torch.manual_seed(0)
    z = 2 * torch.randn(50, *(5 if size == 1 else size for size in activation.shape), dtype=torch.float64)
    expected = piecewise(z, torch.tensor(0.7, dtype=torch.float64), eta)
    torch.testing.assert_close(activation(z), expected, rtol=1e-14, atol=1e-14)


def test_every_neuron_has_its_own_r():
    activation = ParamRamp((3,), r=torch.tensor([0.5, 1.0, 2.0]))
    assert activation(torch.full((1, 3), 5.0)).tolist() == [[0.5, 1.0, 2.0]]


def test_gradient_reaches_r_where_the_neuron_saturates():
    activation = ParamRamp(3, eta=0.25, r=1.0)
    activation(torch.tensor([[-1.0, 0.5, 4.0]])).sum().backward()
    assert activation.r.grad.tolist() == [0.0, 0.0, 0.75]


@pytest.mark.parametrize("below", [1e-5, 0.0, -3.0])
def test_effective_r_is_kept_at_the_minimum(below):
    activation = ParamRamp(1)
    with torch.no_grad():
        activation.r.fill_(below)
    assert activation.effective_r().tolist() == pytest.approx([R_MIN])
    assert activation(torch.tensor([[2.0]])).item() == pytest.approx(R_MIN)


def test_the_clamp_passes_no_gradient_below_the_minimum_and_all_above():
    activation = ParamRamp(2, r=1.0)
    with torch.no_grad():
        activation.r[0] = -1.0
    activation.effective_r().sum().backward()
    assert activation.r.grad.tolist() == [0.0, 1.0]


def test_warm_up_is_leaky_relu_and_leaves_r_alone():
    activation = ParamRamp(2, eta=0.1, r=0.5, warm_up=True)
    z = torch.tensor([[-2.0, 3.0]])
    assert activation.effective_r() == math.inf
    assert torch.equal(activation(z), torch.nn.functional.leaky_relu(z, 0.1))
    z.requires_grad_()
    activation(z).sum().backward()
    assert activation.r.grad is None


def test_end_of_warm_up_sets_r_even_to_negative_values():
    activation = ParamRamp(2, warm_up=True)
    parameter = activation.r
    activation.end_warm_up(torch.tensor([-0.5, 2.0]))
    assert activation.r is parameter
    assert parameter.tolist() == [-0.5, 2.0]
    assert activation.effective_r().tolist() == pytest.approx([R_MIN, 2.0])


def test_eta_is_a_zero_dim_buffer_that_set_eta_changes_in_place():
    activation = ParamRamp(1, eta=0.5)
    buffer = activation.effective_eta()
    activation.set_eta(0.25)
    assert buffer.shape == ()
    assert activation.effective_eta() is buffer
    assert activation(torch.tensor([[-4.0]])).item() == -1.0


@pytest.mark.parametrize("warm_up", [True, False])
@pytest.mark.parametrize("fresh", [lambda: ParamRamp((2, 3)), LazyParamRamp])
def test_state_dict_round_trip(warm_up, fresh):
    saved = ParamRamp((2, 3), eta=0.2, r=0.7, warm_up=warm_up)
    restored = fresh()
    restored.load_state_dict(saved.state_dict())
    z = torch.randn(4, 2, 3)
    assert torch.equal(restored(z), saved(z))
    assert restored.warm_up == warm_up
    assert torch.equal(restored.r, saved.r)
    assert restored.eta == saved.eta


def test_state_holds_tensors_only():
    assert all(isinstance(value, torch.Tensor) for value in ParamRamp(2).state_dict().values())


@pytest.mark.parametrize(("key", "value"), [("eta", 1.5), ("eta", math.nan), ("r", math.nan), ("r", math.inf)])
def test_bad_state_is_refused(key, value):
    state = ParamRamp(()).state_dict()
    state[key] = torch.tensor(value)
    with pytest.raises(RuntimeError, match=key):
        ParamRamp(()).load_state_dict(state)


def test_lazy_form_takes_the_shape_of_the_first_input_and_becomes_plain():
    activation = LazyParamRamp(eta=0.1, r=2.0)
    assert "unknown" in repr(activation)
    activation(torch.zeros(7, 3, 5, 5))
    assert type(activation) is ParamRamp
    assert activation.shape == (3, 5, 5)
    assert activation.r.eq(2.0).all()


def test_lazy_form_keeps_its_flag_in_the_state_before_the_first_input():
    restored = LazyParamRamp()
    restored.load_state_dict(LazyParamRamp(eta=0.3, warm_up=True).state_dict())
    assert restored.warm_up
    assert restored.eta == torch.tensor(0.3)


def test_copies_are_independent():
    original = ParamRamp(2, r=1.0)
    duplicate = copy.deepcopy(original)
    duplicate.end_warm_up(3.0)
    assert original.r.tolist() == [1.0, 1.0]


def test_settings_are_printed():
    assert repr(ParamRamp((2, 3), eta=0.01, r=1.0)) == "ParamRamp((2, 3), eta=0.01, r=1)"
    text = repr(ParamRamp(2, r=torch.tensor([0.5, 2.0]), warm_up=True))
    assert "r in [0.5, 2]" in text
    assert "warm_up=True" in text


@pytest.mark.parametrize(
    "make", [lambda eta: ParamRamp(1, eta=eta), LazyParamRamp, lambda eta: ParamRamp(1).set_eta(eta)]
)
@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan, math.inf])
def test_eta_outside_its_range_is_refused(make, eta):
    with pytest.raises(InvalidInputError, match=r"eta must be in \[0, 1\]"):
        make(eta)


@pytest.mark.parametrize("r", [0.0, -1.0, math.nan, math.inf, torch.tensor([1.0, 0.0])])
def test_bending_points_that_are_not_positive_and_finite_are_refused(r):
    with pytest.raises(InvalidInputError, match="positive and finite"):
        ParamRamp(2, r=r)


@pytest.mark.parametrize("shape", [(0,), (2, -1), (1.5,), (True,)])
def test_bad_shapes_are_refused(shape):
    with pytest.raises(InvalidInputError, match="positive integers"):
        ParamRamp(shape)


@pytest.mark.parametrize("values", [torch.ones(3), torch.ones(1, 2, 2)])
def test_values_of_r_that_do_not_fit_are_refused(values):
    with pytest.raises(InvalidInputError, match="does not broadcast"):
        ParamRamp(2, r=values)


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor([1.0, math.nan])])
def test_warm_up_cannot_end_with_a_value_that_is_not_finite(value):
    activation = ParamRamp(2, warm_up=True)
    with pytest.raises(InvalidInputError, match="NaN or infinite"):
        activation.end_warm_up(value)
    assert activation.warm_up


@pytest.mark.parametrize("shape", [(3, 2), (5, 2, 3), (5, 3), (3,), ()])
def test_input_of_another_shape_is_refused(shape):
    with pytest.raises(InvalidInputError, match=r"\[B, 3, 2\]"):
        ParamRamp((3, 2))(torch.zeros(shape))
