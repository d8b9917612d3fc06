"""Two sampled answers on a sheet for a person, and the pairs that the words make of them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.errors import FailedError, WaitingError
from tercet.feedback.answers import AnswerBook
from tercet.feedback.sheets import Sheet, sheets
from tercet.lm.data.examples import Message
from tercet.lm.pipeline import STEPS
from tercet.lm.preferences.human import judged_rows
from tercet.runs.folder import RunFolder
from tercet.web.label import Desk

SMALL = "sft.max_steps=1 sft.num_eval=8 reward.num_sampled_pairs=12 reward.max_steps=2 judge=person"


def waiting(folder: RunFolder, config: LmConfig) -> Sheet:
    with pytest.raises(WaitingError, match="questions wait for a person"):
        STEPS["reward"](folder, config)
    (sheet,) = sheets(folder.path / "feedback")
    return sheet


def answer(feedback: Path, words: list[str]) -> None:
    with AnswerBook(feedback) as book:
        (sheet,) = sheets(feedback)
        for index, word in enumerate(words):
            book.write(sheet.key(index), word, "script")


def test_the_better_answer_is_the_one_that_a_person_chose(tmp_path: Path) -> None:
    config = load_lm_config("tiny", SMALL.split())
    with RunFolder.open(tmp_path / "run", config, preset="tiny") as folder:
        STEPS["sft"](folder, config)
        sheet = waiting(folder, config)
        num = len(sheet.questions)
        assert num > 12
        desk = Desk(folder.path)
        question = desk.state()["question"]
        assert (question["kind"], question["left"]) == ("answers", sheet.questions[0]["left"])
        assert {"role", "text"} <= question["prompt"][0].keys()
        desk.close()
        feedback = folder.path / "feedback"
        answer(feedback, ["equal"] * num)
        with pytest.raises(FailedError, match="no preference was given for any pair to train on"):
            STEPS["reward"](folder, config)
        words = [("right", "left", "equal", "right", "unclear")[i % 5] for i in range(num - 1)] + ["left"]
        answer(feedback, words)
        STEPS["reward"](folder, config)
        assert folder.is_done("reward") and sheet.is_taken()
    rows = [json.loads(line) for line in (tmp_path / "run" / "reward" / "pairs.jsonl").read_text().splitlines()]
    wanted = [
        (one["left"], one["right"]) if word == "left" else (one["right"], one["left"])
        for one, word in zip(sheet.questions, words, strict=True)
        if word in ("left", "right")
    ]
    assert [(row["chosen"], row["rejected"]) for row in rows] == wanted


def test_a_person_is_shown_the_tool_calls_of_a_prompt(tmp_path: Path) -> None:
    tools = json.dumps({"tool_calls": [{"type": "function", "function": {"name": "look_up", "arguments": "{}"}}]})
    turns = [asdict(Message("user", "Egg?")), asdict(Message("assistant", "", tools)), asdict(Message("tool", "4"))]
    row = {"messages": turns, "chosen": "4 minutes.", "rejected": "No.", "part": "train"}
    with pytest.raises(WaitingError):
        judged_rows(tmp_path, lambda: [row])
    (sheet,) = sheets(tmp_path / "feedback")
    assert [(turn["role"], turn["text"]) for turn in sheet.questions[0]["prompt"]] == [
        ("user", "Egg?"),
        ("assistant", "look_up({})"),
        ("tool", "4"),
    ]


@pytest.mark.parametrize(
    ("damage", "wrong"),
    [
        (lambda sheet: (sheet / "rows.json").write_text("["), "have changed since the run wrote them"),
        (lambda sheet: (sheet / "rows.json").unlink(), "have changed since the run wrote them"),
        (lambda sheet: (sheet / "sheet.json").write_text("[]"), "sheet.json: damaged"),
        (
            lambda sheet: (sheet.parent / "answers.jsonl").write_text("{}\n"),
            "answers.jsonl: line 1 is not a valid answer",
        ),
        (lambda sheet: (sheet / "taken.json").write_text("[1, 2]"), "taken.json: damaged"),
    ],
)
def test_what_is_damaged_of_the_questions_is_named(tmp_path: Path, damage: Any, wrong: str) -> None:
    row = {"messages": [{"role": "user", "text": "Hello"}], "chosen": "a", "rejected": "b"}
    rows = [row | {"part": part, "score_chosen": 0.0, "score_rejected": 0.0} for part in ("train", "test")]
    with pytest.raises(WaitingError):
        judged_rows(tmp_path, lambda: rows)
    damage(tmp_path / "feedback" / "answers")
    with pytest.raises(FailedError, match=wrong):
        judged_rows(tmp_path, lambda: rows)
