"""Answers about texts become pairs, in a file or in a folder that `datasets` loads."""

import json
from pathlib import Path
from typing import Any

import pytest

from tercet.errors import FailedError, InputError
from tercet.feedback.answers import AnswerBook
from tercet.feedback.pairs import export, pairs_of, swapped
from tercet.feedback.sheets import Kind, Sheet, answers_to, read_sheet, take, write_sheet

HOSTILE = 'مرحبا <script>alert("你好")</script>\u2028'
HI = [{"role": "user", "text": HOSTILE, "tools": ""}]
BYE = [{"role": "user", "text": "Bye", "tools": ""}]


def asked(feedback: Path, name: str, kind: Kind, rows: list[dict[str, Any]]) -> Sheet:
    def write(folder: Path) -> list[dict[str, Any]]:
        (folder / "rows.json").write_text(json.dumps(rows))
        turns = [[{"role": turn["role"], "text": turn["text"]} for turn in row["messages"]] for row in rows]
        if kind == "thumbs":
            return [{"prompt": some, "answer": row["answer"]} for some, row in zip(turns, rows, strict=True)]
        return [
            {"prompt": some, "left": row["chosen"], "right": row["rejected"]}
            for some, row in zip(turns, rows, strict=True)
        ]

    write_sheet(feedback / name, kind, "", write)
    return read_sheet(feedback / name)


def compared(feedback: Path, num: int = 4) -> Sheet:
    row = {"messages": HI, "chosen_stage": "sft", "rejected_stage": "ppo", "rejected_ended": False}
    rows = [row | {"chosen": f"a{i}", "rejected": f"b{i}", "chosen_ended": True} for i in range(num)]
    return asked(feedback, "asked", "answers", rows)


def thumbed(feedback: Path) -> Sheet:
    given = [(HI, "good"), (BYE, "fine"), (HI, "poor"), (HI, "odd"), (BYE, "well"), (HI, "good")]
    rows = [{"messages": m, "answer": a, "ended": a != "odd", "stage": "ppo"} for m, a in given]
    return asked(feedback, "thumbs", "thumbs", rows)


def answer(feedback: Path, sheet: Sheet, words: list[str], who: str = "Ana") -> None:
    with AnswerBook(feedback) as book:
        for index, word in enumerate(words):
            book.write(sheet.key(index), word, who, seconds=1.5 + index)


def test_a_comparison_is_a_pair_of_each_person_who_prefers_one(tmp_path: Path) -> None:
    sheet = compared(tmp_path)
    answer(tmp_path, sheet, ["left", "right", "equal", "unclear"])
    answer(tmp_path, sheet, ["right"], "Bo")
    pairs = pairs_of(sheet)
    assert [(pair["chosen"], pair["rejected"], pair["who"], pair["seconds"]) for pair in pairs] == [
        ("a0", "b0", "Ana", 1.5),
        ("b0", "a0", "Bo", 1.5),
        ("b1", "a1", "Ana", 2.5),
    ]
    assert [pairs[2][name] for name in ("chosen_ended", "rejected_ended", "chosen_stage", "rejected_stage")] == [
        False,
        True,
        "ppo",
        "sft",
    ]
    assert pairs[0]["prompt"] == [{"role": "user", "content": HOSTILE}]


def test_what_a_run_has_used_is_exported_as_it_was_used(tmp_path: Path) -> None:
    sheet = compared(tmp_path, 2)
    answer(tmp_path, sheet, ["left", "left"])
    take(sheet, answers_to([sheet])[0])
    answer(tmp_path, sheet, ["right", "right"])
    assert [pair["chosen"] for pair in pairs_of(sheet)] == ["a0", "a1"]


def test_a_thumb_up_is_paired_with_each_thumb_down_of_the_same_prompt(tmp_path: Path) -> None:
    sheet = thumbed(tmp_path)
    # the last question has the text of the first one, judged in another way: no pair of a text with itself
    answer(tmp_path, sheet, ["up", "up", "down", "down", "unclear", "down"])
    pairs = pairs_of(sheet)
    assert [(pair["chosen"], pair["rejected"], pair["rejected_ended"], pair["seconds"]) for pair in pairs] == [
        ("good", "poor", True, 5.0),
        ("good", "odd", False, 6.0),
    ]
    answer(tmp_path, sheet, ["up", "up", "down", "down", "down"], "Bo")
    assert [(pair["chosen"], pair["rejected"], pair["who"]) for pair in pairs_of(sheet)][-1] == ("fine", "well", "Bo")


