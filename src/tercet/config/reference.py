"""The reference page of the config: `python -m tercet.config.reference > docs/config.md`."""

import sys

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tercet.config.allowed import allowed_values, is_section, section_of
from tercet.config.arm import ArmConfig
from tercet.config.lm import LmConfig
from tercet.config.robot import RobotConfig

_HEAD = """\
# Config reference

Generated from the code by `python -m tercet.config.reference > docs/config.md`; do not edit it by hand.

A run starts from a preset (`--preset NAME`, or a YAML file of your own of the same form) and takes overrides on the
command line, which are read as YAML: `ppo.lr=1e-5`, `data.split=2,4,4`, `data.train="[mine.jsonl, Dahoas/rm-static]"`,
`ppo.reward.my_module:my_function=0.5`. Unknown keys and values out of range are refused before anything is loaded.
"""


def reference() -> str:
    """Return Markdown with a table for every section of the configs, in their order."""
    parts = [_HEAD]
    for domain, model in (("lm", LmConfig), ("arm", ArmConfig), ("robot", RobotConfig)):
        parts += [f"# tercet {domain}", "", *_section(model, "", domain)]
    return "\n".join(parts)


def _section(model: type[BaseModel], prefix: str, domain: str) -> list[str]:
    """Yield the heading, description and table of a section and of its subsections."""
    lines = [f"## {domain}: {prefix.rstrip('.') or 'top level'}", "", model.__doc__ or "", ""]
    lines += ["| key | takes | default | what it does |", "|---|---|---|---|"]
    below: list[str] = []
    described: set[type[BaseModel]] = set()  # sections that occur more than once, such as the entries of data sets
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is not None and section not in described:
            described.add(section)
            below += _section(section, f"{prefix}{name}." if is_section(field) else f"{prefix}{name}[0].", domain)
        if is_section(field):
            continue
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else f"`{_yaml(default)}`"
        description = (field.description or "").replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {allowed_values(field)} | {shown} | {description} |")
    return [*lines, "", *below]


def _yaml(value: object) -> str:
    """Format a default as in a preset."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    return str(value) if value != "" else '""'


if __name__ == "__main__":
    sys.stdout.write(reference())
