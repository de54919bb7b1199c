"""A checkpoint finds its row of the paper, and no other."""

import pytest

from lbp.experiments import matching_rows
from lbp.models import ActivationSettings, ModelSettings

MNIST = (1, 28, 28)


def network(name="ramp", eta=0.01, architecture="DM-Large", shape=MNIST):
    return ModelSettings(
        architecture=architecture, input_shape=shape, num_classes=10, activation=ActivationSettings(name=name, eta=eta)
    )


def trained(data="mnist", limit=None, loss="ibp", eps=0.4, eta_start=0.01, eta_end=0.0):
    how = {"loss": loss, "eps": eps, "eta_start": eta_start, "eta_end": eta_end}
    return {"data": {"name": data, "limit": limit}, "training": how}


@pytest.mark.parametrize(
    ("model", "training", "eps", "label", "pgd"),
    [
        (network(), trained(), 0.3, "Ramp(0.01→0)", None),
        (network("relu", 0.0), trained(), 0.2, "ReLU(0)", 0.0424),
        (network("leaky-relu"), trained(eta_end=None), 0.4, "ReLU(0.01)", 0.1218),
        (network("leaky-relu"), trained(), 0.4, "ReLU(0.01→0)", 0.0971),
        (network(eta=0.0), trained(eta_start=None, eta_end=None), 0.4, "Ramp(0)", 0.0518),
        (network(), trained(data="MNIST"), 0.3, "Ramp(0.01→0)", None),
    ],
)
def test_the_row_is_found_by_activation_and_schedule(model, training, eps, label, pgd):
    (row,) = matching_rows("mnist", model, training, eps)
    assert row.activation_label == label
    assert row.test_radius == eps
    assert (row.architecture, row.loss, row.table) == ("DM-Large", "ibp", "4")
    if pgd is not None:
        assert row.errors["PGD"] == pytest.approx(pgd)


def test_radii_are_compared_as_numbers():
    model = network("relu", 0.0, shape=(3, 32, 32))
    rows = matching_rows("cifar10", model, trained("cifar10", eps=8.8 / 255), 8 / 255)
    assert [(row.table, row.train_eps, row.test_eps) for row in rows] == [
        ("1", "8.8/255", "8/255"),
        ("2", "8.8/255", "8/255"),
    ]


@pytest.mark.parametrize(
    ("model", "training", "eps"),
    [
        (network(), trained(), 0.35),
        (network(), trained(eps=0.3), 0.3),
        (network(), trained(loss="natural"), 0.3),
        (network(), trained(limit=1000), 0.3),
        (network(), trained(data="fashion-mnist"), 0.3),
        (network(), trained(eta_end=0.005), 0.3),
        (network(architecture="CNN-7+BN"), trained(), 0.3),
        (network(), {}, 0.3),
        (network(), trained(eta_start="steep"), 0.3),
        (network(), {"training": {}, "data": {}}, 0.3),
    ],
)
def test_other_networks_have_no_row(model, training, eps):
    assert matching_rows("mnist", model, training, eps) == []


def test_other_regions_have_no_row():
    assert matching_rows("mnist", network(), trained(), 0.3, clip=False) == []