def test_swapping_exchanges_everything_about_the_two_responses() -> None:
    row = {"set": "x", "chosen": "a", "rejected": "b", "chosen_ended": True, "rejected_ended": False}
    row |= {"score_chosen": 1.0, "score_rejected": 2.0, "chosen_stage": "sft", "rejected_stage": "ppo"}
    other = {"set": "x", "chosen": "b", "rejected": "a", "chosen_ended": False, "rejected_ended": True}
    other |= {"score_chosen": 2.0, "score_rejected": 1.0, "chosen_stage": "ppo", "rejected_stage": "sft"}
    assert swapped(row) == other
    assert swapped(other) == row


def test_an_exported_file_and_folder_give_the_same_pairs_to_the_data_readers(tmp_path: Path) -> None:
    import datasets

    from tercet.config.lm import Source
    from tercet.lm.data.sources import read

    feedback = tmp_path / "run" / "feedback"
    answer(feedback, compared(feedback), ["left", "right", "equal"])
    line = f"2 pairs: {tmp_path / 'new' / 'pairs.jsonl'}; 1 left out, equally good: --ties writes them too"
    assert export(feedback, tmp_path / "new" / "pairs.jsonl") == line
    for _ in range(2):  # again into the same folder
        export(feedback, tmp_path / "set")
    for place in (tmp_path / "new" / "pairs.jsonl", tmp_path / "set"):
        examples = read(Source(path=str(place)), name="labels", columns={}, needs_response=True).examples
        assert [(e.chosen, e.rejected, e.chosen_ended, e.rejected_ended) for e in examples] == [
            ("a0", "b0", True, False),
            ("b1", "a1", False, True),
        ]
        assert examples[0].messages[0].text == HOSTILE.strip()
    loaded = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["who"] == ["Ana", "Ana"] and loaded["seconds"] == [1.5, 2.5]


def test_equally_good_answers_are_rows_without_a_chosen_one_that_no_reader_takes_for_a_pair(tmp_path: Path) -> None:
    import datasets

    from tercet.config.lm import Source
    from tercet.lm.data.sources import read

    feedback = tmp_path / "run" / "feedback"
    sheet = compared(feedback)
    answer(feedback, sheet, ["left", "equal", "unclear", "equal"])
    answer(feedback, sheet, ["equal"], "Bo")
    for place in (tmp_path / "labels.jsonl", tmp_path / "set"):
        assert export(feedback, place, ties=True) == f"1 pair and 3 ties: {place}"
        found = read(Source(path=str(place)), name="labels", columns={}, needs_response=True)
        assert [(e.chosen, e.rejected) for e in found.examples] == [("a0", "b0")]
        assert found.dropped == {"neither answer was called better": 3}
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").open()]
    assert [(row["chosen"], row["rejected"], row["tie"], row.get("answers"), row["who"]) for row in rows] == [
        ("a0", "b0", False, None, "Ana"),
        (None, None, True, ["a0", "b0"], "Bo"),
        (None, None, True, ["a1", "b1"], "Ana"),
        (None, None, True, ["a3", "b3"], "Ana"),
    ]
    assert (rows[1]["answers_ended"], rows[1]["answers_stage"]) == ([True, False], ["sft", "ppo"])
    loaded = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["tie"] == [False, True, True, True] and loaded["chosen"] == ["a0", None, None, None]


def test_nothing_to_export_and_a_folder_of_something_else_are_refused(tmp_path: Path) -> None:
    feedback, other = tmp_path / "run" / "feedback", tmp_path / "other"
    sheet = compared(feedback)
    answer(feedback, sheet, ["equal"])
    with pytest.raises(InputError, match="nobody has preferred one text to another here; --ties writes the 1 answers"):
        export(feedback, tmp_path / "pairs.jsonl")
    assert not (tmp_path / "pairs.jsonl").exists()
    answer(feedback, sheet, ["left"], "Bo")
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        export(feedback, other)
    assert (other / "thesis.txt").read_text() == "mine"


def test_a_pair_with_an_empty_answer_is_left_out_of_a_file_and_counted(tmp_path: Path) -> None:
    rows = [{"messages": HI, "chosen": text, "rejected": "b"} for text in ("a", " ", "")]
    answer(tmp_path / "feedback", asked(tmp_path / "feedback", "asked", "answers", rows), ["left", "right", "left"])
    line = export(tmp_path / "feedback", tmp_path / "pairs.jsonl")
    assert line == f"1 pair: {tmp_path / 'pairs.jsonl'}; 2 left out, one of their answers is empty"
    assert [json.loads(line)["chosen"] for line in (tmp_path / "pairs.jsonl").open()] == ["a"]


@pytest.mark.parametrize("rows", ["{", "[]", "[1, 2, 3, 4]", '[{"chosen": "a"}]'])
def test_damaged_rows_are_named(tmp_path: Path, rows: str) -> None:
    sheet = compared(tmp_path)
    (sheet.path / "rows.json").write_text(rows)
    with pytest.raises(FailedError, match=r"rows\.json: damaged"):
        pairs_of(sheet)
