"""The base class of all config sections."""

from math import prod
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from tercet.config.allowed import section_of

LARGEST_INT = 2**63 - 1  # the limit of torch, numpy and safetensors
MOST_ROWS = 10_000_000  # of examples, steps or responses: more than any run can use
_LEAST, _MOST = 1e-30, 1e30  # squares of smaller or larger numbers do not fit into fp32


class Section(BaseModel):
    """A frozen section of a config, which refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_ordinary(cls, value: Any, info: ValidationInfo) -> Any:  # Any: raw YAML, before it is checked
        """Refuse values that pydantic accepts but that cannot be computed with or written to a file."""
        assert info.field_name is not None  # pydantic calls it only for fields
        field = cls.model_fields[info.field_name]
        if section_of(field) is None:  # a section checks its own fields
            _check(value, takes_switches=_mentions(field.annotation, bool))
        return value


def check_product(most: int, **factors: int) -> None:
    """Refuse numbers whose product does not fit into memory, although each is within its range."""
    if prod(factors.values()) > most:
        named = " * ".join(f"{name}={value}" for name, value in factors.items())
        raise ValueError(f"{named} must be at most {most}: this many are in memory at once")


def _check(value: Any, *, takes_switches: bool) -> None:  # Any: raw YAML
    if isinstance(value, dict):
        for part in (*value, *value.values()):
            _check(part, takes_switches=takes_switches)
    elif isinstance(value, list):
        for part in value:
            _check(part, takes_switches=takes_switches)
    elif isinstance(value, bool):
        if not takes_switches:
            raise PydanticCustomError(
                "switch", "true and false are not numbers"
            )  # load.py then adds the allowed values of the field
    elif isinstance(value, str):
        if "\0" in value or (not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)):
            raise ValueError("text must not contain NUL or half of a character (a lone surrogate)")
    elif isinstance(value, int) and abs(value) > LARGEST_INT:
        raise ValueError(f"whole numbers go up to {LARGEST_INT}")
    elif isinstance(value, float) and (0 < abs(value) < _LEAST or _MOST < abs(value) < float("inf")):
        raise ValueError(f"numbers other than 0 go from {_LEAST:g} to {_MOST:g}")


def _mentions(annotation: Any, kind: type) -> bool:  # Any: a type annotation
    return annotation is kind or any(_mentions(part, kind) for part in get_args(annotation))
