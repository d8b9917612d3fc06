"""The user's own functions: called, and held to one finite score for each answer."""

import sys
from collections.abc import Iterator
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
    scores = call_function(lambda prompts, responses: returned, ["a", "b"], ["xx", "yyy"])
    assert scores == [2.0, 3.0]
    assert all(type(score) is float for score in scores)


def test_a_generator_is_read_to_its_end() -> None:
    assert call_function(generated, ["a", "b"], ["xx", "yyy"]) == [2.0, 3.0]


def test_a_function_cannot_change_what_it_is_asked_about() -> None:
    def clears(prompts: list[str], responses: list[str]) -> list[float]:
        scores = [float(len(response)) for response in responses]
        responses.clear()
        return scores

    responses = ["xx", "yyy"]
    assert call_function(clears, ["a", "b"], responses) == [2.0, 3.0]
    assert responses == ["xx", "yyy"]


async def waits(prompts: list[str], responses: list[str]) -> list[float]:
    return [1.0 for _ in responses]


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
        (waits, r":waits gave a coroutine .*async.* for 2 answers"),
        (lambda prompts, responses: [0.0], r"gave 1 scores for 2 answers"),
        (lambda prompts, responses: [1.0, float("nan")], r"gave nan for answer 1, 'second' to 'b'"),
        (lambda prompts, responses: [1.0, 10**400], r"gave inf for answer 1, 'second' to 'b'"),
        (lambda prompts, responses: [None, 1.0], r"gave None for answer 0, 'first' to 'a'"),
        (lambda prompts, responses: ["0.5", "0.5"], r"gave '0.5' for answer 0"),
        (lambda prompts, responses: [[1.0, 2.0], [3.0, 4.0]], r"gave a list for answer 0"),
        (lambda prompts, responses: None, r"gave None for 2 answers; return a list of numbers"),
        (lambda prompts, responses: 1.0, r"gave 1.0 for 2 answers"),
        (lambda prompts, responses: torch.tensor(1.0), r"gave 1.0 for 2 answers"),
        (lambda prompts, responses: "ab", r"gave 'ab' for 2 answers"),
        (lambda prompts, responses: {"score": [1.0, 2.0]}, r"gave a dict with the keys score for 2 answers"),
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

async def waits(prompts, responses):
    return [1.0 for _ in responses]

class Counter:
    def __call__(self, prompts, responses):
        return [len(response) for response in responses]

counter = Counter()
"""


def test_a_signature_that_cannot_be_called_is_refused_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "signatures.py").write_text(SIGNATURES)
    (tmp_path / "a_script.py").write_text("import sys\nsys.exit('usage: a_script FILE')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"trl_style\(completions, \*\*kwargs\).*write def trl_style\(prompts, resp"):
        load_score_function("signatures:trl_style")
    with pytest.raises(InputError, match="async"):
        load_score_function("signatures:waits")
    with pytest.raises(InputError, match="importing a_script raised SystemExit: usage"):
        load_score_function("a_script:score")
    for name in ("more", "counter"):
        assert len(call_function(load_score_function(f"signatures:{name}"), ["a"], ["b"])) == 1
