"""What cannot be bounded is refused with its path, its type and what to do."""

import operator
import random
import threading

import numpy as np
import pytest
import torch
from methods.networks import METHODS, bounded, inputs, region
from torch import nn
from torch.nn import functional as F

from lbp.bounded import BoundedModule
from lbp.errors import InvalidInputError, UnsupportedLayerError


def _build(model, shape=(2, 4, 4)):
    return BoundedModule(model, torch.zeros(1, *shape))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.fc = nn.Linear(4, 4)
        self.register_buffer("batch", torch.zeros(7, 1, 1, 1))

    def forward(self, x):
        return self.function(self, x)


def _increased(y):
    before = y
    y += 1
    return y + before


class Wrapped(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Sigmoid(), ["'body.1'", "torch.nn.modules.activation.Sigmoid", "Supported: Linear, products"]),
        (nn.PReLU(), ["'body.1'", "PReLU"]),
        (nn.LeakyReLU(-0.1), ["'body.1'", "negative_slope=-0.1", "[0, 1]"]),
        (nn.LeakyReLU(1.5), ["'body.1'", "negative_slope=1.5"]),
        (nn.LeakyReLU(float("nan")), ["'body.1'", "negative_slope=nan"]),
        (nn.MaxPool2d(2, return_indices=True), ["'body.1'", "return"]),
        (nn.MaxPool2d((2, 1), 1, (1, 0), 5), ["'body.1'", "wholly on its padding", "dilation=(5, 5)"]),
        (nn.ConstantPad2d(1, 0.5), ["'body.1'", "fills with 0.5"]),
        (nn.Upsample(scale_factor=2, mode="bilinear"), ["'body.1'", "mode='bilinear'"]),
        (nn.Upsample(size=(6, 4)), ["'body.1'", "[4, 4] to [6, 4]"]),
        (nn.Threshold(0.0, 1.0), ["'body.1'", "jumps from 1.0 to 0.0"]),
        (nn.Threshold(1.0, 0.0), ["'body.1'", "jumps from 0.0 to 1.0"]),
        (nn.LayerNorm(4), ["'body.1'", "LayerNorm"]),
        (nn.Flatten(0), ["'body.1'", "batch"]),
    ],
)
def test_an_unsupported_layer_is_named(layer, words):
    with pytest.raises(UnsupportedLayerError) as error:
        _build(Wrapped(nn.Sequential(nn.Conv2d(2, 2, 1), layer)))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (lambda m, x: torch.sigmoid(x), "sigmoid"),
        (lambda m, x: x * x, "both depend on the input"),
        (lambda m, x: 1 / x, "depends on the input"),
        (lambda m, x: x @ x, "multiplies two values that both depend on the input"),
        (lambda m, x: x.transpose(0, 1), "batch"),
        (lambda m, x: x.permute(1, 0, 2, 3), "batch"),
        (lambda m, x: x.reshape(-1, 4), "batch"),
        (lambda m, x: x.flatten(0, 1), "batch"),
        (lambda m, x: torch.cat([x, x], 0), "batch"),
        (lambda m, x: x * x.size(0), "batch size"),
        (lambda m, x: x * (x.shape[0] // 4), "batch size"),
        (lambda m, x: x * (x.size(0) > 3), "batch size"),
        (lambda m, x: x + (x.shape == (8, 2, 4, 4)), "batch size"),
        (lambda m, x: x[:, : 1 + x.shape[:1].numel() // 4], "batch size"),
        (lambda m, x: x[0], "batch"),
        (lambda m, x: x[:1, 0], "batch"),
        (lambda m, x: x[:, 0, 0, 0][..., :8], "batch"),
        (lambda m, x: x[None], "batch"),
        (lambda m, x: x[[0, 1], 1], "batch"),
        (lambda m, x: x[:, ..., m.batch[:2, 0, 0, 0].long()], "computed from the model's tensors"),
        (lambda m, x: x.flip(0), "between examples"),
        # Two examples, or three, do not show what these do to more of them.
        (lambda m, x: torch.roll(x, 1), "rolls over the batch"),
        (lambda m, x: torch.roll(x, 2 * 3 * 32), "rolls over the batch"),
        (lambda m, x: x.roll((1, 6), (1, -4)), "rolls over the batch"),
        (lambda m, x: F.pad(F.pad(x, (0, 0, 0, 0, 0, 0, 1, 1)), (0, 0, 0, 0, 0, 0, -1, -1)), "batch"),
        (lambda m, x: F.pad(x, (0, 0, 0, 0, 0, 0, -2, 2)), "pads the batch"),
        (lambda m, x: x[-3:, [0, 1]], "along the batch"),
        (lambda m, x: x[None, :3, :, [0, 1]][0], "batch"),
        (lambda m, x: x[:, 0, 0][..., -3:, [0, 1]], "along the batch"),
        (lambda m, x: x[..., -3:, :, torch.ones(4, 4) > 0], "along the batch"),
        (lambda m, x: x.repeat(2, 1, 1, 1), "batch"),
        (lambda m, x: F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0)), "batch"),
        (lambda m, x: F.pad(x, (1, 1), value=1.0), "fills with 1.0"),
        (lambda m, x: x.chunk(2, 0)[0], "batch"),
        (lambda m, x: x.chunk(2, x.shape[0] - x.shape[0] + 1)[0], "batch size"),
        (lambda m, x: x.split([x.shape[0] // 4 + 1, 1 - x.shape[0] // 4], 1)[0], "batch size"),
        (lambda m, x: sum(x.split(1, 0)), "cannot trace"),
        (lambda m, x: sum(x.chunk(2, 0)), "divides the batch"),
        (lambda m, x: torch.stack([x, x]), "batch"),
        (lambda m, x: x.sum(0), "batch"),
        (lambda m, x: x.sum((1, -4)), "batch"),
        (lambda m, x: x.mean((1, 2, 3))[None].mean(1), "batch"),
        (lambda m, x: x.clamp(m.fc.bias[0], 1.0), "computed from the model's tensors"),
        (lambda m, x: x @ m.batch[:4, 0, 0][None], "a matrix on the right"),
        (lambda m, x: x @ m.fc.bias, "a tensor of 4 dimensions by one of 1"),
        (lambda m, x: torch.addmm(m.fc.bias, x[:, 0, 0], m.fc.weight.t(), alpha=2), "factors [1, 2]"),
        (lambda m, x: torch.addmm(m.fc.bias, x[:, 0, 0], m.fc.weight.t(), beta=0), "factors [0, 1]"),
        (lambda m, x: m.fc.bias @ x, "a matrix on the left"),
        (lambda m, x: torch.var_mean(x, 1)[0], "several tensors"),
        (lambda m, x: F.leaky_relu(x, 2.0), "negative_slope=2.0"),
        (lambda m, x: F.hardtanh(x, 1.0, 1.0), "max_val"),
        (lambda m, x: x.div(2, rounding_mode="floor"), "rounding"),
        (lambda m, x: (x, x), "single tensor"),
        (lambda m, x: m.fc.weight + 1, "does not depend on its input"),
        (lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0], "max_pool2d"),
        (lambda m, x: x if x.sum() > 0 else -x, "cannot trace"),
        (lambda m, x: x.mean(), "mean"),
        (lambda m, x: F.linear(x, x[0, 0]), "batch"),
        (lambda m, x: F.linear(x, m.fc.bias), "weight of shape [4]"),
        (lambda m, x: F.linear(x, m.fc.weight, m.fc.bias[:1]), "bias of shape [1]"),
        (lambda m, x: F.interpolate(x, scale_factor=2, mode="bicubic"), "mode='bicubic'"),
        (lambda m, x: F.interpolate(x[..., :3, :3], scale_factor=2.3), "scale_factor=2.3"),
        (lambda m, x: F.interpolate(x, scale_factor=(2, 1.1)), "scale_factor=(2, 1.1)"),
        (lambda m, x: x + torch.randn(4), "draws random numbers"),
        (lambda m, x: x * torch.bernoulli(m.fc.bias.abs().clamp(max=1)), "draws random numbers"),
        (lambda m, x: x * random.random(), "draws random numbers"),
        (lambda m, x: x * float(np.random.rand()), "draws random numbers"),  # noqa: NPY002
        (lambda m, x: torch.add(x, x, alpha=m.fc.bias[0].item()), "computed from the model's tensors"),
        (lambda m, x: F.hardtanh(x, -1.0, m.fc.bias[0].exp().item()), "computed from the model's tensors"),
        (lambda m, x: x * x.tolist()[0][0][0][0], "numbers of values"),
        (lambda m, x: x.view(torch.int32), "gives torch.int32"),
        (lambda m, x: x * torch.ones(4, dtype=torch.float64), "gives torch.float64"),
        (lambda m, x: x if m.batch[0] > 0 else -x, "cannot trace"),
        (lambda m, x: x / 0, "divides by 0"),
        (lambda m, x: x / 0.0, "divides by 0"),
        (lambda m, x: setattr(x, "data", x), "sets the attribute 'data'"),
        (lambda m, x: x.mT, "attribute mT is not supported"),
        (lambda m, x: nn.ReLU()(x), "make the module in __init__"),
    ],
)
def test_an_unsupported_call_is_named(function, word):
    with pytest.raises(UnsupportedLayerError, match=r".*") as error:
        _build(Function(function))
    assert word in str(error.value)


def test_a_call_inside_a_submodule_names_the_submodule():
    class Inner(nn.Module):
        def forward(self, x):
            return torch.tanh(x)

    with pytest.raises(UnsupportedLayerError, match=r"tanh in module '1.0'"):
        _build(nn.Sequential(nn.ReLU(), nn.Sequential(Inner())))


def test_a_second_input_is_refused():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(UnsupportedLayerError, match=r"second input 'y'"):
        _build(Two())
    with pytest.raises(InvalidInputError, match="one tensor"):
        BoundedModule(nn.ReLU(), (torch.zeros(1, 2), torch.zeros(1, 2)))


class ByName(nn.Linear):
    def forward(self, *, image):
        return super().forward(image)


class WithoutInput(nn.Linear):
    def forward(self):
        return self.weight


@pytest.mark.parametrize(
    ("model", "words"),
    [(ByName(4, 4), "'image' by its name alone"), (WithoutInput(4, 4), "takes no input")],
)
def test_an_input_that_no_position_takes_is_refused(model, words):
    with pytest.raises(UnsupportedLayerError, match=words):
        BoundedModule(model, torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda m, x: (x,), "a tuple of 1"),
        (lambda m, x: [x, x], "a list of 2"),
        (lambda m, x: {"logits": x}, "a dict of 1"),
        (lambda m, x: None, "None"),
    ],
)
def test_of_another_output_than_a_tensor_the_refusal_says_what_it_is(function, what):
    with pytest.raises(UnsupportedLayerError, match=f"must return a single tensor, it returns {what}; wrap it"):
        _build(Function(function))


