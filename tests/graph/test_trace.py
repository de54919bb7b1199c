"""A trace shows the model as it is called with one input; what it cannot show is refused."""

import copy
import json
import math
import pickle
from collections import OrderedDict, deque
from contextlib import nullcontext
from typing import ClassVar

import numpy as np
import pytest
import torch
from graph.values import bounds_are_the_value
from torch import nn

import lbp
from lbp.errors import UnsupportedLayerError


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "hook",
    [
        lambda model: model[0].register_forward_hook(lambda module, inputs, output: output * 2),
        lambda model: model[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,)),
        lambda model: model.register_forward_hook(lambda module, inputs, output: output * 2),
        lambda model: nn.utils.weight_norm(model[0]),
        lambda model: setattr(model[0], "forward", lambda x: x),
    ],
    ids=["hook", "pre-hook", "root", "weight_norm", "own forward"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_what_a_trace_cannot_show_is_refused(model, point, hook, when):
    if when == "after":
        net = lbp.BoundedModule(model, point)
        hook(model)
        with pytest.raises(UnsupportedLayerError, match=r"hooks|forward of its own"):
            net.compute_bounds(x=point, method="IBP")
    else:
        hook(model)
        with pytest.raises(UnsupportedLayerError, match=r"hooks|forward of its own"):
            lbp.BoundedModule(model, point)


class Called(nn.Sequential):
    def __call__(self, *inputs):
        return 2 * super().__call__(*inputs)


class WithNone(nn.Sequential):
    def forward(self, x, mask=None):
        y = super().forward(x)
        return y if mask is None else 2 * y


class WithFlag(nn.Sequential):
    def forward(self, x, scale=3.0, *, twice=False):
        y = super().forward(x) * scale
        return 2 * y if twice else y


class WithAnything(nn.Sequential):
    def forward(self, *inputs, **options):
        return super().forward(inputs[0]) * (len(inputs) + len(options))


@pytest.mark.parametrize("kind", [Called, WithNone, WithFlag, WithAnything])
def test_bounds_are_of_the_model_as_it_is_called_with_one_input(model, point, kind):
    model = kind(*model)
    assert bounds_are_the_value(lbp.BoundedModule(model, point), model, point)


def _caught(x):
    try:
        return 1 if x.shape[0] > 0 else 2
    except ValueError:
        return 3


class Asking(nn.Sequential):
    """Multiplies by what its question about the input says."""

    def __init__(self, question, *layers):
        super().__init__(*layers)
        self.question = question

    def forward(self, x):
        return super().forward(x) * self.question(x)


@pytest.mark.parametrize(
    "question",
    [
        lambda x: 1 if x.grad is None else 2,
        lambda x: 1 if hasattr(x, "ptb") else 2,
        _caught,
    ],
    ids=["grad", "attribute", "except"],
)
def test_a_model_that_treats_symbolic_values_in_another_way_is_refused(model, point, question):
    asking = Asking(question, *model).eval()
    with pytest.raises(UnsupportedLayerError, match=r"Asking computes something else than what torch\.fx has traced"):
        lbp.BoundedModule(asking, point)


def test_a_model_that_computes_in_another_format_than_its_trace_is_refused(model, point):
    class Narrower(nn.Sequential):
        def forward(self, x):
            y = super().forward(x)
            return y.float() if x.grad is None else y

    with pytest.raises(UnsupportedLayerError, match=r"Narrower computes something else than what torch\.fx has traced"):
        lbp.BoundedModule(Narrower(*model).eval(), point)


@pytest.mark.parametrize(
    "question",
    [
        lambda x: 2 if x.shape[0] in {8} else 1,
        lambda x: {8: 2}.get(x.size(0), 1),
        lambda x: {2: 2}.get(x.shape[0] // 4, 1),
        lambda x: 2 if x.shape in {(8, 4)} else 1,
    ],
    ids=["set", "dictionary", "quotient", "shape"],
)
@pytest.mark.parametrize("training", [False, True])
def test_a_model_that_looks_the_batch_size_up_is_refused(model, point, question, training):
    with pytest.raises(UnsupportedLayerError, match=r"Asking looks .* up in a dictionary or a set"):
        lbp.BoundedModule(Asking(question, *model).train(training), point)


def _matched(x):
    match x.shape:
        case (8, _):
            return 2
    return 1


def _caught_by(question):
    def asked(x):
        try:
            return question(x.shape[0])
        except Exception:
            return 1

    return asked


QUESTIONS = {
    "str": lambda x: 2 if str(x.shape[0]) == "8" else 1,
    "format": lambda x: 2 if f"{x.size(0)}" == "8" else 1,
    "format with a width": _caught_by(lambda n: 2 if f"{n:3d}" == "  8" else 1),
    "percent": lambda x: 2 if "%s" % x.size(0) == "8" else 1,  # noqa: UP031
    "in a tuple": lambda x: 2 if repr((x.shape[0], 1)) == "(8, 1)" else 1,
    "of a shape": lambda x: 2 if str(x.shape).startswith("torch.Size([8") else 1,
    "of a quotient": lambda x: 1 + int(str(x.shape[0] // 4) == "2"),
    "json": lambda x: 2 if json.dumps(x.shape[0], default=str) == '"8"' else 1,
    "pickle": _caught_by(lambda n: 2 if pickle.dumps(n) == pickle.dumps(8) else 1),
    "isinstance": lambda x: 2 if isinstance(x.shape[0], int) and x.shape[0] > 4 else 1,
    "truth": _caught_by(lambda n: 2 if n > 4 else 1),
    "int": _caught_by(lambda n: 1 + int(n) // 4),
    "index": _caught_by(lambda n: 1 + len(range(n)) // 4),
    "float": _caught_by(lambda n: 1 + float(n) // 4),
    "round": _caught_by(lambda n: 1 + round(n / 8)),
    "divmod": _caught_by(lambda n: 1 + divmod(n, 4)[0]),
    "iteration": lambda x: _caught_by(lambda n: 1 + sum(x.shape) // 8)(x),
    "length of a shape": lambda x: _caught_by(lambda n: _matched(x))(x),
    "length": lambda x: _caught_by(lambda n: 1 + len(x) // 4)(x),
    "array": _caught_by(lambda n: 1 + float(np.array(n // 4))),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("training", [False, True])
def test_a_model_that_asks_python_about_the_batch_size_is_refused(model, point, question, training):
    asking = Asking(QUESTIONS[question], *model).train(training)
    assert asking(point.repeat(4, 1)).shape == (8, 3)
    says = r"Asking (makes|asks for) .* (batch size|model)|depends on the input or on the batch size"
    with pytest.raises(UnsupportedLayerError, match=says):
        lbp.BoundedModule(asking, point)


def test_a_model_that_matches_a_shape_with_a_pattern_is_refused(model, point):
    with pytest.raises(UnsupportedLayerError, match=r"cannot trace Asking: it makes .* of eq\(size\(x, 0\), 8\)"):
        lbp.BoundedModule(Asking(_matched, *model), point)


@pytest.mark.parametrize(
    "question",
    [
        lambda x: 2 if str(x).count("]") > 6 else 1,
        lambda x: _caught_by(lambda n: 2 if x.amax() > 1e9 else 1)(x),
        lambda x: _caught_by(lambda n: 2 if x.amax().item() > 1e9 else 1)(x),
    ],
    ids=["text", "truth", "number"],
)
@pytest.mark.parametrize("training", [False, True])
def test_a_model_that_asks_python_about_values_is_refused(model, point, question, training):
    with pytest.raises(UnsupportedLayerError, match=r"Asking makes .*, which a trace takes for the same at all inputs"):
        lbp.BoundedModule(Asking(question, *model).train(training), point)


@pytest.mark.parametrize(
    "number",
    [
        lambda x: math.frexp(x.shape[0])[1],
        lambda x: 1 + (x.shape + (x.shape[0] // 4,))[-1],  # noqa: RUF005 - which cannot be traced
        lambda x: 1 + (x.shape[1:] + (x.shape[0] // 4,))[1:][0],  # noqa: RUF005
    ],
    ids=["frexp", "shape", "slice"],
)
def test_an_entry_of_what_is_computed_from_the_batch_size_follows_from_it(model, point, number):
    with pytest.raises(UnsupportedLayerError, match="depends on the input or on the batch size"):
        lbp.BoundedModule(Asking(number, *model), point)


@pytest.mark.parametrize("number", [lambda x: 1 + x.requires_grad, lambda x: 1 + x.is_contiguous()])
def test_a_number_that_follows_from_no_shape_is_refused(model, point, number):
    with pytest.raises(UnsupportedLayerError, match="makes numbers of values that depend on the input"):
        lbp.BoundedModule(Asking(number, *model), point)


def test_an_array_made_of_the_input_is_refused(model, point):
    with pytest.raises(UnsupportedLayerError, match="makes numbers of values that depend on the input"):
        lbp.BoundedModule(Asking(lambda x: x.numpy().shape[1], *model), point)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "reshape",
    [
        lambda x: x.view(x.size(0), -1),
        lambda x: torch.reshape(x, (x.shape[0], x.shape[1], 1)).squeeze(2),
        lambda x: torch.unflatten(x, 1, (x.shape[1], -1)).flatten(1),
        lambda x: x / x.shape[1] ** 0.5,
        lambda x: x[0] if isinstance(x, list | tuple) else x,
    ],
    ids=["view", "function", "unflatten", "root", "isinstance"],
)
def test_a_model_that_passes_sizes_on_is_bounded(model, point, reshape, training):
    class Reshaping(nn.Sequential):
        def forward(self, x):
            return reshape(super().forward(x))

    reshaping = Reshaping(*model).train(training)
    net = lbp.BoundedModule(reshaping, point)
    assert bounds_are_the_value(net, reshaping, point)
    assert bounds_are_the_value(net, reshaping, point.repeat(4, 1))


class Keeping(nn.Sequential):
    """Keeps a factor for every number of features, and finds results by the tensors that they belong to."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.factors = {}

    def forward(self, x):
        size = x.shape[1]
        if size not in self.factors:
            self.factors[size] = size / 2
        y = super().forward(x)
        return {x: y}[x] * self.factors[size]


def test_a_model_that_keeps_what_it_computes_is_bounded(model, point):
    keeping = Keeping(*model).eval()
    assert bounds_are_the_value(lbp.BoundedModule(keeping, point), keeping, point)


class Notes:
    last = None


class Leaving(nn.Sequential):
    """Leaves its input in everything that it can reach, and fails on symbolic values if it is told to."""

    kept_by_class: ClassVar[dict[str, object]] = {}

    def __init__(self, fails, *layers):
        super().__init__(*layers)
        self.fails = fails
        self.dictionary, self.inner = {"steps": 0}, {"list": [1, 2], "deque": deque([3], maxlen=4)}
        self.objects, self.notes, self.order = {7}, (Notes(),), OrderedDict(a=1, b=2)

    def forward(self, x):
        self.kept_by_class["x"] = self.dictionary["x"] = self.notes[0].last = self.last = x
        self.dictionary["steps"] += 1
        self.inner["list"].append(x)
        self.inner["deque"].append(x)
        self.objects.add(x)
        self.order.move_to_end("a")
        if self.fails and x.sum() > 1e9:
            return x
        return super().forward(x)

    def everything(self):
        return (
            *(self.dictionary, self.inner, self.objects, vars(self.notes[0]), list(self.order), self.kept_by_class),
            *(sorted(vars(self)), self.inner["list"], self.inner["deque"].maxlen),
        )


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_trace_leaves_nothing_in_what_belongs_to_the_model(model, point, fails, training):
    leaving = Leaving(fails, *model).train(training)
    before = copy.deepcopy(leaving.everything())
    with pytest.raises(UnsupportedLayerError, match="cannot trace") if fails else nullcontext():
        lbp.BoundedModule(leaving, point)
    assert leaving.everything() == before


@pytest.mark.parametrize("register", ["register_module_forward_hook", "register_module_forward_pre_hook"])
def test_a_hook_of_all_modules_is_refused(model, point, register):
    net = lbp.BoundedModule(model, point)
    handle = getattr(nn.modules.module, register)(lambda *arguments: None)
    try:
        with pytest.raises(UnsupportedLayerError, match="hook of all modules"):
            net.compute_bounds(x=point, method="IBP")
    finally:
        handle.remove()
    assert bounds_are_the_value(net, model, point)


def test_a_model_can_be_bounded_under_inference_mode(model, point):
    with torch.inference_mode():
        net = lbp.BoundedModule(model, point)
        assert bounds_are_the_value(net, model, point)
