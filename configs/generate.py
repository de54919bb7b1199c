"""Writes every settings file of this folder: `python configs/generate.py`.

`paper/` has one file per row of tables 2 to 7 of Lyu et al. 2021, from the one list of these rows in the repository and
the settings that the paper states per data set (`lbp.experiments`). `short/` has the schedules of Shi et al. 2021,
`quick/` trainings that two CPU cores finish in minutes, `natural/` normal trainings of the paper's two small networks.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lbp.experiments import CROPS, NORMALIZED, PaperRow, paper_rows, training_of
from lbp.training import RunSettings

Table = dict[str, Any]

# Shi et al. 2021; the radii are those that they train with.
SHORT: dict[str, Table] = {
    "mnist": {
        "eps": "0.4", "batch_size": 256, "epochs": 70, "lr_milestones": [50, 60], "warm_up_epochs": 1,
        "ramp_epochs": 20, "gradient_clip": 10.0, "regularization": 0.5,
    },
    "cifar10": {
        "eps": "8/255", "batch_size": 128, "epochs": 160, "lr_milestones": [120, 140], "warm_up_epochs": 2,
        "ramp_epochs": 80, "gradient_clip": 10.0, "regularization": 0.5,
        "augmentation": {"flip": True, "padding": 2},
    },
    "tiny-imagenet": {
        "eps": "1/255", "batch_size": 128, "epochs": 80, "lr_milestones": [61, 71], "warm_up_epochs": 2,
        "ramp_epochs": 20, "gradient_clip": 8.0, "regularization": 0.2, "fusion": True,
        "augmentation": {"flip": True},
    },
}  # fmt: skip
SHORT_FOR_ALL: Table = {
    "lr": 5e-4, "lr_factor": 0.2, "eps_shape": "smoothed", "kappa_start": 0.0, "kappa_end": 0.0,
    "initialization": "ibp",
}  # fmt: skip
SHORT_NETWORKS = {"mnist": ("DM-Large", "CNN-7+BN"), "cifar10": ("CNN-7+BN",), "tiny-imagenet": ("CNN-7+BN",)}

QUICK: dict[str, Table] = {
    "mnist": {
        "eps": "0.3", "batch_size": 100, "epochs": 10, "lr": 2e-3, "lr_milestones": [7, 9], "warm_up_epochs": 1,
        "ramp_epochs": 5, "eta_keep_epochs": 3, "eta_fall_epochs": 4,
    },
    "digits": {
        "eps": "0.12", "batch_size": 64, "epochs": 60, "lr": 8e-3, "lr_milestones": [45, 54], "warm_up_epochs": 6,
        "ramp_epochs": 30, "eta_keep_epochs": 20, "eta_fall_epochs": 20,
    },
}  # fmt: skip
QUICK_FOR_ALL: Table = {"lr_factor": 0.2, "gradient_clip": 10.0, "kappa_start": 1.0, "kappa_end": 0.5}
QUICK_LIMIT = {"mnist": 10000}

# The small networks of the paper, trained normally, for the pictures of what bounds do then.
NATURAL: dict[str, Table] = {
    "mnist": {"epochs": 20, "lr_milestones": [15, 18]},
    "cifar10": {"epochs": 40, "lr_milestones": [30, 36], "augmentation": {"flip": True, "padding": 4}},
}
NATURAL_FOR_ALL: Table = {"loss": "natural", "eps": 0.0, "batch_size": 256, "lr": 1e-3}
NATURAL_NETWORKS = {"mnist": "Small MNIST", "cifar10": "Small CIFAR"}

TABLES = ("2", "3", "4", "5", "6", "7")
SLOPE = 0.01


def paper_config(row: PaperRow) -> Table:
    """Settings of the training behind a row of the paper."""
    return config(row.data, row.architecture, activation(row.activation, row.eta_start), training_of(row))


def config(data: str, architecture: str, chosen: Table, training: Table) -> Table:
    """The three tables of a settings file."""
    tables: Table = {"data": {"name": data}, "model": {"architecture": architecture, "activation": chosen}}
    if data in CROPS:
        tables["data"]["crop"] = CROPS[data]
    if data in NORMALIZED:
        tables["model"]["normalize"] = True
    return tables | {"training": training}


def activation(name: str, eta: float) -> Table:
    """An activation at the start of its training; ReLU with a slope is LeakyReLU."""
    if name == "relu" and eta == 0:
        return {"name": "relu"}
    return {"name": "leaky-relu" if name == "relu" else name, "eta": eta}


def all_configs() -> dict[str, Table]:
    """Every settings file by its path in this folder."""
    return {path: tables for part in (_paper(), _short(), _natural(), _quick()) for path, tables in part}


def _paper() -> Iterator[tuple[str, Table]]:
    for row in paper_rows():
        if row.table not in TABLES:
            continue
        slope = f"{row.eta_start:g}" + ("" if row.eta_start == row.eta_end else f"-to-{row.eta_end:g}")
        eps = "" if "/" not in row.train_eps else f"-eps-{row.train_eps.replace('/', '-')}"
        name = f"{_plain(row.architecture)}-{row.loss}-{row.activation}-{slope}{eps}.toml"
        # Rows that differ in the radius of the test alone are one training.
        yield f"paper/table-{row.table}/{name}", paper_config(row)


def _short() -> Iterator[tuple[str, Table]]:
    for data, networks in SHORT_NETWORKS.items():
        for network in networks:
            for loss in ("ibp", "crown-ibp"):
                for name in ("relu", "ramp"):
                    training = {"loss": loss, **SHORT[data], **SHORT_FOR_ALL}
                    if name == "ramp":
                        training |= _falling_slope(*_after_the_ramp(**SHORT[data]))
                    tables = config(data, network, activation(name, SLOPE if name == "ramp" else 0.0), training)
                    yield f"short/{data}-{_plain(network)}-{loss}-{name}.toml", tables


def _natural() -> Iterator[tuple[str, Table]]:
    for data, schedule in NATURAL.items():
        tables = config(data, NATURAL_NETWORKS[data], activation("relu", 0.0), {**NATURAL_FOR_ALL, **schedule})
        yield f"natural/{_plain(NATURAL_NETWORKS[data])}-relu.toml", tables


def _quick() -> Iterator[tuple[str, Table]]:
    for data, schedule in QUICK.items():
        keep, fall = schedule["eta_keep_epochs"], schedule["eta_fall_epochs"]
        plain = {name: value for name, value in schedule.items() if not name.startswith("eta")}
        for loss in ("ibp", "crown-ibp"):
            for name in ("relu", "ramp"):
                training = {"loss": loss, **plain, **QUICK_FOR_ALL}
                if name == "ramp":
                    training |= _falling_slope(keep, fall)
                tables = config(data, "DM-Small", activation(name, SLOPE if name == "ramp" else 0.0), training)
                if data in QUICK_LIMIT:
                    tables["data"]["limit"] = QUICK_LIMIT[data]
                yield f"quick/{data}-{loss}-{name}.toml", tables


def _after_the_ramp(epochs: int, warm_up_epochs: int, ramp_epochs: int, **_: Any) -> tuple[int, int]:
    """Epochs to keep the slope, until eps is full, and to let it fall: as long as eps rose, or half of what is left."""
    keep = warm_up_epochs + ramp_epochs
    return keep, min(ramp_epochs, (epochs - keep) // 2)


def _falling_slope(keep: int, fall: int) -> Table:
    return {"eta_start": SLOPE, "eta_end": 0.0, "eta_keep_epochs": keep, "eta_fall_epochs": fall}


def _plain(architecture: str) -> str:
    return architecture.lower().replace("+", "-").replace(" ", "-")


def toml(tables: Mapping[str, Any]) -> str:
    """A settings file: one TOML table after another, of values, lists and inline tables."""
    RunSettings.model_validate(tables)
    parts = []
    for name, table in tables.items():
        lines = [f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
        parts.append("\n".join(lines))
    return "# Written by configs/generate.py.\n\n" + "\n\n".join(parts) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_value(entry)}' for key, entry in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)


def main(folder: Path) -> None:
    """Writes all files, and removes those of earlier lists."""
    configs = all_configs()
    for path in folder.rglob("*.toml"):
        if path.relative_to(folder).as_posix() not in configs:
            path.unlink()
    for name, tables in configs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(toml(tables), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
