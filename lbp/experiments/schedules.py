"""How the paper trains, per data set (Lyu et al. 2021, section 5 and appendix)."""

from typing import Any

from lbp.experiments.paper import PaperRow

# Names and values are those of `lbp.training.TrainingSettings`.
_SCHEDULES: dict[str, dict[str, Any]] = {
    "mnist": {
        "batch_size": 256, "epochs": 200, "lr": 5e-4, "lr_milestones": [130, 190], "lr_factor": 0.1,
        "warm_up_epochs": 10, "ramp_epochs": 50, "kappa_start": 1.0, "kappa_end": 0.5,
    },
    "cifar10": {
        "batch_size": 1024, "epochs": 3200, "lr": 5e-4, "lr_milestones": [2600, 3040], "lr_factor": 0.1,
        "warm_up_epochs": 320, "ramp_epochs": 1600, "kappa_start": 0.0, "kappa_end": 0.0,
        "augmentation": {"flip": True, "padding": 4},
    },
    "tiny-imagenet": {
        "batch_size": 110, "epochs": 1000, "lr": 5e-4, "lr_milestones": [600, 700], "lr_factor": 0.1,
        "warm_up_epochs": 100, "ramp_epochs": 400, "kappa_start": 0.0, "kappa_end": 0.0, "fusion": True,
        "augmentation": {"flip": True},
    },
}  # fmt: skip
_SLOPE_SCHEDULES: dict[str, dict[str, Any]] = {
    "mnist": {"eta_keep_epochs": 70, "eta_fall_epochs": 70},
    "cifar10": {"eta_keep_epochs": 1000, "eta_fall_epochs": 1200},
}

CROPS = {"tiny-imagenet": 56}
"""Side of the windows that networks see, where they do not see whole images."""

NORMALIZED = ("cifar10", "tiny-imagenet")
"""Data that is normalised by its mean and standard deviation."""

KAPPAS = {"mnist": ((1.0, 0.5), (1.0, 0.0), (0.0, 0.0))}
"""Pairs of `kappa_start` and `kappa_end` of which the paper reports the best; `training_of` takes the first."""


def training_of(row: PaperRow) -> dict[str, Any]:
    """The settings of the training behind a row, by their names in `lbp.training.TrainingSettings`."""
    training = {"loss": row.loss, "eps": row.train_eps, **_SCHEDULES[row.data]}
    if row.loss == "crown-ibp":
        training["beta_end"] = 1.0 if row.train_eps == "2.2/255" else 0.0
    if row.eta_start > 0:
        training |= {"eta_start": row.eta_start, "eta_end": row.eta_end}
    if row.eta_start != row.eta_end:
        training |= _SLOPE_SCHEDULES[row.data]
    if (row.activation, row.loss, row.train_eps) == ("ramp", "ibp", "2.2/255"):
        training["r_noise"] = 0.01
    return training
