"""Pairs of a chat are saved whole, also by several pages, and can be taken back."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tercet.feedback.chat import ChatPairs
from tercet.lm.data.formats import RowReader

TURNS = [{"role": "user", "content": "你好 <b>"}]


def answer(stage: str, text: str, *, ended: bool = True) -> dict[str, Any]:
    return {"stage": stage, "text": text, "ended": ended}


def test_a_choice_makes_a_pair_with_each_other_answer_that_the_data_reader_takes(tmp_path: Path) -> None:
    pairs = ChatPairs(tmp_path)
    others = [answer("base", "no", ended=False), answer("sft", "never")]
    ids = pairs.add(TURNS, answer("ppo", "yes"), others, "Ana")
    assert (len(set(ids)), pairs.count()) == (2, 2)
    rows = [json.loads(line) for line in pairs.path.read_text().splitlines()]
    assert [(row["chosen_stage"], row["rejected_stage"], row["who"]) for row in rows] == [
        ("ppo", "base", "Ana"),
        ("ppo", "sft", "Ana"),
    ]
    read = [RowReader({}).parts(row) for row in rows]
    assert [(one.messages[0].text, one.chosen, one.rejected) for one in read] == [
        ("你好 <b>", "yes", "no"),
        ("你好 <b>", "yes", "never"),
    ]
    assert [(one.chosen_ended, one.rejected_ended) for one in read] == [(True, False), (True, True)]


def test_pairs_that_are_taken_back_are_gone(tmp_path: Path) -> None:
    pairs = ChatPairs(tmp_path)
    first = pairs.add(TURNS, answer("ppo", "yes"), [answer("sft", "no")], "Ana")
    second = pairs.add(TURNS, answer("sft", "no"), [answer("ppo", "yes")], "Ana")
    pairs.take_back(first)
    pairs.take_back(["unknown"])
    assert [json.loads(line)["id"] for line in pairs.path.read_text().splitlines()] == second


def test_a_row_that_a_kill_has_cut_is_replaced(tmp_path: Path) -> None:
    pairs = ChatPairs(tmp_path)
    pairs.add(TURNS, answer("ppo", "yes"), [answer("sft", "no")], "Ana")
    with pairs.path.open("a") as file:
        file.write('{"prompt": [{"ro')
    pairs.add(TURNS, answer("ppo", "maybe"), [answer("sft", "no")], "Ana")
    assert [json.loads(line)["chosen"] for line in pairs.path.read_text().splitlines()] == ["yes", "maybe"]


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    def write(number: int) -> None:
        pairs = ChatPairs(tmp_path)
        for turn in range(5):
            kept = pairs.add(TURNS, answer("ppo", f"{number} {turn}"), [answer("sft", "no")], "Ana")
            gone = pairs.add(TURNS, answer("ppo", "gone"), [answer("sft", "no")], "Ana")
            assert kept != gone
            pairs.take_back(gone)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chosen = sorted(json.loads(line)["chosen"] for line in ChatPairs(tmp_path).path.read_text().splitlines())
    assert chosen == sorted(f"{number} {turn}" for number in range(4) for turn in range(5))


@pytest.mark.parametrize(
    ("value", "ended"), [(None, True), ("", True), ("False", False), ("true", True), (False, False)]
)
def test_an_end_may_be_left_out_or_be_written_as_in_a_csv_file(value: Any, ended: bool) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "rejected_ended": value}
    assert RowReader({}).parts(row).rejected_ended == ended


@pytest.mark.parametrize("value", ["no", 1, 0.5])
def test_an_end_that_is_no_truth_value_is_refused(value: Any) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "chosen_ended": value}
    with pytest.raises(ValueError, match=r"chosen_ended = .* must be true or false"):
        RowReader({}).parts(row)
