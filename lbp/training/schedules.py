"""Schedules of eps, kappa, beta, eta, the regularisers' weight and the learning rate (Lyu et al. 2021)."""

from dataclasses import dataclass

from lbp.training.settings import TrainingSettings

_MIDDLE = 0.25
_QUARTIC = 1.0 / (4 * _MIDDLE**3 * (1 - _MIDDLE) + _MIDDLE**4)

SMALLEST_BETA = 1e-5
"""CROWN-IBP bounds of a smaller weight are not computed."""


@dataclass(frozen=True)
class Controls:
    """What the schedules say about one step.

    Attributes:
        certified: whether bounds take part in the loss.
        eps: radius.
        kappa: weight of the clean loss.
        beta: weight of the CROWN-IBP bounds among the bounds.
        regularization: weight of the warm-up regularisers.
        eta: outer slope of the activations; None leaves it as it is.
        lr: learning rate.
    """

    certified: bool
    eps: float
    kappa: float
    beta: float
    regularization: float
    eta: float | None
    lr: float


def controls_at(settings: TrainingSettings, step: int, steps_per_epoch: int) -> Controls:
    """The values of all schedules in a step.

    A step uses the radius that the schedule reaches at its end, so that the ramp has no step of radius 0.

    Args:
        settings: of the training.
        step: counted from 0 through the whole training.
        steps_per_epoch: batches of an epoch.
    """
    epoch = step // steps_per_epoch
    certified = settings.loss != "natural" and epoch >= settings.warm_up_epochs
    eps = eps_at(settings, (step + 1) / steps_per_epoch) if certified else 0.0
    beta = beta_at(settings, eps)
    return Controls(
        certified=certified,
        eps=eps,
        kappa=kappa_at(settings, eps) if certified else 1.0,
        beta=beta if certified and beta >= SMALLEST_BETA else 0.0,
        regularization=settings.regularization * (1.0 - share_of_eps(settings, eps)) if certified else 0.0,
        eta=eta_at(settings, step / steps_per_epoch),
        lr=learning_rate_at(settings, epoch),
    )


def linear(progress: float) -> float:
    """Straight line from 0 to 1, constant outside [0, 1]."""
    return min(max(progress, 0.0), 1.0)


def smoothed(progress: float) -> float:
    """Quartic start over the first quarter, then the straight line that continues it to 1 without a kink."""
    t = linear(progress)
    if t <= _MIDDLE:
        return _QUARTIC * t**4
    start = _QUARTIC * _MIDDLE**4
    return start + (1.0 - start) * (t - _MIDDLE) / (1.0 - _MIDDLE)


SHAPES = {"linear": linear, "smoothed": smoothed}
"""How a schedule goes from its start (0) to its end (1)."""


def eps_at(settings: TrainingSettings, epochs_done: float) -> float:
    """Radius after so many epochs, which may be a fraction: 0 in the warm-up, then rising, then `settings.eps`."""
    if epochs_done < settings.warm_up_epochs:
        return 0.0
    if settings.ramp_epochs == 0:
        return settings.eps
    return settings.eps * SHAPES[settings.eps_shape]((epochs_done - settings.warm_up_epochs) / settings.ramp_epochs)


def share_of_eps(settings: TrainingSettings, eps: float) -> float:
    """How much of the final radius is reached."""
    return eps / settings.eps if settings.eps > 0 else 0.0


def kappa_at(settings: TrainingSettings, eps: float) -> float:
    """Weight of the clean loss; it follows eps from `kappa_start` to `kappa_end`."""
    return settings.kappa_start + (settings.kappa_end - settings.kappa_start) * share_of_eps(settings, eps)


def beta_at(settings: TrainingSettings, eps: float) -> float:
    """Weight of the CROWN-IBP bounds; it follows eps from `beta_start` to `beta_end`, and is 0 in other losses."""
    if settings.loss != "crown-ibp":
        return 0.0
    return settings.beta_start + (settings.beta_end - settings.beta_start) * share_of_eps(settings, eps)


def eta_at(settings: TrainingSettings, epochs_done: float) -> float | None:
    """Outer slope after so many epochs: kept at first, then falling to `eta_end`; None without `eta_start`."""
    if settings.eta_start is None or settings.eta_end is None:
        return settings.eta_start
    if settings.eta_fall_epochs == 0:
        share = float(epochs_done >= settings.eta_keep_epochs)
    else:
        share = SHAPES[settings.eta_shape]((epochs_done - settings.eta_keep_epochs) / settings.eta_fall_epochs)
    return settings.eta_start + (settings.eta_end - settings.eta_start) * share


def learning_rate_at(settings: TrainingSettings, epoch: int) -> float:
    """Adam's learning rate during an epoch: multiplied by `lr_factor` at every milestone."""
    passed = sum(epoch >= milestone for milestone in settings.lr_milestones)
    return settings.lr * settings.lr_factor**passed


def candidates_from(settings: TrainingSettings) -> int:
    """First epoch after the warm-up that trains at the final radius and slope throughout.

    The networks of earlier ones are not chosen: they have another radius or slope behind them than was asked for, or
    ParamRamps that still act as LeakyReLU. The last epoch is always a candidate.
    """
    first = settings.warm_up_epochs + (0 if settings.loss == "natural" else settings.ramp_epochs)
    if settings.eta_end is not None and settings.eta_end != settings.eta_start:
        first = max(first, settings.eta_keep_epochs + settings.eta_fall_epochs)
    return min(first, settings.epochs - 1)
