"""Read and write a plain subset of YAML: mappings with text keys, lists, text, numbers, booleans and null.

Dates, sets, binary data, octal and sexagesimal numbers, merge keys and custom tags are not part of it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from tercet.config.small_file import MOST_BYTES

Key = tuple[str | int, ...]  # ("data", "train", 0, "weight")

MOST_DEPTH = 40
MOST_NODES = 10_000
_NODE = 100  # the cost of a node in characters; it limits the repetition of nodes and long texts by aliases
_MOST_WORK = _NODE * MOST_NODES + MOST_BYTES
_MOST_DIGITS = 100  # int() is slow for long numbers and refuses very long ones

_CORE = "tag:yaml.org,2002:"
_FORMS = {  # tried in this order; anything else is text
    "null": re.compile(r"~|null|Null|NULL|", re.ASCII),
    "bool": re.compile(r"(?i:yes|no|true|false|on|off)", re.ASCII),
    "int": re.compile(r"[-+]?(0|[1-9][0-9_]*)", re.ASCII),
    "float": re.compile(
        r"[-+]?((\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.inf)|\.nan", re.ASCII
    ),
}


class NotPlain(ValueError):
    """The text is not YAML, or not in the plain subset."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


@dataclass
class Plain:
    """The value of a document, the line of every key, and keys that occur twice in a mapping."""

    value: Any = None  # Any: mappings, lists, texts, numbers, switches
    lines: dict[Key, int] = field(default_factory=dict)
    repeated: list[tuple[Key, int]] = field(default_factory=list)


def parse(text: str) -> Plain:
    """Read one document, in time and memory bounded by its length; raise NotPlain if it is not plain YAML."""
    plain = Plain()
    with _as_not_plain():
        root = _Loader(text).get_single_node()
        if root is not None:
            plain.value = _Reader(plain).value(root, ())
    return plain


def dump(tree: object) -> str:
    """Write a tree as YAML that `parse` and any other YAML reader read back unchanged."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with the number formats above, and with limits to the number and depth of nodes."""

    yaml_implicit_resolvers = {}
    depth = 0
    num_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        line = self.peek_event().start_mark.line + 1
        if self.depth > MOST_DEPTH:
            raise NotPlain(f"nested more than {MOST_DEPTH} deep", line)
        if self.num_nodes > MOST_NODES:
            raise NotPlain(f"more than {MOST_NODES} keys and values", line)
        self.num_nodes += 1
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, which quotes text that PyYAML or `parse` would read as another type."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # PyYAML writes these characters unescaped and reads them as \n
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None
        return self.represent_scalar(f"{_CORE}str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


for _kind, _form in _FORMS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{_CORE}{_kind}", re.compile(rf"(?:{_form.pattern})\Z", _form.flags), None)


class _Reader:
    """Convert nodes to values, with a limit of work, because an alias repeats its node."""

    def __init__(self, plain: Plain) -> None:
        self.plain, self.work = plain, 0

    def value(self, node: yaml.Node, key: Key) -> Any:  # Any: see Plain.value
        line = node.start_mark.line + 1
        self.plain.lines.setdefault(key, line)
        self.work += _NODE + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self.work > _MOST_WORK or len(key) > MOST_DEPTH:
            raise NotPlain("its aliases (*name) repeat too much; write the values out", line)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, line)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_CORE}seq":
            return [self.value(child, (*key, i)) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_CORE}map":
            return self._mapping(node, key)
        raise _foreign(node, line)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name_node, child in node.value:
            line = name_node.start_mark.line + 1
            if not isinstance(name_node, yaml.ScalarNode):
                raise NotPlain("a key must be text", line)
            name = name_node.value  # a key is always text, also `on` and 350
            if name == "<<" and name_node.style is None:
                raise NotPlain("merge keys (<<) are not read; write the keys out", line)
            path = (*key, name)
            if name in values:
                self.plain.repeated.append((path, line))
            self.plain.lines[path] = line
            values[name] = self.value(child, path)
        return values


def _scalar(node: yaml.ScalarNode, line: int) -> str | int | float | bool | None:
    kind, text = node.tag.removeprefix(_CORE), node.value
    if kind == "str":
        return text
    form = _FORMS.get(kind)
    if form is None:
        raise _foreign(node, line)
    if not form.fullmatch(text) and not (kind == "float" and _FORMS["int"].fullmatch(text)):
        raise NotPlain(f"{text[:40]!r} is not a valid {kind}", line)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in ("yes", "true", "on")
    if len(text) > _MOST_DIGITS:
        raise NotPlain(f"a number of {len(text)} digits", line)
    digits = text.replace("_", "")
    return int(digits) if kind == "int" else float(digits.replace(".inf", "inf").replace(".nan", "nan"))


def _foreign(node: yaml.Node, line: int) -> NotPlain:
    tag = node.tag.replace(_CORE, "!!")[:40]
    return NotPlain(f"the tag {tag!r} is not read; leave it out, and put text that begins with ! in quotes", line)


@contextmanager
def _as_not_plain() -> Iterator[None]:
    try:
        yield
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # only some errors have a position
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise NotPlain(f"not YAML: {reason}; put text in quotes", mark.line + 1 if mark else None) from error
