"""Sample and score with the models of a language run."""

from typing import Any

import pytest

import tercet

PROMPTS = ["How are you?", "What is a telescope?", "Hello!"]


def test_responses_depend_on_the_seed_and_the_stage(tuned: tercet.Run, capsys: pytest.CaptureFixture) -> None:
    one = tercet.sample(tuned, PROMPTS, stage="base", seed=1, max_tokens=8)
    assert one[:2] == tercet.sample(tuned, PROMPTS[:2], stage="base", seed=1, max_tokens=8)
    assert one != tercet.sample(tuned, PROMPTS, stage="base", seed=2, max_tokens=8)
    assert one != tercet.sample(tuned, PROMPTS, stage="sft", seed=1, max_tokens=8)
    likeliest = [tercet.sample(tuned, PROMPTS, stage="sft", seed=seed, temperature=0) for seed in (1, 2)]
    assert likeliest[0] == likeliest[1]
    assert (tercet.sample(tuned, [], stage="sft"), capsys.readouterr().out) == ([], "")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda run: tercet.sample(run, ["Hi"]), "stage='ppo': .* has base, sft"),
        (lambda run: tercet.sample(run, "Hi", stage="sft"), "must be a list of texts"),
        (lambda run: tercet.sample(run, ["Hi", " "], stage="sft"), r"prompts\[1\] is blank"),
        (lambda run: tercet.sample(run, ["Hi", "x" * 300], stage="sft"), r"prompts\[1\] with its response needs \d+ "),
        (lambda run: tercet.sample(run, ["Hi"], temperature=-1), "temperature=-1: must be at least 0"),
        (lambda run: tercet.sample(run, ["Hi"], max_tokens=0), "max_tokens=0: must be at least 1"),
        (lambda run: tercet.score(run, ["Hi"], []), "1 prompts and 0 responses"),
        (lambda run: tercet.score(run, ["Hi"], ["Ho"]), "has no reward model; run its step reward first"),
        (lambda run: tercet.play(run), "is a run of a language model"),
        (lambda run: tercet.Run(run.path / "sft"), "not a run folder"),
    ],
)
def test_a_wrong_argument_is_named(call: Any, told: str, tuned: tercet.Run) -> None:
    with pytest.raises(tercet.InputError, match=told):
        call(tuned)
