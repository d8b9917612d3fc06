"""Load a preset and key=value overrides into a checked config, or raise one error that lists all problems."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tercet.config.allowed import all_keys, allowed_values, is_section, printable, section_of, shown
from tercet.config.arm import ArmConfig
from tercet.config.lm import LmConfig
from tercet.config.plain_yaml import Key, NotPlain, parse
from tercet.config.ppo import UpdateConfig, with_settings
from tercet.config.robot import RobotConfig
from tercet.config.small_file import read_small_file
from tercet.errors import InputError, reading

PRESETS = Path(__file__).parent.parent / "presets"

Config = TypeVar("Config", bound=BaseModel)
COMMAND_LINE = "command line"
_MOST_PROBLEMS = 20  # in one message


def load_lm_config(preset: str | Path, overrides: Sequence[str], source: str = COMMAND_LINE) -> LmConfig:
    """Load the config of the language-model steps; see `load_config`."""
    return load_config(LmConfig, "lm", preset, overrides, source)


def load_arm_config(preset: str | Path, overrides: Sequence[str], source: str = COMMAND_LINE) -> ArmConfig:
    """Load the config of the robot arm's steps; see `load_config`."""
    return load_config(ArmConfig, "arm", preset, overrides, source)


def load_robot_config(preset: str | Path, overrides: Sequence[str]) -> RobotConfig:
    """Load the config of a real robot; see `load_config`."""
    return load_config(RobotConfig, "robot", preset, overrides)


def load_config(
    model: type[Config], domain: str, preset: str | Path, overrides: Sequence[str], source: str = COMMAND_LINE
) -> Config:
    """Read a preset (a name of presets/<domain>, or a YAML file) and apply overrides such as `ppo.lr=1e-5`.

    `source` names the origin of the overrides in messages. Raise one InputError that lists all problems: place, key,
    value, allowed values, and the most similar key.
    """
    with reading(f"the preset {shown(str(preset))}"):
        raw = _read_file(_preset_file(domain, preset))
    for override in sorted(overrides, key=_is_of_algorithm, reverse=True):
        with reading(f"{shown(override)} ({source})"):
            _override(raw, model, override, source)
    with reading(f"the config of {shown(str(preset))} with its overrides ({source})"):
        return _checked(raw, model)


def recorded_config(model: type[Config], tree: dict[str, Any], run: Path) -> Config:  # Any: YAML
    """Check the config read from a run folder; raise InputError if it is not valid."""
    file = printable(str(run / "config.yaml"))
    with reading(file):
        return _checked(_Raw(tree, {(): file}), model)


def preset_names(domain: str) -> list[str]:
    """Return the names of the presets that come with Tercet."""
    return sorted(file.stem for file in (PRESETS / domain).glob("*.yaml"))


