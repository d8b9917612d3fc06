"""SIGTERM ends a loop after its update and everything else at once."""

import os
import signal
from collections.abc import Iterator

import pytest

from tercet.errors import FailedError
from tercet.runs.stop import Ended, ask, deferring, end, is_asked, on_signal


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers that the command line installs."""
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _kill(number: int) -> None:
    os.kill(os.getpid(), number)


def test_outside_of_a_loop_the_process_ends_at_once() -> None:
    with pytest.raises(Ended, match="ended by SIGTERM"):
        _kill(signal.SIGTERM)
    assert not is_asked()


def test_a_loop_is_asked_and_forgets_it_at_its_end() -> None:
    seen = []
    for item in deferring("abc"):
        if item == "b":
            _kill(signal.SIGTERM)
        seen.append((item, is_asked()))
    assert seen == [("a", False), ("b", True), ("c", True)]
    assert not is_asked()
    with pytest.raises(Ended):
        _kill(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_a_loop_at_once(number: int) -> None:
    seen = []
    with pytest.raises(Ended):
        for item in deferring("abc"):
            _kill(signal.SIGTERM)
            seen.append(item)
            _kill(number)
    assert seen == ["a"]


def test_a_run_can_end_its_own_loop_with_a_reason() -> None:
    ask("before the loop, where nothing can stop")
    assert not is_asked()
    with pytest.raises(FailedError, match="it is sick"):
        for _ in deferring("abc"):
            ask("it is sick")
            ask("and more")  # the first reason counts
            assert is_asked()
            end()
    assert not is_asked()


def test_a_signal_after_that_ends_the_loop_at_once() -> None:
    with pytest.raises(Ended):
        for _ in deferring("abc"):
            ask("it is sick")
            _kill(signal.SIGTERM)
    for _ in deferring("a"):
        _kill(signal.SIGTERM)
        with pytest.raises(Ended, match="ended by SIGTERM"):  # without the reason of an earlier loop
            end()
