"""`bound_opts`: the options of a BoundedModule, checked by name and value."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lbp.errors import InvalidInputError, UnsupportedArgumentError
from lbp.methods.memory import budget_in_bytes, free_memory
from lbp.rounding import LEVELS

STRATEGY_OPTIONS = {
    "adaptive": "adaptive",
    "tight": "tight",
    "constant": "constant",
    "same-slope": "same-slope",
    "zero-lb": "zero",
    "one-lb": "one",
}
"""Values of `activation_bound_option`, and the strategy of `lbp.ops` that each stands for.

`adaptive` (the default) is usually tightest on normally trained networks; `tight` is the one with the guarantee of
Theorem 2 in Lyu et al. 2021: IBP <= LBP, CROWN-IBP <= CROWN-LBP <= CROWN.
"""


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_row_count(value: Any) -> bool:
    return _is_number(value) and value >= 1


def _is_budget(value: Any) -> bool:
    try:
        return value is None or budget_in_bytes(value) > 0
    except InvalidInputError:
        return False


def _is_anything(value: Any) -> bool:
    return True


def _is_strategy(value: Any) -> bool:
    return value is None or _one_of(*STRATEGY_OPTIONS)(value)


def _one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in values


OPEN_ROWS = (
    "sparse_intermediate_bounds",
    "sparse_conv_intermediate_bounds",
    "sparse_intermediate_bounds_with_ibp",
)
"""Options of which each, set to False, gives textbook CROWN: every hidden neuron by back-substitution alone."""

_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "activation_bound_option": (_is_strategy, f"one of {', '.join(STRATEGY_OPTIONS)}, or None for adaptive"),
    "conv_mode": (
        _one_of("patches", "matrix"),
        "'patches' or 'matrix' (bounds are the same to rounding, but for the hidden neurons that CROWN leaves out with "
        "'patches' alone, unless sparse_intermediate_bounds is False)",
    ),
    "crown_batch_size": (_is_row_count, "a number of rows >= 1, or inf"),
    **dict.fromkeys(OPEN_ROWS, (_is_bool, "True or False")),
    "sparse_features_alpha": (_is_bool, "True or False"),
    "sparse_spec_alpha": (_is_bool, "True or False"),
    "minimum_sparsity": (_is_number, "a number"),
    "optimize_bound_args": (lambda value: isinstance(value, Mapping), "a dictionary (for optimised slopes only)"),
    "use_full_conv_alpha": (_is_bool, "True or False"),
    "use_full_conv_alpha_thresh": (_is_number, "a number"),
    "disable_optimization": (_is_anything, "anything"),
    "forward_max_dim": (_is_number, "a number"),
    "optimize_graph": (_is_anything, "anything"),
    "deterministic": (_is_bool, "True or False"),
    "verbosity": (_is_number, "a number"),
    "rounding": (_one_of(*LEVELS), f"one of {', '.join(LEVELS)}"),
    "memory_budget": (_is_budget, "a number of bytes above 0, text like '4GiB', or None"),
}

_ONLY_FALSE = (
    "loss_fusion",
    "forward_refinement",
    "forward_before_compute_bounds",
    "compare_crown_with_ibp",
    "bound_every_node",
    "enable_opt_interm_bounds",
    "clip_in_alpha_crown",
)
"""Options of scripts that would change results if they were set."""

VALID_OPTIONS = (*_OPTIONS, *_ONLY_FALSE)

OPTIMIZE_BOUND_ARGS = (
    "enable_alpha_crown",
    "enable_beta_crown",
    "fix_interm_bounds",
    "iteration",
    "use_shared_alpha",
    "optimizer",
    "loss_reduction_func",
    "stop_criterion_func",
    "keep_best",
    "lr_alpha",
    "lr_beta",
    "lr_cut_beta",
    "lr_coeffs",
    "lr_decay",
    "early_stop_patience",
    "init_alpha",
    "start_save_best",
    "intermediate_refinement_layers",
    "use_custom_loss",
    "custom_loss_func",
    "use_float64_in_last_iteration",
    "pruning_in_iteration",
    "pruning_in_iteration_threshold",
    "multi_spec_keep_func",
    "max_time",
    "deterministic",
    "save_loss_graphs",
    "apply_output_constraints_to",
    "tighten_input_bounds",
    "best_of_oc_and_no_oc",
    "directly_optimize",
    "oc_lr",
    "share_gammas",
    "fix_intermediate_layer_bounds",
    "early_stop",
    "intermediate_beta",
    "opt_coeffs",
    "opt_bias",
)
"""Keys of `optimize_bound_args` in scripts for auto_LiRPA; without optimised slopes none of them changes a result."""


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options after checking every name and value.

    Raises:
        InvalidInputError: no dictionary, an unknown name, or a value that the option does not take.
        UnsupportedArgumentError: an option that would change results and is not implemented.
    """
    if not isinstance(options, Mapping):
        raise InvalidInputError(
            f"bound_opts must be a dictionary from names to values, got {options!r} ({type(options).__name__})"
        )
    for key, value in options.items():
        if key in _ONLY_FALSE:
            if value:
                raise UnsupportedArgumentError(
                    f"bound_opts: {key}={value!r} is not implemented; only False is accepted"
                )
            continue
        if key not in _OPTIONS:
            raise _unknown("bound_opts", key, VALID_OPTIONS)
        is_valid, expected = _OPTIONS[key]
        if not is_valid(value):
            raise InvalidInputError(f"bound_opts: {key} must be {expected}, got {value!r}")
        if key == "optimize_bound_args":
            for inner in value:
                if inner not in OPTIMIZE_BOUND_ARGS:
                    raise _unknown("bound_opts: optimize_bound_args", inner, OPTIMIZE_BOUND_ARGS)
    return dict(options)


