"""Base of the settings models, and their errors in one sentence."""

import math
import re
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Settings(BaseModel):
    """Immutable settings that refuse unknown names, NaN and infinity, and truth values where numbers belong.

    The text "none" switches off what may be None: files of settings are TOML, which has no word for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _none_by_its_name(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = get_args(cls.model_fields[info.field_name or ""].annotation)
        off = isinstance(value, str) and value.lower() == "none" and NoneType in kinds and str not in kinds
        return None if off else value

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        parts = value if isinstance(value, list | tuple) else [value]
        if cls.model_fields[info.field_name or ""].annotation is not bool and any(type(part) is bool for part in parts):
            raise ValueError(f"expected no truth value, got {value}")
        return value


def validation_message(error: ValidationError) -> str:
    """Every problem of a validation error as `name: what is wrong, got value`, separated by semicolons."""
    parts = []
    problems = error.errors(include_url=False)
    for problem in problems:
        place = problem["loc"]
        if problem["type"] == "too_short" and any(other["loc"][:-1] == place for other in problems if other["loc"]):
            continue  # for want of items that were refused themselves
        where = ".".join(str(key) for key in place)
        unknown = problem["type"] == "extra_forbidden"
        message = "unknown name" if unknown else problem["msg"].removeprefix("Value error, ")
        value = problem.get("input")
        given = f", got {value!r}" if isinstance(value, str | int | float | bool | None) else ""
        given = "" if problem["type"] in ("value_error", "missing") else given
        parts.append(f"{where}: {message}{given}" if where else f"{message}{given}")
    return "; ".join(parts)


def parse_decimal(text: str) -> float:
    """Reads a finite decimal number; of what `float` takes, no words, underscores or digits of other scripts.

    Raises:
        ValueError: anything else.
    """
    if not _DECIMAL.fullmatch(text.strip()) or not math.isfinite(value := float(text)):
        raise ValueError(f"expected a decimal number, got {text!r}")
    return value


def parse_number(text: str) -> float:
    """Reads a decimal number or a quotient of two, such as "8/255" or "2.2/255".

    Raises:
        ValueError: anything else.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        value = parse_decimal(numerator) / parse_decimal(denominator) if slash else parse_decimal(numerator)
    except (ValueError, ZeroDivisionError):
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"expected a number or a quotient such as 8/255, got {text!r}")
    return value
