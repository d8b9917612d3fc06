"""Labels from elsewhere become answered questions, and come out again."""

import json
from pathlib import Path
from typing import Any

import pytest

from tercet.errors import InputError
from tercet.feedback.answers import read_answers
from tercet.feedback.pairs import export
from tercet.feedback.sheets import read_sheet
from tercet.lm.labels.imported import import_labels
from tercet.web.label import Desk


def written(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def labels(num: int = 20) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": f"Question {i}"}],
            "chosen": f"good {i}",
            "rejected": f"bad {i}",
            "chosen_ended": i % 3 > 0,
            "rejected_ended": True,
            "chosen_stage": "ppo",
            "rejected_stage": "sft",
            "who": "Ana" if i % 2 else "Bo",
            "seconds": i + 0.5,
        }
        for i in range(num)
    ]


def test_what_is_imported_is_exported_again(tmp_path: Path) -> None:
    file = written(tmp_path / "old labels.jsonl", *labels())
    assert import_labels(tmp_path / "run", file).startswith("20 labels: ")
    (path,) = (tmp_path / "run" / "feedback").glob("imported-old-labels-*")
    sheet = read_sheet(path)
    sides = [question["left"].startswith("good") for question in sheet.questions]
    assert 4 <= sum(sides) <= 16
    for place in (tmp_path / "again.jsonl", tmp_path / "folder"):
        export(tmp_path / "run" / "feedback", place)
        rows = [json.loads(line) for line in (place if place.suffix else place / "train.jsonl").open()]
        assert [{name: row[name] for name in labels()[0]} for row in rows] == labels()
    assert import_labels(tmp_path / "other", str(tmp_path / "folder")).startswith("20 labels: ")
    assert [row["who"] for row in read_answers(tmp_path / "other" / "feedback")] == [row["who"] for row in labels()]


def test_ties_are_imported_and_exported_again_with_what_others_say_about_the_same_two_answers(tmp_path: Path) -> None:
    pair = labels(1)[0] | {"who": "Ana", "chosen_ended": True, "tie": False}
    tie: dict[str, Any] = {"prompt": pair["prompt"], "chosen": None, "rejected": None, "tie": True}
    tie |= {"answers": ["bad 0", "good 0"], "answers_ended": [True, True], "answers_stage": ["sft", "ppo"]}
    tie |= {"who": "Bo", "seconds": 2.5}
    other = tie | {"answers": ["one", "two"], "answers_ended": [False, True], "answers_stage": [None, None]}
    assert import_labels(tmp_path, written(tmp_path / "labels.jsonl", pair, tie, other)).startswith("3 labels: ")
    (path,) = (tmp_path / "feedback").glob("imported-labels-*")
    assert len(read_sheet(path).questions) == 2  # Ana and Bo have answered the same one
    for place in (tmp_path / "again.jsonl", tmp_path / "folder"):
        export(tmp_path / "feedback", place, ties=True)
        rows = [json.loads(line) for line in (place if place.suffix else place / "train.jsonl").open()]
        assert [(row["who"], row["tie"], row["chosen"], row["seconds"]) for row in rows] == [
            ("Ana", False, "good 0", 0.5),
            ("Bo", True, None, 2.5),
            ("Bo", True, None, 2.5),
        ]
        sides = [
            dict(zip(r["answers"], zip(r["answers_ended"], r["answers_stage"], strict=True), strict=True))
            for r in rows[1:]
        ]
        assert sides == [
            {"good 0": (True, "ppo"), "bad 0": (True, "sft")},
            {"one": (False, None), "two": (True, None)},
        ]
    import_labels(tmp_path / "other", str(tmp_path / "folder"))
    assert [row["said"] == "equal" for row in read_answers(tmp_path / "other" / "feedback")] == [False, True, True]


def test_imported_labels_can_be_checked_by_another_person(tmp_path: Path) -> None:
    import_labels(tmp_path, written(tmp_path / "labels.jsonl", *[row | {"who": "old"} for row in labels(4)]))
    desk = Desk(tmp_path, same=1.0)
    for index in range(4):
        question = desk.state("Ana")["question"]
        good = question["left"].startswith("good")
        said = ("left" if good else "right") if index else "equal"
        desk.answer({"sheet": question["sheet"], "question": index, "said": said, "who": "Ana"})
    (agreement,) = desk.state()["agreement"]
    assert (agreement["who"], agreement["num"], agreement["same"]) == (("Ana", "old"), 4, 0.75)
    desk.close()


