"""Load a preset with overrides, as strings or as a dict, into a checked config."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tercet.config import load
from tercet.config.arm import ArmConfig
from tercet.config.lm import LmConfig

Overrides = Mapping[str, Any] | Sequence[str]  # Any: the value of any key; it is checked


def load_lm_config(preset: str | Path = "smollm2", overrides: Overrides = ()) -> LmConfig:
    """Load and check the config of a language run: a preset or a YAML file, with overrides.

    Overrides are strings as on the command line (`["ppo.lr=1e-5"]`) or a dict (`{"ppo.lr": 1e-5}`, which may be nested:
    `{"ppo": {"lr": 1e-5}}`). Raise InputError, which lists all problems.
    """
    return load.load_lm_config(preset, _as_strings(overrides), source="overrides")


def load_arm_config(preset: str | Path = "lift", overrides: Overrides = ()) -> ArmConfig:
    """Load and check the config of a robot arm's run; see `load_lm_config`."""
    return load.load_arm_config(preset, _as_strings(overrides), source="overrides")


def _as_strings(overrides: Overrides) -> list[str]:
    if not isinstance(overrides, Mapping):
        return [overrides] if isinstance(overrides, str) else list(overrides)
    return [f"{key}={_as_yaml(value)}" for key, value in overrides.items()]


def _as_yaml(value: object) -> str:
    """Return JSON, with characters escaped that YAML would read as line ends."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return re.sub(r"[\x7f-\x9f\u2028\u2029\ufeff]", lambda found: f"\\u{ord(found[0]):04x}", text)
