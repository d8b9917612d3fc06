"""Sheets are there wholly or not at all; what a run has taken stays; only an answer is an answer."""

import json
from pathlib import Path

import pytest

from tercet.errors import FailedError, WaitingError
from tercet.feedback.answers import AnswerBook, by_question, read_answers
from tercet.feedback.sheets import Kind, Sheet, answers_to, check_whole, problem, read_sheet, sheets, take, write_sheet


def put(place: Path, num: int = 2) -> Sheet:
    write_sheet(
        place, "pairs", "Better is higher.", lambda _: [{"left": f"{i}.mp4", "right": "x.mp4"} for i in range(num)]
    )
    return read_sheet(place)


def words(asked: list[Sheet]) -> list[list[object]]:
    return [[row["said"] for row in rows] for rows in answers_to(asked)]


def test_a_sheet_comes_back_and_numbers_in_names_count_as_numbers(tmp_path: Path) -> None:
    for name in ("round-10", "round-9", "learned", "held_out"):
        put(tmp_path / name)
    found = sheets(tmp_path)
    assert [sheet.path.name for sheet in found] == ["held_out", "learned", "round-9", "round-10"]
    assert (found[0].kind, found[0].look_for, len(found[0].questions)) == ("pairs", "Better is higher.", 2)


def test_a_sheet_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def fails(folder: Path) -> list[dict[str, str]]:
        (folder / "0.mp4").write_text("half")
        raise FailedError("no OpenGL")

    with pytest.raises(FailedError, match="no OpenGL"):
        write_sheet(tmp_path / "learned", "pairs", "", fails)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_sheet_is_named(tmp_path: Path) -> None:
    put(tmp_path / "learned")
    (tmp_path / "learned" / "sheet.json").write_text("{")
    with pytest.raises(FailedError, match=r"sheet.json: damaged .*; remove .*learned, and the run asks"):
        sheets(tmp_path)


PAIR = {"left": "0.mp4", "right": "1.mp4"}
EPISODE = {"video": "0.mp4", "num_steps": 9, "steps_a_second": 20}
THUMB = {"prompt": [{"role": "user", "text": "Hello"}], "answer": "a"}
TEXTS = {"prompt": [{"role": "user", "text": "Hello"}], "left": "a", "right": "b"}


@pytest.mark.parametrize(
    ("kind", "change", "wrong"),
    [
        ("pairs", {"questions": {"0": PAIR}}, "questions is missing or not of the type list"),
        ("pairs", {"questions": [PAIR, "left"]}, "question 1: left must be a valid str"),
        ("pairs", {"questions": [PAIR, {"left": "0.mp4"}]}, "question 1: right must be a valid str"),
        ("pairs", {"look_for": None}, "look_for is missing"),
        ("pairs", {"digest": 3}, "digest is missing or not of the type str"),
        ("pairs", {"kind": ["pairs"]}, "kind is missing or not of the type str"),
        ("moments", {"questions": [EPISODE | {"num_steps": "9"}]}, "question 0: num_steps"),
        ("moments", {"questions": [EPISODE | {"num_steps": True}]}, "question 0: num_steps"),
        ("moments", {"questions": [EPISODE | {"steps_a_second": 0}]}, "question 0: steps_a_second"),
        ("answers", {"questions": [TEXTS | {"prompt": "Hello"}]}, "question 0: prompt must be a valid list"),
        ("answers", {"questions": [TEXTS | {"prompt": [{"role": "user"}]}]}, "question 0: prompt must be turns"),
        ("answers", {"questions": [TEXTS | {"left": "\ud800"}]}, "lone surrogate"),
        ("thumbs", {"questions": [THUMB | {"answer": None}]}, "question 0: answer must be a valid str"),
        ("thumbs", {"questions": [THUMB | {"prompt": ["Hello"]}]}, "question 0: prompt must be turns"),
    ],
)
def test_a_sheet_of_wrong_types_is_named(tmp_path: Path, kind: Kind, change: dict[str, object], wrong: str) -> None:
    question: dict[str, object] = {"pairs": PAIR, "moments": EPISODE, "answers": TEXTS, "thumbs": THUMB}[kind]
    write_sheet(tmp_path / "learned", kind, "", lambda _: [question, question])
    file = tmp_path / "learned" / "sheet.json"
    assert len(read_sheet(tmp_path / "learned").questions) == 2
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(FailedError) as caught:
        read_sheet(tmp_path / "learned")
    assert str(caught.value).startswith(f"{file}: damaged (")
    assert wrong in str(caught.value)


