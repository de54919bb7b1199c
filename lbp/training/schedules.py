"""Schedules of eps, kappa, eta and the learning rate (Lyu et al. 2021)."""

from lbp.training.settings import TrainingSettings

_MIDDLE = 0.25
_QUARTIC = 1.0 / (4 * _MIDDLE**3 * (1 - _MIDDLE) + _MIDDLE**4)


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


def eps_at(settings: TrainingSettings, epochs_done: float) -> float:
    """Radius after so many epochs, which may be a fraction: 0 in the warm-up, then linear, then `settings.eps`."""
    if epochs_done < settings.warm_up_epochs:
        return 0.0
    if settings.ramp_epochs == 0:
        return settings.eps
    return settings.eps * linear((epochs_done - settings.warm_up_epochs) / settings.ramp_epochs)


def kappa_at(settings: TrainingSettings, eps: float) -> float:
    """Weight of the clean loss; it follows eps from `kappa_start` to `kappa_end`."""
    share = eps / settings.eps if settings.eps > 0 else 0.0
    return settings.kappa_start + (settings.kappa_end - settings.kappa_start) * share


def eta_at(settings: TrainingSettings, epoch: int) -> float:
    """Outer slope of ParamRamp during an epoch: kept at first, then falling smoothly to `eta_end`."""
    if settings.eta_fall_epochs == 0:
        share = float(epoch >= settings.eta_keep_epochs)
    else:
        share = smoothed((epoch - settings.eta_keep_epochs) / settings.eta_fall_epochs)
    return settings.eta_start + (settings.eta_end - settings.eta_start) * share


def learning_rate_at(settings: TrainingSettings, epoch: int) -> float:
    """Adam's learning rate during an epoch: multiplied by `lr_factor` at every milestone."""
    passed = sum(epoch >= milestone for milestone in settings.lr_milestones)
    return settings.lr * settings.lr_factor**passed