def test_what_two_people_said_about_one_question_is_one_question_and_kappa_survives(tmp_path: Path) -> None:
    rows = labels(6)
    other = ("rejected", "chosen")
    ana = [row | {"who": "Ana"} for row in rows]
    bo = [row | {"who": "Bo"} for row in rows[:4]]
    for name in ("", "_ended", "_stage"):  # Bo finds the other answer to the first question better
        bo[0] |= {f"{mine}{name}": rows[0][f"{his}{name}"] for mine, his in zip(other, other[::-1], strict=True)}
    file = written(tmp_path / "two.jsonl", *ana, *bo)
    assert import_labels(tmp_path / "run", file).startswith("10 labels: ")
    desk = Desk(tmp_path / "run")
    assert desk.state()["total"] == 6
    (agreement,) = desk.state()["agreement"]
    assert (agreement["who"], agreement["num"], agreement["same"]) == (("Ana", "Bo"), 4, 0.75)
    assert agreement["kappa"] is not None
    desk.close()
    export(tmp_path / "run" / "feedback", tmp_path / "again.jsonl")
    again = [json.loads(line) for line in (tmp_path / "again.jsonl").open()]
    assert sorted(str({name: row[name] for name in labels(1)[0]}) for row in again) == sorted(map(str, ana + bo))


def test_no_row_of_the_same_person_is_lost(tmp_path: Path) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    file = written(tmp_path / "plain.jsonl", row, row, row | {"chosen": "c", "rejected": "b"})
    import_labels(tmp_path / "run", file)
    assert len(read_answers(tmp_path / "run" / "feedback")) == 3


def test_two_files_of_one_name_are_imported_beside_each_other(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        import_labels(tmp_path / "run", written(tmp_path / name / "labels.jsonl", *labels(3)))
    assert len(read_answers(tmp_path / "run" / "feedback")) == 6


def test_a_second_import_is_refused_and_one_that_was_cut_short_is_completed(tmp_path: Path) -> None:
    file = written(tmp_path / "labels.jsonl", *labels(3))
    import_labels(tmp_path, file)
    with pytest.raises(InputError, match="has its labels already"):
        import_labels(tmp_path, file)
    (tmp_path / "feedback" / "answers.jsonl").unlink()  # as if it had been killed before the answers were written
    assert import_labels(tmp_path, file).startswith("3 labels: ")


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ({"who": 3}, "who = 3: must be a name of at most 80 letters"),
        ({"who": "A" * 81}, "must be a name of at most 80 letters"),
        ({"seconds": -1}, "seconds = -1: must be a number that is not negative"),
        ({"seconds": 10**400}, "must be a number that is not negative"),
        ({"seconds": "4"}, "must be a number that is not negative"),
        ({"rejected": "good 0"}, "the two must differ"),
        ({"chosen": ""}, "needs a prompt, a chosen and a rejected answer"),
        ({"prompt": ""}, "needs a prompt, a chosen and a rejected answer"),
        ({"tie": 1}, "tie = 1: must be true or false"),
        ({"tie": True}, "a tie must have two `answers`, and neither chosen nor rejected"),
        ({"tie": True, "chosen": None, "rejected": None, "answers": ["a"]}, "a tie must have two `answers`"),
        ({"tie": True, "chosen": None, "rejected": None, "answers": ["a", 3]}, "a tie must have two `answers`"),
        ({"tie": True, "chosen": None, "rejected": None, "answers": ["a", "a"]}, "the two must differ"),
        (
            {"tie": True, "chosen": None, "rejected": None, "answers": ["a", "b"], "answers_ended": [1, 2]},
            "answers_ended and answers_stage must have two entries",
        ),
    ],
)
def test_a_row_that_is_no_label_is_named(tmp_path: Path, row: dict[str, Any], wrong: str) -> None:
    file = written(tmp_path / "labels.jsonl", labels(1)[0], {**labels(1)[0], **row})
    with pytest.raises(InputError, match="labels.jsonl:2: .*" + wrong):
        import_labels(tmp_path, file)
    assert not (tmp_path / "feedback").exists()


def test_a_label_without_a_person_or_a_time_is_taken(tmp_path: Path) -> None:
    import_labels(tmp_path, written(tmp_path / "plain.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"}))
    (row,) = read_answers(tmp_path / "feedback")
    assert (row["who"], "seconds" in row) == ("import", False)
