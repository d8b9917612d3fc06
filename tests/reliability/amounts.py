"""How many hostile inputs the tests of this folder generate, and how many of them were refused."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tercet.errors import FailedError, InputError

THOROUGH = os.environ.get("TERCET_THOROUGH") == "1"


def cases(thorough: int) -> int:
    """The examples of one test: `thorough` with TERCET_THOROUGH=1, a fiftieth of that in the default suite."""
    return thorough if THOROUGH else max(5, thorough // 50)


@dataclass
class Count:
    """Cases of one part, and how many of them ended in an error that says what is wrong."""

    part: str
    tried: int = 0
    refused: int = 0

    def note(self, *, refused: bool) -> None:
        """Count one case that the test has judged itself, such as the status of an HTTP answer."""
        self.tried += 1
        self.refused += refused

    def attempt(self, work: Callable[[], Any]) -> "Outcome":
        """Do the work as one case; an InputError or a FailedError is a refusal, any other exception is a failure."""
        try:
            outcome = Outcome(work(), "")
        except (InputError, FailedError) as error:
            assert str(error), "an error without a message"
            outcome = Outcome(None, str(error))
        self.note(refused=bool(outcome.refusal))
        return outcome

    def fixture(self) -> Any:  # Any: pytest does not name the type of a fixture
        """An autouse fixture that prints the count when the file's last test has ended."""

        @pytest.fixture(scope="module", autouse=True)
        def count() -> Iterator[None]:
            yield
            print(f"\nreliability {self.part}: {self.tried} cases, {self.refused} refused", file=sys.stderr, flush=True)

        return count


@dataclass(frozen=True)
class Outcome:
    """What one case gave: a value, or the message of its refusal."""

    value: Any
    refusal: str
