"""The number of generated hostile inputs in the tests of this folder, and counters of the refused ones."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tercet.errors import FailedError, InputError

THOROUGH = os.environ.get("TERCET_THOROUGH") == "1"


def cases(thorough: int) -> int:
    """Return the number of examples of a test: `thorough` with TERCET_THOROUGH=1, else a fiftieth of it."""
    return thorough if THOROUGH else max(5, thorough // 50)


@dataclass
class Count:
    """The number of cases of one part, and of those that ended in a clear error."""

    part: str
    tried: int = 0
    refused: int = 0

    def note(self, *, refused: bool) -> None:
        """Count one case that the test has checked itself, such as the status of an HTTP response."""
        self.tried += 1
        self.refused += refused

    def attempt(self, work: Callable[[], Any]) -> "Outcome":
        """Run one case; InputError and FailedError are refusals, any other exception is a failure."""
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
    """The result of one case: a value, or the message of its refusal."""

    value: Any
    refusal: str
