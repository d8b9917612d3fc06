"""Pairs whose rejected response answers another prompt: which responses are in them, and what they teach."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from tercet.errors import InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.preferences.off_topic import with_off_topic

Take = Callable[..., Path]


def ranked(prompt: str, responses: list[str], source: str = "a") -> list[Example]:
    """All pairs of responses that are given best first."""
    messages = (Message("user", prompt),)
    return [Example(messages, *pair, source, "file:1") for pair in combinations(responses, 2)]


def judged(num: int = 6, source: str = "a") -> list[Example]:
    ranks = [ranked(f"{source}{i}?", [f"{source}{i} {rank}" for rank in ("best", "good", "poor")]) for i in range(num)]
    return [replace(pair, source=source) for pairs in ranks for pair in pairs]


def test_the_two_best_responses_are_preferred_to_the_best_of_other_prompts() -> None:
    pairs = judged()
    added = with_off_topic({"a": pairs}, 2, seed=0)["a"][len(pairs) :]
    assert len(added) == 6 * 2 * 2
    for pair in added:
        own = pair.prompt[:-1]
        assert pair.chosen in (f"{own} best", f"{own} good")
        assert pair.rejected is not None and pair.rejected.endswith(" best") and not pair.rejected.startswith(own)
    rejected = Counter(pair.rejected for pair in added)
    assert set(rejected.values()) == {4}  # each prompt's best response is taken as often as those of the others
    assert len({(pair.prompt, pair.chosen, pair.rejected) for pair in added}) == len(added)


def test_responses_to_other_prompts_come_from_the_same_set_and_keep_how_they_ended() -> None:
    sets = {name: judged(4, name) for name in "ab"}
    sets["b"] = [replace(pair, chosen_ended=False) for pair in sets["b"]]
    added = {name: rows[len(sets[name]) :] for name, rows in with_off_topic(sets, 1, seed=0).items()}
    for name, rows in added.items():
        assert len(rows) == 8
        assert all(pair.source == name and str(pair.rejected).startswith(name) for pair in rows)
        assert {(pair.chosen_ended, pair.rejected_ended) for pair in rows} == {(name == "a", name == "a")}


def test_the_seed_draws_and_zero_adds_nothing() -> None:
    sets = {"a": judged(20)}
    assert with_off_topic(sets, 0, seed=0) is sets
    drawn = [with_off_topic(sets, 1, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_prompts_of_one_conversation_and_equal_responses_are_not_paired() -> None:
    opening = Message("user", "a?")
    later = (opening, Message("assistant", "yes"), Message("user", "and b?"))
    talk = [*ranked("A?", ["1", "2"]), *(replace(pair, messages=later) for pair in ranked("", ["3", "4"]))]
    other = ranked("c?", ["1", "5"])  # its best response is also the first prompt's
    added = with_off_topic({"a": [*talk, *other]}, 5, seed=0)["a"][len(talk) + len(other) :]
    of_later = [(pair.chosen, pair.rejected) for pair in added if pair.messages == later]
    of_first = [(pair.chosen, pair.rejected) for pair in added if pair.prompt == "A?"]
    of_other = [(pair.chosen, pair.rejected) for pair in added if pair.prompt == "c?"]
    assert (of_later, of_first, of_other) == ([("3", "1")], [], [("1", "3")])


def test_without_another_prompt_the_key_is_refused() -> None:
    with pytest.raises(InputError, match=r"reward\.off_topic=1: no set has pairs of two prompts"):
        with_off_topic({"a": ranked("a?", ["1", "2"]), "b": ranked("b?", ["1", "2"], "b")}, 1, seed=0)


@pytest.mark.parametrize(("num", "num_steps"), [(0, 5), (1, 10), (2, 15)])
def test_step_2_learns_from_the_added_pairs(
    take: Take, small: list[str], tmp_path: Path, num: int, num_steps: int
) -> None:
    rows = [{"prompt": f"question {i}?", "chosen": f"{i} yes", "rejected": f"{i} no"} for i in range(40)]
    files = {"train": rows, "held-out": [row | {"prompt": f"another {i}?"} for i, row in enumerate(rows)]}
    for name, lines in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    settings = [f"data.train=[{tmp_path / 'train.jsonl'}]", f"data.eval=[{tmp_path / 'held-out.jsonl'}]"]
    settings += ["reward.epochs=1", "reward.max_steps=0", "reward.batch_size=8", f"reward.off_topic={num}"]
    run = take("reward", tmp_path / "run", *small, *settings)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["step"] == "reward" for row in metrics) == num_steps
