"""Descriptions of the values that a config field accepts, for error messages and the reference page."""

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_BOUNDS = {Gt: ("gt", "above"), Ge: ("ge", "at least"), Lt: ("lt", "below"), Le: ("le", "at most")}

_MOST_SHOWN = 200


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section class of a field that is a section or a list of sections, else None."""
    inner = get_args(field.annotation)[0] if get_origin(field.annotation) is list else field.annotation
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def is_section(field: FieldInfo) -> bool:
    """Return True if the field is a section, not a list of sections."""
    return get_origin(field.annotation) is not list and section_of(field) is not None


def allowed_values(field: FieldInfo) -> str:
    """Describe the accepted values, such as `a number, above 0 and below 1` or `one of fp32, bf16`."""
    bounds = [
        f"{word} {_number(getattr(limit, attribute))}"
        for limit in field.metadata
        for kind, (attribute, word) in _BOUNDS.items()
        if isinstance(limit, kind)
    ]
    return ", ".join(filter(None, [_type_in_words(field.annotation), _length(field), " and ".join(bounds)]))


def all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every key with its sections, such as `ppo.lr`, and every section."""
    for name, field in model.model_fields.items():
        yield prefix + name
        section = section_of(field)
        if section is not None and is_section(field):
            yield from all_keys(section, f"{prefix}{name}.")


def shown(value: object) -> str:
    """Format a value for a message: on one line, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}... ({len(text)} characters)"


def printable(name: str) -> str:
    """Format the name of a file or key for a message: unchanged if it is short and printable."""
    return name if name.isprintable() and len(name) <= _MOST_SHOWN else shown(name)


def _length(field: FieldInfo) -> str:
    """Describe the required length of a list or text; return an empty string if any length is valid."""
    least = max((limit.min_length for limit in field.metadata if isinstance(limit, MinLen)), default=0)
    most = min((limit.max_length for limit in field.metadata if isinstance(limit, MaxLen)), default=None)
    if least == most:
        return f"{most} of them"
    return "not empty" if least else ""


def _number(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def _type_in_words(annotation: Any, *, plural: bool = False) -> str:  # Any: a type annotation
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    plurals = {int: "whole numbers", float: "numbers", str: "texts"}
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in words:
        return plurals.get(annotation, words[annotation]) if plural else words[annotation]
    if origin is list:
        return f"a list of {_type_in_words(args[0], plural=True)}"
    if origin is dict:
        return f"a mapping from text to {_type_in_words(args[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"{'entries' if plural else 'a section'} of {', '.join(annotation.model_fields)}"
    if all(isinstance(arg, str) for arg in args):
        return ("any of " if plural else "one of ") + ", ".join(args)
    return " or ".join(_type_in_words(arg) for arg in args)
