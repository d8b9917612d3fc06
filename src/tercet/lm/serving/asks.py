"""What a client asks of a stage and what it is told, as plain data: the pages use it without torch."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from tercet.errors import InputError
from tercet.lm.data.examples import Message

T = TypeVar("T")


class WindowError(InputError):
    """Prompt and response do not fit into the model's context window."""


@dataclass(frozen=True)
class Ask:
    """Responses that a client wants. A prompt is a conversation, a text that the model continues, or token ids."""

    stage: str
    prompt: tuple[Message, ...] | str | tuple[int, ...]
    max_tokens: int | None = None  # None: the default of the run
    temperature: float | None = None  # 0 is greedy; None: that of the run
    top_p: float = 1.0
    stop: tuple[str, ...] = ()  # texts that end a response, and are not part of it
    seed: int | None = None  # None: other responses every time
    num_choices: int = 1
    num_likely: int | None = None  # most likely tokens to name beside each token; None: no log-probabilities at all


@dataclass(frozen=True)
class Token:
    """A token and its log-probability at temperature 1; the text is `\\ufffd` if it is a part of a character."""

    text: str
    logprob: float
    likely: tuple["Token", ...] = ()  # most likely first


@dataclass(frozen=True)
class Started:
    """The prompts have been read; pieces follow."""

    num_prompt_tokens: int


@dataclass(frozen=True)
class Piece:
    """The next piece of a response. `finish` of the last one says whether it ended, also by `stop`, or was cut off."""

    choice: int
    text: str
    num_tokens: int
    tokens: tuple[Token, ...] = ()  # if the client asked for log-probabilities
    finish: Literal["", "stop", "length"] = ""


@dataclass(frozen=True)
class Scored:
    """The reward model's score of an answer; for each of its tokens the text, and the score of the answer up to it."""

    score: float
    tokens: tuple[tuple[str, float], ...]


Event: TypeAlias = Started | Piece | Exception  # an exception is the last event of an Ask
Deliver: TypeAlias = Callable[[Event], None]  # called by another thread
Cancel: TypeAlias = Callable[[], None]


@runtime_checkable
class Answerer(Protocol):
    """Who answers."""

    stages: tuple[str, ...]
    temperature: float  # of a response, if the client gives none
    has_scores: bool  # there is a reward model

    def submit(self, ask: Ask, deliver: Deliver) -> Cancel:
        """Start to answer; events go to `deliver` until every choice is finished, or `cancel` is called."""
        ...

    def score(self, messages: Sequence[Message], text: str, *, ended: bool) -> Future[Scored]:
        """Score an answer with the run's reward model."""
        ...


def names_of_runs(paths: Sequence[Path]) -> list[str]:
    """Return a short name for each run folder: its own, with as many folders around it as tell them apart."""
    for num in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-num:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise InputError(f"{paths[0]}: is given twice; give different runs")