def _unknown(where: str, key: Any, valid: Sequence[str]) -> InvalidInputError:
    """Return the error for a name that no option has, with the closest one that exists."""
    close = difflib.get_close_matches(str(key), valid, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return InvalidInputError(f"{where}: unknown option {key!r}.{hint} Valid options: {', '.join(valid)}")


def strategy_of(options: Mapping[str, Any]) -> str:
    """Return the bounding-line strategy of `lbp.ops` that the options ask for."""
    return STRATEGY_OPTIONS[options.get("activation_bound_option") or "adaptive"]


def budget_of(options: Mapping[str, Any], given: int | str | None, device: torch.device) -> tuple[int, bool]:
    """Return the bytes that bounds may take, and whether somebody asked for that number.

    Without a `memory_budget` it is half of what the device has free; of host memory every process that torchrun started
    on this machine takes its share.

    Raises:
        InvalidInputError: a budget that is no amount of memory.
    """
    asked = options.get("memory_budget") if given is None else given
    if asked is not None:
        return budget_in_bytes(asked), True
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
    return free_memory(device) // (2 * sharing), False


def rows_of(options: Mapping[str, Any]) -> int | None:
    """Return the rows of coefficients to handle at once; None to choose by memory."""
    rows = options.get("crown_batch_size")
    return None if rows is None or math.isinf(rows) else int(rows)


def windows_of(options: Mapping[str, Any]) -> bool:
    """Return whether rows of convolutional layers are kept as windows (patches) rather than dense (matrix)."""
    return bool(options.get("conv_mode", "patches") == "patches")


def by_work(options: Mapping[str, Any]) -> bool:
    """Return whether work decides between windows and dense matrices of forward bounds, nobody having chosen."""
    return "conv_mode" not in options


def only_open(options: Mapping[str, Any]) -> bool:
    """Return whether CROWN bounds only hidden neurons that intervals leave open; see `OPEN_ROWS`."""
    return all(options.get(name, True) for name in OPEN_ROWS)


def rounding_of(options: Mapping[str, Any], given: str | None) -> str:
    """Return what bounds account for, one of `lbp.rounding.LEVELS`; "nearest" unless somebody asked.

    Raises:
        InvalidInputError: another name.
    """
    level = options.get("rounding", "nearest") if given is None else given
    if level not in LEVELS:
        raise InvalidInputError(f"compute_bounds: rounding must be one of {', '.join(LEVELS)}, got {given!r}")
    return str(level)
