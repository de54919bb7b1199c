"""The architecture table: shapes, names, activations."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lbp.errors import InvalidInputError
from lbp.models import ARCHITECTURES, ActivationSettings, ModelSettings, Normalization, build
from lbp.nn import LeakyReLU, ParamRamp

# Neurons after every hidden layer on a 3x32x32 input, worked out by hand from the kernel, stride and padding.
NEURONS_ON_CIFAR = {
    "DM-Small": [16 * 17 * 17, 32 * 18 * 18, 100],
    "DM-Medium": [32 * 32 * 32, 32 * 17 * 17, 64 * 17 * 17, 64 * 9 * 9, 512, 512],
    "DM-Large": [65536, 65536, 32768, 32768, 32768, 512],
    "Small CIFAR": [65536, 16384, 512],
    "Small MNIST": [16 * 32 * 32, 16 * 16 * 16, 32 * 16 * 16, 32 * 8 * 8, 512, 512],
    "CNN-7+BN": [65536, 65536, 32768, 32768, 8192, 512],
    "WideResNet": [16 * 32 * 32, *[160 * 32 * 32] * 2, *[320 * 16 * 16] * 2, *[640 * 8 * 8] * 2, 512],
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_have_the_published_sizes(name):
    model = build(name, (3, 32, 32), 10, "ramp", eta=0.1, r=2.0)
    ramps = [module for module in model.modules() if isinstance(module, ParamRamp)]
    assert [ramp.r.numel() for ramp in ramps] == NEURONS_ON_CIFAR[name]
    assert all(ramp.eta == torch.tensor(0.1) and ramp.r.eq(2.0).all() for ramp in ramps)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28)])
def test_networks_map_images_to_logits(name, shape):
    model = build(name, shape, 7).eval()
    assert model(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("spelling", ["DM-Small", "dm_small", "DMSMALL", "dm small"])
def test_names_are_found_in_any_spelling(spelling):
    settings = ModelSettings(architecture=spelling, input_shape=(1, 8, 8), num_classes=2)
    assert settings.architecture == "DM-Small"


@pytest.mark.parametrize(
    ("activation", "kind"),
    [
        ("relu", nn.ReLU),
        ("ReLU", nn.ReLU),
        ("leaky-relu", LeakyReLU),
        ("LeakyReLU", LeakyReLU),
        ("ramp", ParamRamp),
        ("ParamRamp", ParamRamp),
    ],
)
def test_every_activation_is_available(activation, kind):
    assert isinstance(build("DM-Small", (1, 8, 8), 3, activation).act1, kind)


def test_leaky_relu_takes_its_slope():
    assert build("DM-Small", (1, 8, 8), 3, "leaky-relu", eta=0.3).act1.eta.item() == pytest.approx(0.3)


def test_only_cnn7_has_batch_norm_before_every_activation():
    kinds = [type(module).__name__ for module in build("cnn7bn", (1, 8, 8), 3)]
    for position, kind in enumerate(kinds):
        if kind == "ReLU":
            assert kinds[position - 1].startswith("BatchNorm")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in build("DM-Large", (1, 8, 8), 3))


def test_normalisation_is_part_of_the_network():
    normalization = Normalization(mean=(0.5, 0.25, 0.0), std=(0.5, 2.0, 1.0))
    model = build("DM-Small", (3, 8, 8), 3, normalization=normalization)
    image = torch.tensor([1.0, 2.25, 3.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    normalised = model.normalize(image)
    assert normalised[0, :, 0, 0].tolist() == [1.0, 1.0, 3.0]
    assert torch.equal(model(image), model[1:](normalised))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"architecture": "DM-Tiny"}, "unknown architecture 'DM-Tiny'"),
        ({"input_shape": (1, 0, 8)}, "input_shape"),
        ({"input_shape": (1, 8)}, "input_shape"),
        ({"num_classes": 1}, "num_classes"),
        ({"normalization": Normalization(mean=(0.5,) * 3, std=(1.0,) * 3)}, "3 channels, the input has 1"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_settings_are_refused(wrong, message):
    good = {"architecture": "DM-Small", "input_shape": (1, 8, 8), "num_classes": 2}
    with pytest.raises(ValidationError, match=message):
        ModelSettings(**{**good, **wrong})


@pytest.mark.parametrize(
    "wrong", [{"name": "tanh"}, {"name": "ramp", "eta": 1.5}, {"name": "ramp", "r": 0.0}, {"name": "relu", "eta": 0.1}]
)
def test_bad_activations_are_refused(wrong):
    with pytest.raises(ValidationError):
        ActivationSettings(**wrong)


@pytest.mark.parametrize("wrong", [{"mean": (0.5,), "std": (0.0,)}, {"mean": (0.5,), "std": (1.0, 1.0)}])
def test_bad_normalisations_are_refused(wrong):
    with pytest.raises(ValidationError):
        Normalization(**wrong)


def test_inputs_too_small_for_the_convolutions_are_refused():
    with pytest.raises(InvalidInputError, match="conv2 of Small MNIST"):
        build("Small MNIST", (1, 1, 1), 2)


def test_shapes_are_needed_beside_a_name():
    with pytest.raises(InvalidInputError, match="input_shape and num_classes"):
        build("DM-Small")
