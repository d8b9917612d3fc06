"""Tasks of the package reasoning-gym as data sets: `reasoning_gym:NAME` has questions whose answers it can check.

`config` beside the path has the settings of the task as YAML: `{path: "reasoning_gym:gcd", config: "size: 1000"}`.
The columns for functions are `answer`, one right answer as text, and `entry`, which tells `score_answer` the question.
"""

import json
from collections.abc import Collection
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tercet.config.plain_yaml import NotPlain, parse
from tercet.errors import InputError, first_line
from tercet.lm.data.cells import EVERY
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.turns import text_of

PREFIX = "reasoning_gym:"
_DEFAULTS = {"seed": 0, "size": 500}


def read_task(path: str, config: str, *, name: str, columns: Collection[str]) -> list[Example]:
    """Return every question of a task with its answer, and the columns among `columns`."""
    task = _task(path, config)
    examples: list[Example] = []
    for number in range(len(task)):
        question, answer = (text_of(task[number][key]) for key in ("question", "answer"))
        entry = {"path": path, "config": config, "number": number}
        values = {"answer": answer, "entry": entry}
        taken = {key: value for key, value in values.items() if key in columns or EVERY in columns}
        extra = json.dumps(taken, ensure_ascii=False) if taken else ""
        messages = (Message("user", question),)
        examples.append(Example(messages, answer, None, name, f"{path}[{number}]", extra=extra))
    return examples


def score_answer(question: str, answer: str, entry: dict[str, Any]) -> float:  # Any: JSON
    """Score an answer from 0 to 1 as the task does; `entry` is the column of this name."""
    task = _task(entry["path"], entry["config"])
    item = task[entry["number"]]
    if text_of(item["question"]) != question:
        raise InputError(
            f"{entry['path']}[{entry['number']}]: is another question than when the data was read; the task depends on "
            "more than its seed, so it cannot be scored"
        )
    return float(task.score_answer(answer=answer, entry=item))


@lru_cache(maxsize=16)
def _task(path: str, config: str) -> Any:  # Any: reasoning-gym is optional
    """Create a task from its settings."""
    task_name = path.removeprefix(PREFIX)
    if find_spec("reasoning_gym") is None:
        raise InputError(f'{path}: needs a package: pip install "tercet[reasoning]"')
    gym = import_module("reasoning_gym")
    known = import_module("reasoning_gym.factory").DATASETS
    if task_name not in known:
        raise InputError(f"{path}: reasoning-gym has no such task; it has {', '.join(sorted(known))}")
    try:
        settings = parse(config).value or {}
        if not isinstance(settings, dict):
            raise NotPlain("not a mapping")
        return gym.create_dataset(task_name, **(_DEFAULTS | settings))
    except (TypeError, ValueError, AssertionError) as error:  # what its checks of settings raise
        raise InputError(
            f"{path}: config={config!r} is refused ({type(error).__name__}: {first_line(error)}); write settings of "
            "the task as YAML, such as `size: 1000`"
        ) from error
