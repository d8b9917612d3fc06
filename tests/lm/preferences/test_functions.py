"""The user's own functions: called, and held to one finite score for each answer."""

import asyncio
import math
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tercet.errors import FailedError, InputError
from tercet.lm.preferences.functions import call_function, load_score_function


def lengths(prompts: list[str], responses: list[str]) -> list[int]:
    return [len(response) for response in responses]


def generated(prompts: list[str], responses: list[str]) -> Iterator[float]:
    yield from (len(response) for response in responses)


@pytest.mark.parametrize(
    "returned",
    [
        [2, 3],
        (2.0, 3.0),
        np.array([2, 3], dtype=np.float32),
        np.array([[2.0], [3.0]]),
        torch.tensor([2.0, 3.0], requires_grad=True),
        torch.tensor([2, 3], dtype=torch.bfloat16),
        torch.tensor([[2.0], [3.0]]),
        [torch.tensor(2.0, requires_grad=True), np.float32(3)],
        [torch.tensor([2.0]), [3.0]],
    ],
)
def test_a_function_may_return_numbers_of_any_library(returned: Any) -> None:  # Any: what functions return
    scores = call_function(lambda prompts, responses: returned, ["a", "b"], ["xx", "yyy"]).total
    assert scores == [2.0, 3.0]
    assert all(type(score) is float for score in scores)


def test_a_generator_is_read_to_its_end() -> None:
    assert call_function(generated, ["a", "b"], ["xx", "yyy"]).total == [2.0, 3.0]


def test_a_function_cannot_change_what_it_is_asked_about() -> None:
    def clears(prompts: list[str], responses: list[str]) -> list[float]:
        scores = [float(len(response)) for response in responses]
        responses.clear()
        return scores

    responses = ["xx", "yyy"]
    assert call_function(clears, ["a", "b"], responses).total == [2.0, 3.0]
    assert responses == ["xx", "yyy"]


async def waits(prompts: list[str], responses: list[str]) -> list[float]:
    await asyncio.sleep(0.001)
    return [float(len(response)) for response in responses]


async def raises_later(prompts: list[str], responses: list[str]) -> list[float]:
    await asyncio.sleep(0.001)
    raise KeyError("service")


def raises(prompts: list[str], responses: list[str]) -> list[float]:
    raise KeyError("score")


def leaves(prompts: list[str], responses: list[str]) -> list[float]:
    sys.exit("no more")


def halfway(prompts: list[str], responses: list[str]) -> Iterator[float]:
    yield 1.0
    raise KeyError("score")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raises, r":raises raised KeyError: 'score' on 2 answers"),
        (halfway, r":halfway raised KeyError: 'score' on 2 answers"),
        (leaves, r":leaves raised SystemExit: no more"),
        (raises_later, r":raises_later raised KeyError: 'service' on 2 answers"),
        (lambda prompts, responses: [0.0], r"gave 1 scores for 2 answers"),
        (lambda prompts, responses: [1.0, float("nan")], r"gave nan for answer 1, 'second' to 'b'"),
        (lambda prompts, responses: [1.0, 10**400], r"gave inf for answer 1, 'second' to 'b'"),
        (lambda prompts, responses: ["0.5", "0.5"], r"gave '0.5' for answer 0"),
        (lambda prompts, responses: [[1.0, 2.0], [3.0, 4.0]], r"gave a list for answer 0"),
        (lambda prompts, responses: None, r"gave None for 2 answers; return a list of numbers"),
        (lambda prompts, responses: 1.0, r"gave 1.0 for 2 answers"),
        (lambda prompts, responses: torch.tensor(1.0), r"gave 1.0 for 2 answers"),
        (lambda prompts, responses: "ab", r"gave 'ab' for 2 answers"),
        (lambda prompts, responses: {"right": [1.0, 2.0], "short": [1.0]}, r"score short, gave 1 scores for 2 answers"),
        (lambda prompts, responses: {"right": 1.0}, r"score right, gave 1.0 for 2 answers"),
        (lambda prompts, responses: {"right": {"a": 1.0}}, r"score right, gave a dict with the keys a for 2 answers"),
        (lambda prompts, responses: {"right": [1.0, math.inf]}, r"score right, gave inf for answer 1"),
        (lambda prompts, responses: {}, r"gave no named scores for 2 answers"),
        (lambda prompts, responses: {1.0, 2.0}, r"gave a set for 2 answers"),
    ],
)
def test_a_function_that_misbehaves_is_named_with_the_cause(function, message: str) -> None:  # type: ignore[no-untyped-def]  # each of them is wrong in its own way
    with pytest.raises(FailedError, match=message):
        call_function(function, ["a", "b"], ["first", "second"])


SIGNATURES = """
import sys

def trl_style(completions, **kwargs):
    return [1.0 for _ in completions]

def more(prompts, completions, **kwargs):
    return [1.0 for _ in completions]

def one_list(texts):
    return [1.0 for _ in texts]

def swapped(answer, text):
    return [1.0 for _ in text]

async def waits(prompts, responses):
    return [1.0 for _ in responses]

class Counter:
    def __call__(self, prompts, responses):
        return [len(response) for response in responses]

counter = Counter()
"""