@pytest.mark.parametrize("model", [nn.Module(), nn.ModuleList([nn.Linear(4, 4)]), nn.ModuleDict()])
def test_a_model_without_a_forward_method_is_refused_as_such(model):
    with pytest.raises(UnsupportedLayerError, match=rf"the model \({type(model).__name__}\) has no forward method"):
        BoundedModule(model, torch.zeros(1, 4))


def test_the_bounds_of_bounds_are_refused():
    net = BoundedModule(nn.Linear(4, 4), torch.zeros(1, 4))
    with pytest.raises(InvalidInputError, match="model is a BoundedModule already"):
        BoundedModule(net, torch.zeros(1, 4))


def _compiled_in_place(model):
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (torch.jit.script, "is TorchScript.*lbp.load_onnx"),
        (lambda model: torch.jit.trace(model, torch.zeros(1, 4)), "is TorchScript.*lbp.load_onnx"),
        (lambda model: torch.compile(model, backend="eager"), r"bound that model itself \(\._orig_mod\)"),
        (_compiled_in_place, r"compiled in place by \.compile\(\)"),
        (nn.DataParallel, r"bound that model itself \(\.module\)"),
        (torch.ao.nn.quantized.dynamic.Linear.from_float, "is quantized"),
    ],
    ids=["script", "traced script", "compiled", "compiled in place", "data parallel", "quantized"],
)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.filterwarnings("ignore:.*(deprecated|quantize)")
def test_a_form_that_hides_a_network_is_refused_by_what_to_bound_instead(form, words, inside):
    layer = nn.Linear(4, 4).eval()
    layer.qconfig = torch.ao.quantization.default_dynamic_qconfig
    model = Wrapped(form(layer)) if inside else form(layer)
    name = "body" if inside else "the model"
    with pytest.raises(UnsupportedLayerError, match=rf"^{name} \(\w+\) .*{words}"):
        BoundedModule(model, torch.zeros(1, 4))