def test_one_flipped_bit_beside_the_questions_is_noticed(tmp_path: Path) -> None:
    def write(folder: Path) -> list[dict[str, str]]:
        (folder / "states.safetensors").write_bytes(b"the run's own")
        (folder / "0.mp4").write_bytes(b"film")
        return [PAIR]

    write_sheet(tmp_path / "learned", "pairs", "", write)
    sheet = read_sheet(tmp_path / "learned")
    take(sheet, [])
    (sheet.path / "0.mp4").write_bytes(b"another encoder's film")
    (sheet.path / ".DS_Store").write_bytes(b"of a copy by way of another system")
    check_whole(sheet)
    (sheet.path / "states.safetensors").write_bytes(b"the run's owo")
    with pytest.raises(FailedError, match=r"learned: the questions or their files have changed"):
        check_whole(sheet)


@pytest.mark.parametrize("text", ["", "{", "[]", "[1, 2]", "null", '[{"said": "left"}, {"said": "up"}]'])
def test_damaged_answers_that_a_run_has_taken_are_named(tmp_path: Path, text: str) -> None:
    sheet = put(tmp_path / "learned")
    (sheet.path / "taken.json").write_text(text)
    with pytest.raises(FailedError, match=r"taken\.json: damaged .*; remove this file"):
        answers_to([sheet])


def test_answers_are_taken_when_all_are_there_and_then_stay(tmp_path: Path) -> None:
    feedback = tmp_path / "my run" / "feedback"
    both = [put(feedback / "learned"), put(feedback / "held_out", 1)]
    with AnswerBook(feedback) as book:
        book.write(both[0].key(1), "right", "Ana")
        book.write(both[1].key(0), "unclear", "Ana")
        with pytest.raises(WaitingError, match="1 of 3 questions wait for a person") as caught:
            answers_to(both)
        assert f"`tercet label '{tmp_path / 'my run'}'`, then give the same command again" in str(caught.value)
        book.write(both[0].key(0), "equal", "Ana")
        assert words(both) == [["equal", "right"], ["unclear"]]
        book.write(both[0].key(0), "left", "Bo")
        assert words(both)[0][0] == "equal"  # one of each: no majority
        book.write(both[0].key(0), None, "Ana")
        assert words(both)[0][0] == "left"
        for sheet, rows in zip(both, answers_to(both), strict=True):
            assert not sheet.is_taken()
            take(sheet, rows)
        book.write(both[0].key(0), "right", "Bo")
        book.write(both[1].key(0), None, "Ana")
    assert words(both) == [["left", "right"], ["unclear"]]
    assert [row["who"] for row in answers_to(both)[0]] == ["Bo", "Ana"]


def test_answers_stay_with_the_questions_that_were_asked(tmp_path: Path) -> None:
    def asked(states: bytes) -> Sheet:
        def write(folder: Path) -> list[dict[str, str]]:
            (folder / "states.safetensors").write_bytes(states)
            (folder / "0.mp4").write_bytes(b"an encoder may write the same film in another way")
            return [{"left": "0.mp4", "right": "1.mp4"}]

        write_sheet(tmp_path / "learned", "pairs", "", write)
        return read_sheet(tmp_path / "learned")

    with AnswerBook(tmp_path) as book:
        book.write(asked(b"one").key(0), "left", "Ana")
        other = asked(b"another")  # the same numbers and names of files
        assert other.answers(by_question(read_answers(tmp_path))) == [None]
        book.write(other.key(0), "right", "Ana")
    assert words([other]) == [["right"]]
    assert words([asked(b"one")]) == [["left"]]


