"""Where a training departs from the one behind a row of the paper."""

from collections.abc import Mapping
from typing import Any

from lbp.experiments import CROPS, KAPPAS, NORMALIZED, PaperRow, training_of
from lbp.training import TrainingSettings

_COMPARED = (
    "clip", "epochs", "batch_size", "lr", "lr_milestones", "lr_factor", "gradient_clip", "warm_up_epochs",
    "ramp_epochs", "eps_shape", "kappa_start", "kappa_end", "fusion", "r_noise", "initialization", "regularization",
    "augmentation", "selection",
)  # fmt: skip
_WITH_CROWN = ("beta_start", "beta_end")
_WITH_FALLING_SLOPE = ("eta_shape", "eta_keep_epochs", "eta_fall_epochs")
_KAPPA = ("kappa_start", "kappa_end")


def departures(row: PaperRow, described: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings of a training that are not those of the paper's.

    Loss, radius and outer slope are no part of it: by them the row was found (`matching_rows`). On MNIST the paper
    takes the best of three pairs of kappa, each of which counts as the paper's.

    Args:
        row: of the paper.
        described: settings of a run with the tables "training", "data" and "model", as JSON values; what it lacks is
            not compared.

    Returns:
        by name of `TrainingSettings`, or "crop" and "normalize" of the other tables, the value here and the paper's.
    """
    training, data, model = (_table(described, name) for name in ("training", "data", "model"))
    # The paper chooses among the epochs on the test set.
    paper = TrainingSettings.model_validate({**training_of(row), "selection": "test"}).model_dump(mode="json")
    names = list(_COMPARED)
    if row.loss == "crown-ibp":
        names += _WITH_CROWN
    if row.eta_start != row.eta_end:
        names += _WITH_FALLING_SLOPE
    if tuple(training.get(name) for name in _KAPPA) in KAPPAS.get(row.data, ()):
        names = [name for name in names if name not in _KAPPA]
    pairs = {name: (training[name], paper[name]) for name in names if name in training}
    if "crop" in data:
        pairs["crop"] = data["crop"], CROPS.get(row.data)
    if "normalize" in model:
        pairs["normalize"] = model["normalize"], row.data in NORMALIZED
    return {name: (here, stated) for name, (here, stated) in pairs.items() if here != stated}


def _table(described: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = described.get(name)
    return table if isinstance(table, Mapping) else {}


def departures_text(row: PaperRow, found: Mapping[str, tuple[Any, Any]]) -> str:
    """One line that says so beneath a table."""
    differences = ", ".join(f"{name} {here} (paper: {paper})" for name, (here, paper) in found.items())
    return f"paper, table {row.table}: " + (f"trained otherwise, here {differences}" if found else "trained as here")