def test_a_network_that_is_compiled_in_place_after_its_bounds_were_made_is_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    net, x = BoundedModule(model, torch.zeros(1, 4)), region(torch.zeros(1, 4))
    model.compile(backend="eager")
    with pytest.raises(UnsupportedLayerError, match="compiled in place"):
        net.compute_bounds(x=x)


def test_an_example_of_another_shape_is_refused_with_the_shape():
    with pytest.raises(InvalidInputError, match=r"does not run on an input of shape \[2, 5\]"):
        _build(nn.Linear(4, 3), (5,))


def _correction_under_autocast(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        correction = F.relu(m.fc(x))
    return x + 0.01 * correction.to(x.dtype)


@pytest.mark.parametrize("forward", [_correction_under_autocast, torch.autocast("cpu")(lambda m, x: m.fc(x))])
@pytest.mark.parametrize("training", [False, True])
def test_a_forward_pass_under_autocast_is_refused(forward, training):
    with pytest.raises(UnsupportedLayerError, match="under autocast"):
        _build(Function(forward).train(training), (4,))


def test_autocast_that_changes_no_format_is_followed():
    def switched_off(m, x):
        with torch.autocast("cpu", enabled=False):
            return m.fc(x)

    _build(Function(switched_off), (4,))
    model, x = Function(_correction_under_autocast).double().eval(), inputs((4,))
    torch.testing.assert_close(bounded(model, (4,)).compute_bounds(region(x, 0.0))[0], model(x))


def test_a_constant_with_a_batch_of_its_own_is_refused():
    with pytest.raises((UnsupportedLayerError, InvalidInputError)):
        _build(Function(lambda m, x: x + m.batch))


@pytest.mark.parametrize("functional", [False, True])
def test_active_dropout_is_refused_and_inactive_dropout_is_the_identity(functional):
    body = Function(lambda m, x: F.dropout(m.fc(x), 0.5, m.training)) if functional else None
    model = body or nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    model = model.double()
    net = bounded(model, (4,))
    x = region(inputs((4,)))
    with pytest.raises(UnsupportedLayerError, match=r"training mode with p=0\.5"):
        net.compute_bounds(x)
    net.eval()
    lower, upper = net.compute_bounds(x)
    assert (lower <= upper).all()
    net.train()
    with pytest.raises(UnsupportedLayerError, match="training mode"):
        net.compute_bounds(x)


def test_dropout_that_does_not_follow_the_mode_is_refused_with_the_argument_it_needs():
    model = Function(lambda m, x: F.dropout(m.fc(x))).double().eval()
    with pytest.raises(UnsupportedLayerError, match=r"draws random numbers .*training=self\.training"):
        bounded(model, (4,))


def test_dropout_that_drops_nothing_is_allowed_in_training():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0)).double().train()
    lower, upper = bounded(model, (4,)).compute_bounds(region(inputs((4,))))
    assert (lower < upper).all()


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: (lambda y: y + F.relu(y, inplace=True))(m.fc(x)),
        lambda m, x: (lambda y: (F.relu_(y), m.fc(y))[1])(m.fc(x)),
        lambda m, x: (lambda y: F.relu(y.flatten(1), inplace=True) + y.flatten(1))(m.fc(x)),
        lambda m, x: (lambda y: y.add_(1) - y)(m.fc(x)),
        lambda m, x: (lambda y: operator.iadd(y, 1) + y)(m.fc(x)),
        lambda m, x: _increased(m.fc(x)),
        lambda m, x: _increased(x) + x,
        lambda m, x: (lambda y: (_increased(y.flatten(1)), F.relu(y))[1])(m.fc(x)),
        lambda m, x: (lambda y: (_increased(y.mT), F.relu(y))[1])(m.fc(x)),
        # Of a batch of one example this is no copy.
        lambda m, x: (lambda y: (_increased(y.chunk(2, 1)[0].contiguous()), F.relu(y))[1])(m.fc(x)),
        lambda m, x: (lambda w: x * (operator.imul(w, 2) + w))(m.fc.bias * 1),
    ],
)
def test_a_value_changed_in_place_and_read_again_is_refused(function):
    model = Function(function).double()
    with pytest.raises(UnsupportedLayerError, match="in place"):
        bounded(model, (2, 4, 4))


