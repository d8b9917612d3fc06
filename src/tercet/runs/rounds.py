"""Rounds: steps 2 and 3 of a language run are repeated with new judgements; round 0 is their first time."""

from collections.abc import Iterable, Mapping
from typing import Any


def in_round(step: str, number: int) -> str:
    """Return the name of a step in a round: `ppo` in round 0, `ppo-1` in round 1."""
    return f"{step}-{number}" if number else step


def with_rounds(steps: Iterable[str], num_rounds: int) -> list[str]:
    """Return the names of the steps in order: the rounds of steps 2 and 3 come before the evaluation."""
    rounds = [in_round(step, number) for number in range(1, num_rounds + 1) for step in ("reward", "ppo")]
    *before, last = steps
    return [*before, *rounds, last]


def kind_of(name: str) -> str:
    """Return the step that a name belongs to: `ppo` for `ppo-1`."""
    return name.partition("-")[0]


def round_of(name: str) -> int:
    """Return the round that a name belongs to: 1 for `ppo-1`."""
    number = name.partition("-")[2]
    return int(number) if number.isdecimal() else 0


def results_in_round(tree: Mapping[str, Any], number: int) -> dict[str, Any]:  # Any: JSON
    """Return results under the name of their round, so that rounds do not replace each other's."""
    return {"rounds": {str(number): dict(tree)}} if number else dict(tree)
