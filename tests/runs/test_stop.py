"""SIGTERM ends a loop after its update and everything else at once."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import gymnasium
import pytest
import torch

from tercet.arm.preferences.judge import call_judge
from tercet.arm.preferences.segments import Segments
from tercet.arm.sim.foreign import checks
from tercet.errors import FailedError
from tercet.lm.preferences.functions import call_function
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


def test_a_signal_during_a_function_of_the_user_is_no_error_of_that_function() -> None:
    """Such functions may raise anything, SystemExit too, and their errors are reported under their names."""

    def judge(segments: object) -> list[float]:
        _kill(signal.SIGTERM)
        return [0.0]

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        _kill(signal.SIGTERM)
        return [0.0]

    class Env(gymnasium.Env[float, float]):
        def step(self, action: float) -> Any:  # Any: Gymnasium's
            _kill(signal.SIGTERM)

    numbers, places = torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.long)
    segments = Segments(torch.zeros(1, 2, 3), torch.zeros(1, 2, 2), numbers, numbers, places, places)
    with pytest.raises(Ended):
        checks.call("their_env", Env(), "step", 0.0)
    with pytest.raises(Ended):
        call_judge(judge, segments, "their:judge")
    with pytest.raises(Ended):
        call_function(reward, ["a"], ["b"])