def test_a_forward_pass_that_depends_on_the_mode_is_bounded_in_the_present_mode():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x) if self.training else -self.fc(x)

    model = Moody().double()
    net = bounded(model, (4,))
    x = inputs((4,))
    for mode in (True, False, True):
        net.train(mode)
        lower, _ = net.compute_bounds(region(x, 0.0))
        torch.testing.assert_close(lower, model(x))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.scale.mul_(2.0),
        lambda m: m.scale.view(2, 2).mul_(2.0),
        lambda m: operator.imul(m.scale, 2.0),
        lambda m: m.get_buffer("scale").mul_(2.0),
    ],
    ids=["method", "view", "operator", "get_buffer"],
)
@pytest.mark.parametrize("inference", [False, True])
def test_a_forward_pass_that_changes_a_buffer_is_refused_by_its_name(change, inference):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(4))

        def forward(self, x):
            change(self)
            return x * self.scale

    with torch.inference_mode(inference), pytest.raises(UnsupportedLayerError, match=r"tensor 'scale', of shape \[4\]"):
        BoundedModule(Counting(), torch.zeros(1, 4))


def test_a_forward_pass_that_changes_a_tensor_of_its_own_is_refused_by_its_name():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = torch.zeros(())

        def forward(self, x):
            self.steps += 1
            return x * self.steps

    with pytest.raises(UnsupportedLayerError, match="tensor 'steps'"):
        BoundedModule(Counting(), torch.zeros(1, 4))


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
@pytest.mark.parametrize("times", [1, 3])
def test_a_thread_that_draws_beside_a_trace_makes_no_network_random(draw, times):
    threads = [threading.Thread(target=draw) for _ in range(times)]

    def forward(m, x):
        if threads:
            thread = threads.pop()
            thread.start()
            thread.join()
        return m.fc(x)

    model, x = Function(forward).double(), inputs((4,))
    net = bounded(model, (4,))
    assert not threads
    torch.testing.assert_close(net.compute_bounds(region(x, 0.0))[0], model(x))