def test_a_sheet_of_an_earlier_version_takes_the_answers_of_that_version(tmp_path: Path) -> None:
    put(tmp_path / "learned", 1)
    file = tmp_path / "learned" / "sheet.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "digest"}))
    row = {"sheet": "learned", "question": 0, "said": "left", "who": "Ana", "when": "2026-01-01T00:00:00+00:00"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(row) + "\n")
    assert words([read_sheet(tmp_path / "learned")]) == [["left"]]
    assert put(tmp_path / "learned", 1).answers(by_question(read_answers(tmp_path))) == [None]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["left", "left", "right"], "left"),
        (["left", "right"], "equal"),
        (["left", "right", "equal"], "equal"),
        (["right", "unclear"], "right"),
        (["unclear", "unclear"], "unclear"),
        (["unclear", "unclear", "left"], "left"),
    ],
)
def test_the_majority_counts_and_unclear_is_no_vote(tmp_path: Path, said: list[str], expected: str) -> None:
    sheet = put(tmp_path / "learned", 1)
    with AnswerBook(tmp_path) as book:
        for number, word in enumerate(said):
            book.write(sheet.key(0), word, f"person {number}")
    (rows,) = answers_to([sheet])
    assert rows[0]["said"] == expected
    take(sheet, rows)
    assert words([sheet]) == [[expected]]


def test_thumbs_without_a_majority_are_unclear_and_of_marks_the_last_count(tmp_path: Path) -> None:
    turns = [{"role": "user", "text": "Hi"}]
    write_sheet(tmp_path / "thumbs", "thumbs", "", lambda _: [{"prompt": turns, "answer": ""}])
    write_sheet(tmp_path / "marks", "moments", "", lambda _: [{"video": "0.mp4", "num_steps": 9, "steps_a_second": 2}])
    thumbs, marks = read_sheet(tmp_path / "thumbs"), read_sheet(tmp_path / "marks")
    with AnswerBook(tmp_path) as book:
        for who, word, step in (("Ana", "up", 1), ("Bo", "down", 2)):
            book.write(thumbs.key(0), word, who)
            book.write(marks.key(0), [{"step": step, "call": "good"}], who)
    assert words([thumbs, marks]) == [["unclear"], [[{"step": 2, "call": "good"}]]]


def test_a_row_that_is_no_answer_leaves_its_question_open(tmp_path: Path) -> None:
    sheet = put(tmp_path / "learned", 1)
    with AnswerBook(tmp_path) as book:
        book.write(sheet.key(0), "better", "another program")
    with pytest.raises(WaitingError, match="1 of 1 questions wait"):
        answers_to([sheet])


@pytest.mark.parametrize(
    ("index", "said", "wrong"),
    [
        (0, "left", ""),
        (1, "unclear", ""),
        (2, "left", "question 2: learned has 0 to 1"),
        (-1, "left", "question -1"),
        (True, "left", "question True"),
        ("0", "left", "question '0'"),
        (None, "left", "question None"),
        (0, "better", "must be one of left, right, equal, unclear"),
        (0, None, "said None"),
        (0, ["left"], "said ['left']"),
    ],
)
def test_only_an_answer_answers_a_pair(tmp_path: Path, index: object, said: object, wrong: str) -> None:
    found = problem(put(tmp_path / "learned"), index, said)
    assert wrong in found if wrong else found == ""


@pytest.mark.parametrize(
    ("said", "fine"),
    [
        ([], True),
        ([{"step": 0, "call": "good"}, {"step": 9, "call": "bad"}], True),
        ([{"step": 10, "call": "good"}], False),
        ([{"step": -1, "call": "good"}], False),
        ([{"step": 1.5, "call": "good"}], False),
        ([{"step": True, "call": "good"}], False),
        ([{"step": 1, "call": "fine"}], False),
        ([{"step": 1, "call": "good", "more": "\ud800"}], False),
        ([{"call": "good"}], False),
        (["good"], False),
        ("good", False),
        (None, False),
    ],
)
def test_only_marks_within_the_episode_answer_it(tmp_path: Path, said: object, fine: bool) -> None:
    write_sheet(
        tmp_path / "learned", "moments", "", lambda _: [{"video": "0.mp4", "num_steps": 10, "steps_a_second": 20}]
    )
    assert (problem(read_sheet(tmp_path / "learned"), 0, said) == "") == fine
