"""What every part of a config is."""

from math import prod
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from tercet.config.allowed import section_of

LARGEST_INT = 2**63 - 1  # of torch, numpy and the files that hold numbers
MOST_ROWS = 10_000_000  # examples, steps, answers: what no machine of today comes to the end of
_LEAST, _MOST = 1e-30, 1e30  # fp32 has room for the squares of what lies a good deal inside


class Section(BaseModel):
    """A part of a config: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_ordinary(cls, value: Any, info: ValidationInfo) -> Any:  # Any: raw YAML, before it is checked
        """Refuse what pydantic would take and what computing, or writing to a file, would stumble over."""
        assert info.field_name is not None  # pydantic calls it for fields alone
        field = cls.model_fields[info.field_name]
        if section_of(field) is None:  # a section looks at its own fields
            _check(value, takes_switches=_mentions(field.annotation, bool))
        return value


def check_product(most: int, **factors: int) -> None:
    """Refuse numbers that are each within their range, and together more than any memory holds."""
    if prod(factors.values()) > most:
        named = " * ".join(f"{name}={value}" for name, value in factors.items())
        raise ValueError(f"{named} must be at most {most}: so much is held in memory at once")


def _check(value: Any, *, takes_switches: bool) -> None:  # Any: raw YAML
    if isinstance(value, dict):
        for part in (*value, *value.values()):
            _check(part, takes_switches=takes_switches)
    elif isinstance(value, list):
        for part in value:
            _check(part, takes_switches=takes_switches)
    elif isinstance(value, bool):
        if not takes_switches:
            raise PydanticCustomError("switch", "true and false are no numbers")  # the message names the field's type
    elif isinstance(value, str):
        if "\0" in value or (not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)):
            raise ValueError("text must not hold the character NUL or half a character (a lone surrogate)")
    elif isinstance(value, int) and abs(value) > LARGEST_INT:
        raise ValueError(f"whole numbers go up to {LARGEST_INT}")
    elif isinstance(value, float) and (0 < abs(value) < _LEAST or _MOST < abs(value) < float("inf")):
        raise ValueError(f"numbers other than 0 go from {_LEAST:g} to {_MOST:g}")


def _mentions(annotation: Any, kind: type) -> bool:  # Any: whatever stands behind a field's colon
    return annotation is kind or any(_mentions(part, kind) for part in get_args(annotation))