def test_a_signature_that_cannot_be_called_is_refused_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "signatures.py").write_text(SIGNATURES)
    (tmp_path / "a_script.py").write_text("import sys\nsys.exit('usage: a_script FILE')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"one_list\(texts\) cannot be.*write def one_list\(prompts, responses\)"):
        load_score_function("signatures:one_list")
    with pytest.raises(InputError, match="importing a_script raised SystemExit: usage"):
        load_score_function("a_script:score")
    for name in ("trl_style", "more", "counter", "waits"):
        assert call_function(load_score_function(f"signatures:{name}"), ["a"], ["b"]).total == [1.0]
    assert not capsys.readouterr().out
    load_score_function("signatures:swapped")
    assert "swapped(answer, text) gets the prompts as its first" in " ".join(capsys.readouterr().out.split())


def test_an_async_function_is_waited_for_on_one_loop_also_inside_a_notebook() -> None:
    loops = set()

    async def remembers(prompts: list[str], responses: list[str]) -> list[float]:
        loops.add(id(asyncio.get_running_loop()))
        return await waits(prompts, responses)

    async def cell() -> list[float]:
        return call_function(remembers, ["a", "b"], ["xx", "yyy"]).total

    assert call_function(remembers, ["a", "b"], ["xx", "yyy"]).total == [2.0, 3.0]
    assert asyncio.run(cell()) == [2.0, 3.0]
    assert len(loops) == 1  # a session that the function keeps open belongs to one loop


def test_named_scores_are_summed_and_none_is_left_out_of_the_sum() -> None:
    scores = call_function(
        lambda prompts, responses: {
            "right": [1, None, None],
            "short": torch.tensor([0.5, 0.25, 1.0]),
            "x": [0, 1, None],
        },
        ["a", "b", "c"],
        ["d", "e", "f"],
    )
    assert scores.total == [1.5, 1.25, 1.0]
    assert scores.named["short"] == [0.5, 0.25, 1.0] and scores.named["right"][0] == 1.0
    assert [math.isnan(value) for value in scores.named["right"]] == [False, True, True]


def test_none_is_no_score() -> None:
    assert [*map(math.isnan, call_function(lambda p, r: [None, 0.0], ["a", "b"], ["c", "d"]).total)] == [True, False]
    both = call_function(lambda p, r: {"one": [None, 1.0], "two": [None, None]}, ["a", "b"], ["c", "d"]).total
    assert math.isnan(both[0]) and both[1] == 1.0


def sleeps(prompts: list[str], responses: list[str]) -> list[float]:
    time.sleep(60)
    return [0.0 for _ in responses]


def catches(prompts: list[str], responses: list[str]) -> list[float]:
    for _ in range(100):
        try:
            time.sleep(1)
        except Exception:
            return [0.0 for _ in responses]
    return [0.0 for _ in responses]


def never_ends(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(re.fullmatch("(a+)+b", "a" * 60) is not None) for _ in responses]


async def never_answers(prompts: list[str], responses: list[str]) -> list[float]:
    await asyncio.sleep(60)
    return [0.0 for _ in responses]


@pytest.mark.parametrize("function", [sleeps, catches, never_ends, never_answers])
def test_a_function_that_takes_too_long_ends_with_its_name(function: Callable[..., Any]) -> None:
    start = time.monotonic()
    message = rf":{function.__name__} took longer than function_timeout_seconds=0.05 for 1 answers; raise it"
    with pytest.raises(FailedError, match=message):
        call_function(function, ["a"], ["b"], timeout_seconds=0.05)
    assert time.monotonic() - start < 5


def test_a_function_in_time_is_not_interrupted_later() -> None:
    before = signal.getsignal(signal.SIGALRM)
    assert call_function(lengths, ["a"], ["bb"], timeout_seconds=1.0).total == [2.0]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == before


def test_an_alarm_while_the_limit_ends_does_not_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    set_timer = signal.setitimer

    def late(which: int, seconds: float, interval: float = 0.0) -> tuple[float, float]:
        if not seconds:
            signal.raise_signal(signal.SIGALRM)
        return set_timer(which, seconds, interval)

    before = signal.getsignal(signal.SIGALRM)
    monkeypatch.setattr(signal, "setitimer", late)
    assert call_function(lengths, ["a"], ["bb"], timeout_seconds=9.0).total == [2.0]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == before


def test_a_limit_that_the_function_cancels_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    def cancels(prompts: list[str], responses: list[str]) -> list[float]:
        signal.alarm(0)
        time.sleep(0.1)
        return [0.0 for _ in responses]

    assert call_function(cancels, ["a"], ["b"], timeout_seconds=9.0).total == [0.0]
    assert not capsys.readouterr().out
    assert call_function(cancels, ["a"], ["b"], timeout_seconds=0.0625).total == [0.0]
    assert "function_timeout_seconds=0.0625: has passed without effect" in " ".join(capsys.readouterr().out.split())


def test_a_time_limit_without_effect_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    scores: list[float] = []

    def call() -> None:
        scores.extend(call_function(lengths, ["a"], ["b"], timeout_seconds=9.0).total)

    work = threading.Thread(target=call)
    work.start()
    work.join()
    assert scores == [1.0]
    assert "function_timeout_seconds: has no effect" in " ".join(capsys.readouterr().out.split())