@dataclass
class _Raw:
    """An unchecked config, with the origin of each key and the problems found so far."""

    tree: dict[str, Any] = field(default_factory=dict)  # Any: YAML
    places: dict[Key, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def place(self, key: Key) -> str:
        """Return where a key, or else the nearest section around it, was given."""
        return next((self.places[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self.places), "default")


def _preset_file(domain: str, preset: str | Path) -> Path:
    names = preset_names(domain)
    if str(preset) in names:
        return PRESETS / domain / f"{preset}.yaml"
    path = Path(preset)
    try:
        is_there = path.exists() and not path.is_dir()
    except (OSError, ValueError):  # not a valid file name
        is_there = False
    if path.suffix in (".yaml", ".yml") or is_there:
        return path
    near = get_close_matches(str(preset), names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(
        f"no preset {shown(str(preset))}; {hint}there are {', '.join(names)}, or give a .yaml file of your own"
    )


def _read_file(path: Path) -> _Raw:
    name = printable(str(path))
    try:
        plain = parse(read_small_file(path))
    except NotPlain as error:
        line = f", line {error.line}" if error.line else ""
        raise InputError(f"{name}{line}: {error}") from error
    except ValueError as error:
        raise InputError(f"{name}: {error}; give a YAML file of sections and keys") from error
    tree = {} if plain.value is None else plain.value
    if not isinstance(tree, dict):
        raise InputError(
            f"{name}: must be sections of keys, such as `ppo:` and below it `  lr: 1e-5`; this is {shown(tree)}"
        )
    raw = _Raw(tree, {key: f"{name}, line {line}" for key, line in plain.lines.items()})
    for key, line in plain.repeated:
        raw.problems.append(f"{_dotted(key)} ({name}, line {line}): given twice in this file; keep one")
    return raw


def _checked(raw: _Raw, model: type[Config]) -> Config:
    checked = None
    try:
        checked = model.model_validate(raw.tree)
    except ValidationError as error:
        problems = (_problem(raw, model, details) for details in error.errors())
        distinct = dict.fromkeys(islice(problems, _MOST_PROBLEMS))  # pydantic reports a union once for each member
        raw.problems.extend(distinct)
    if len(raw.problems) > 1:
        listed = raw.problems[:_MOST_PROBLEMS]
        number = f"{len(raw.problems)} problems" if len(listed) < _MOST_PROBLEMS else "many problems"
        raise InputError(f"{number} in the config:" + "".join(f"\n  {problem}" for problem in listed))
    if raw.problems or checked is None:
        raise InputError(raw.problems[0])
    return checked


def _is_of_algorithm(override: str) -> bool:
    """Return True for `ppo.algorithm=...`, which sets other keys, so that overrides of these come after it."""
    return override.partition("=")[0].strip() == "ppo.algorithm"


def _algorithm(tree: dict[str, Any]) -> object:  # Any: YAML
    """Return the algorithm of a tree. To name it again changes nothing: the tree may have settings of its own."""
    section = tree.get("ppo")
    default = UpdateConfig.model_fields["algorithm"].default
    return section.get("algorithm", default) if isinstance(section, dict) else default


def _override(raw: _Raw, model: type[BaseModel], override: str, source: str) -> None:
    """Apply one `key=value` to the tree, or record the problem."""
    dotted, equals, text = override.partition("=")
    dotted = dotted.strip()
    if not (equals and dotted.isprintable() and dotted):
        raw.problems.append(f"{shown(override)} ({source}): not an override; write key=value, such as ppo.lr=1e-5")
        return
    where = f"{printable(dotted)} = {shown(text)} ({source})"
    key, target = _split(model, dotted)
    if target is None:
        raw.problems.append(f"{where}: {_unknown_key(model, key)}")
        return
    try:
        plain = parse(text)
    except NotPlain as error:
        raw.problems.append(f"{where}: {error}")
        return
    raw.problems.extend(f"{where}: {_dotted(twice)} is given twice; keep one" for twice, _ in plain.repeated)
    value = plain.value
    if target.annotation is str and not isinstance(value, str):
        value = text  # for text, 350 and `on` are strings
    if _is_of_algorithm(override) and value != _algorithm(raw.tree):
        key, target, value = key[:-1], model.model_fields[key[0]], {key[-1]: value}
    _set(raw, key, target, value, source)


def _set(raw: _Raw, key: tuple[str, ...], info: FieldInfo | None, value: Any, source: str) -> None:  # Any: YAML
    """Set a value; the value of a section is merged key by key, so that other keys keep their values."""
    section = section_of(info) if info is not None and is_section(info) else None
    if section is not None and isinstance(value, dict):
        whole = with_settings(value) if issubclass(section, UpdateConfig) else value
        for name, inner in whole.items():
            _set(raw, (*key, name), section.model_fields.get(name), inner, source)
        return
    target = raw.tree
    default: Any = info.get_default(call_default_factory=True) if info is not None else None  # Any: of any field
    for i, name in enumerate(key[:-1]):
        # merge one key of a mapping into the default mapping
        inside_mapping = i == len(key) - 2 and isinstance(default, dict)
        target = target.setdefault(name, dict(default) if inside_mapping else {})
        if not isinstance(target, dict):
            return  # the existing value is invalid, which the check reports
    target[key[-1]] = value
    for replaced in [other for other in raw.places if other[: len(key)] == key]:
        del raw.places[replaced]
    raw.places[key] = source


def _split(model: type[BaseModel], dotted: str) -> tuple[tuple[str, ...], FieldInfo | None]:
    """Return the parts of an override's key and its field, or None if there is no such field.

    The rest after the name of a mapping is one key, with all its dots: `ppo.reward.my.module:function`.
    """
    section: type[BaseModel] | None = model
    names: list[str] = []
    rest = dotted
    while section is not None and rest:
        name, dot, rest = rest.partition(".")
        names.append(name)
        info = section.model_fields.get(name)
        if info is None or (dot and not rest):
            return tuple(names), None
        if not rest:
            return tuple(names), info
        if get_origin(info.annotation) is dict:
            return (*names, rest), info
        section = section_of(info) if is_section(info) else None
    return tuple(names), None


def _problem(raw: _Raw, model: type[BaseModel], details: ErrorDetails) -> str:
    """Format one problem: key, value, origin, what is wrong and which values are allowed."""
    kind, key, text = details["type"], details["loc"], details["input"]
    if kind == "missing":
        return f"{_dotted(key)} ({raw.place(key)}): missing; it must be given"
    while key and not _is_given(raw.tree, key):  # pydantic appends the name of the union's member
        key = key[:-1]
    where = f"{_dotted(key)} = {shown(details['input'])} ({raw.place(key)})"
    info = _field(model, key)
    if kind == "extra_forbidden":
        return f"{where}: {_unknown_key(model, key)}"
    if kind == "value_error" and isinstance(details["input"], dict):  # from the validator of a section
        return f"{_dotted(key) or 'config'} ({raw.place(key)}): {details.get('ctx', {}).get('error', details['msg'])}"
    if kind == "value_error":
        return f"{where}: {details.get('ctx', {}).get('error', details['msg'])}"
    if info is None:  # inside a list or a mapping: describe the whole field
        whole = next(key[:n] for n in range(len(key), 0, -1) if _field(model, key[:n]) is not None)
        around = _field(model, whole)
        assert around is not None
        return f"{where}: {_dotted(whole)} must be {allowed_values(around)}"
    remedy = f"; write {_dotted(key)}=[{shown(text)[1:-1]}]" if kind == "list_type" and isinstance(text, str) else ""
    return f"{where}: must be {allowed_values(info)}{remedy}"


def _unknown_key(model: type[BaseModel], key: Key) -> str:
    """Suggest the most similar key in the same section, then in others, or list all keys."""
    name, parent = str(key[-1]), _field(model, key[:-1])
    section = model if len(key) == 1 else parent and section_of(parent)
    prefix = _dotted(key[:-1]) + "." if len(key) > 1 else ""
    beside = list(section.model_fields) if section else []
    everywhere = list(all_keys(model))
    near = [prefix + known for known in get_close_matches(name, beside, n=1, cutoff=0.75)]
    near = near or [known for known in everywhere if known.rpartition(".")[2] == name]
    near = near or get_close_matches(_dotted(key), everywhere, n=1, cutoff=0.75)
    if near:
        return f"no such key; did you mean {' or '.join(near)}?"
    return f"no such key; there are {', '.join(beside or model.model_fields)}"


def _field(model: type[BaseModel], key: Key) -> FieldInfo | None:
    """Return the field of this key; an entry of a list of sections counts as the list."""
    section: type[BaseModel] | None = model
    info = None
    for part in key:
        if isinstance(part, int):
            if section is None:
                return None
            continue
        info = section.model_fields.get(part) if section is not None else None
        if info is None:
            return None
        section = section_of(info)
    return info


def _is_given(tree: Any, key: Key) -> bool:  # Any: YAML
    for part in key:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _dotted(key: Key) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{printable(part)}" for part in key)
    return text.removeprefix(".")