def test_of_a_thread_that_draws_beside_every_trace_the_refusal_speaks():
    def forward(m, x):
        thread = threading.Thread(target=random.random)
        thread.start()
        thread.join()
        return m.fc(x)

    with pytest.raises(UnsupportedLayerError, match="if no other thread did"):
        bounded(Function(forward).double(), (4,))


@pytest.mark.parametrize("functional", [False, True])
def test_dropout_of_weights_is_refused_in_training_and_the_identity_in_evaluation(functional):
    class DropConnect(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.drop = nn.Parameter(torch.rand(3, 4)), nn.Dropout(0.5)

        def forward(self, x):
            return F.linear(x, F.dropout(self.weight, 0.5, self.training) if functional else self.drop(self.weight))

    model = DropConnect().double()
    with pytest.raises(UnsupportedLayerError, match="random numbers"):
        bounded(model, (4,))
    x = inputs((4,))
    net = bounded(model.eval(), (4,))
    torch.testing.assert_close(net.compute_bounds(region(x, 0.0))[0], model(x))
    net.train()
    with pytest.raises(UnsupportedLayerError, match="random numbers"):
        net.compute_bounds(region(x))


def test_batch_statistics_of_weights_are_refused():
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.norm = nn.Parameter(torch.rand(3, 4)), nn.BatchNorm1d(4)

        def forward(self, x):
            return F.linear(x, self.norm(self.weight))

    model = Normalised().double()
    with pytest.raises(UnsupportedLayerError, match="layer 'norm' normalises a constant"):
        bounded(model, (4,))
    assert model.norm.num_batches_tracked == 0
    x = inputs((4,))
    torch.testing.assert_close(bounded(model.eval(), (4,)).compute_bounds(region(x, 0.0))[0], model(x))


def test_a_power_iteration_in_training_mode_is_refused():
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))).double()
    with pytest.raises(UnsupportedLayerError, match=r"_u', of shape \[3\].* eval\(\)"):
        bounded(model, (4,))


@pytest.mark.parametrize("method", METHODS)
def test_an_output_without_entries_is_refused(method):
    net = bounded(Function(lambda m, x: m.fc(x)[:, 2:2]).double(), (4,))
    with pytest.raises(InvalidInputError, match=r"shape \[0\] per example"):
        net.compute_bounds(region(inputs((4,))), method=method)


def test_infinite_inputs_are_refused_and_the_largest_numbers_are_not(point):
    net = BoundedModule(nn.Linear(4, 5).double(), point)
    net.compute_bounds(x=torch.full_like(point, torch.finfo(torch.float64).max), method="IBP")
    for bad in (torch.nan, torch.inf, -torch.inf):
        wrong = point.clone()
        wrong[1, 2] = bad
        with pytest.raises(InvalidInputError, match="flat index 6"):
            net.compute_bounds(x=wrong, method="IBP")
