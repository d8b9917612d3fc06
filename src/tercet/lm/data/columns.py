"""Columns of the data that score functions take by name: which ones, and their values for some examples."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tercet.config.functions import load_function
from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.data.cells import EVERY
from tercet.lm.data.examples import Example
from tercet.lm.data.splits import Sets
from tercet.runs.progress import say_once
from tercet.runs.ranks import share

Columns = Mapping[str, Sequence[Any]]  # Any: JSON; the values of each column, one for each response
Function = Callable[..., Any]  # Any: numbers of any library, which are checked where they are read

NO_COLUMNS: Columns = {}
_PROMPTS, _RESPONSES = ("prompts",), ("responses", "completions")


@dataclass(frozen=True)
class Takes:
    """What a score function takes: prompts and responses, by position or by `texts` of these names, and columns."""

    texts: tuple[str, ...] = ()  # empty: the first two arguments are the prompts and the responses
    by_position: tuple[str, ...] = ()  # the names that the function has for those two
    required: tuple[str, ...] = ()  # columns
    optional: tuple[str, ...] = ()  # columns with a default value
    everything: bool = False  # `**columns`

    @classmethod
    def of(cls, function: Function) -> "Takes":
        """Read the signature of a function.

        The texts are given by name if an argument is called `responses` or `completions`, as in TRL. The first two
        arguments are the prompts and the responses if none is, if the second is `responses`, or if there are only
        two, of which the second is `completions` and the first is none of TRL's: (queries, completions).
        """
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            return cls()  # some functions written in C have no signature
        everything = any(one.kind is one.VAR_KEYWORD for one in parameters)
        named = [one for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
        names = [one.name for one in named]
        by_position = [one.name for one in named if one.kind is not one.KEYWORD_ONLY][:2]
        texts = tuple(name for name in names if name in (*_PROMPTS, *_RESPONSES))
        required_by_position = [one for one in named if one.kind is not one.KEYWORD_ONLY and one.default is one.empty]
        only_two = len(required_by_position) == 2 and by_position[0] not in (*_PROMPTS, *_RESPONSES)
        is_pair = only_two or by_position[:1] == ["prompt"]  # no column: TRL gives the prompts another name
        if (
            by_position[1:] == ["responses"]
            or (is_pair and by_position[1:] == ["completions"])
            or not any(name in _RESPONSES for name in texts)
        ):
            texts = ()
        columns = [one for one in named if one.name not in (texts or by_position)]
        required = tuple(one.name for one in columns if one.default is one.empty)
        optional = tuple(one.name for one in columns if one.name not in required)
        return cls(texts, () if texts else tuple(by_position), required, optional, everything)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the function names, and EVERY if it takes all."""
        return (*self.required, *self.optional, *([EVERY] if self.everything else []))

    def arguments(
        self, prompts: Sequence[str], responses: Sequence[str], columns: Columns
    ) -> tuple[list[list[str]], dict[str, list[Any]]]:  # Any: JSON
        """Return the arguments by position and by name. They are copies, which the function may change.

        A column that the data lacks is None for each response; an argument with a default value then keeps it.
        """
        taken = columns.keys() - set(self.by_position) if self.everything else self.optional
        names = [name for name in columns if name in taken]
        missing = [None] * len(prompts)
        values = {name: list(columns.get(name, missing)) for name in dict.fromkeys([*self.required, *names])}
        if not self.texts:
            return [list(prompts), list(responses)], values
        given = dict.fromkeys(_PROMPTS, prompts) | dict.fromkeys(_RESPONSES, responses)
        also = ("prompts", "completions") if self.everything else ()  # TRL gives both
        return [], values | {name: list(given[name]) for name in (*self.texts, *also)}


def functions_of(config: LmConfig) -> dict[str, list[str]]:
    """Return the functions `module:function` that each step calls."""
    judges = {
        "sft": [config.judge] if config.sft.best_fraction < 1 else [],
        "reward": [config.judge],
        "dpo": [config.judge],
        "ppo": [*config.ppo.reward, *config.ppo.watch],
        "compare": [config.judge, *config.eval.unseen_judges],
        "eval": [config.judge, *config.eval.unseen_judges],
    }
    return {step: [name for name in names if ":" in name] for step, names in judges.items()}


def columns_of_step(config: LmConfig, step: str) -> tuple[str, ...]:
    """Return the columns that the functions of a step take; InputError if one cannot be loaded."""
    return _columns_of(functions_of(config)[step])


def columns_of_run(config: LmConfig) -> tuple[str, ...]:
    """Return the columns that the functions of all steps take; InputError if one cannot be loaded."""
    return _columns_of(name for names in functions_of(config).values() for name in names)


def _columns_of(specs: Iterable[str]) -> tuple[str, ...]:
    def read() -> tuple[str, ...]:
        functions = map(load_function, dict.fromkeys(specs))
        return tuple(dict.fromkeys(name for function in functions for name in Takes.of(function).columns))

    return share(read)  # only rank 0 imports the modules of the user


def check_columns(spec: str, takes: Takes, sets: Sets) -> None:
    """Raise InputError if no set has a value of a column that the function takes; report sets and rows without one."""
    for column in takes.required:
        missing = {
            name: [e for e in examples if e.columns.get(column) in (None, "")] for name, examples in sets.items()
        }
        without = {name: rows for name, rows in missing.items() if rows}
        if without and all(len(missing[name]) == len(examples) for name, examples in sets.items()):
            files = ", ".join(f"{name} ({_file_of(rows[0])})" for name, rows in without.items())
            raise InputError(
                f"{spec}: takes the column {column!r}, which no row of the data has: {files}; map it with "
                f"data.columns={{{column}: YOUR_COLUMN}}, or add a set that has it"
            )
        for name, rows in without.items():
            say_once(
                f"{spec}: {len(rows)} of {len(sets[name])} examples of the set {name} have no {column} "
                f"(first: {rows[0].location}); the function gets None"
            )


def _file_of(example: Example) -> str:
    return re.sub(r"(:\d+|\[\d+\])$", "", example.location)


def columns_of(examples: Sequence[Example]) -> Columns:
    """Return the columns that the examples were read with; a value that a row lacks is None."""
    rows = [example.columns for example in examples]
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
