"""The questions that the page asks, and the answers that it saves."""

import threading
from pathlib import Path

import pytest
from tests.web.conftest import call, say

from tercet.errors import FailedError
from tercet.feedback.answers import read_answers
from tercet.feedback.sheets import answers_to, read_sheet, take, write_sheet
from tercet.web.label import Desk


def test_questions_are_asked_in_order_until_all_are_answered(port: int, run: Path) -> None:
    state = call(port, "GET", "/state")[1]
    assert (state["done"], state["total"], state["run"]) == (0, 3, "run")
    assert state["question"] == {
        "sheet": "learned",
        "digest": read_sheet(run / "feedback" / "learned").digest,
        "question": 0,
        "kind": "pairs",
        "look_for": "Higher is better.",
        "left": "videos/learned/0.mp4",
        "right": "videos/learned/1.mp4",
    }
    assert say(port, "learned", 0, "left")[1]["question"]["question"] == 1
    state = say(port, "learned", 1, "unclear")[1]
    assert (state["question"]["kind"], state["question"]["num_steps"]) == ("moments", 12)
    state = say(port, "round-1", 0, [{"step": 3, "call": "bad"}], who=" Bo ")[1]
    assert (state["done"], state["question"]) == (3, None)
    assert [(row["said"], row["who"]) for row in read_answers(run / "feedback").values()] == [
        ("left", "Ana"),
        ("unclear", "Ana"),
        ([{"step": 3, "call": "bad"}], "Bo"),
    ]


def test_an_answer_to_replaced_questions_is_refused(port: int) -> None:
    given = {"sheet": "learned", "digest": "of others", "question": 0, "said": "left", "who": "Ana"}
    status, found, _ = call(port, "POST", "/answer", given)
    assert (status, found["error"]) == (409, "the questions have changed; reload the page")


def test_undo_asks_the_last_question_of_that_person_again(port: int) -> None:
    say(port, "learned", 0, "left", who="Ana")
    say(port, "learned", 1, "left", who="Bo")
    assert call(port, "POST", "/undo", {"who": "Ana"})[1]["question"]["question"] == 0
    status, found, _ = call(port, "POST", "/undo", {"who": "Ana"})
    assert (status, found["error"]) == (409, "you have no answer to undo")
    assert call(port, "POST", "/undo", {"who": "Bo"})[1]["done"] == 0


def test_a_question_takes_one_answer_and_a_used_sheet_takes_none(port: int, run: Path) -> None:
    assert say(port, "learned", 0, "left")[0] == 200
    status, found, _ = say(port, "learned", 0, "right")
    assert (status, found["error"]) == (409, "this question already has an answer")
    say(port, "learned", 1, "right")
    learned = read_sheet(run / "feedback" / "learned")
    take(learned, answers_to([learned])[0])
    assert "the run has used this sheet" in say(port, "learned", 0, "right")[1]["error"]
    assert call(port, "POST", "/undo", {"who": "Ana"})[0] == 409
    state = call(port, "GET", "/state")[1]
    assert (state["done"], state["total"]) == (0, 1)  # what was taken is over


def test_new_questions_of_a_continued_run_appear(port: int, run: Path) -> None:
    write_sheet(run / "feedback" / "round-2", "pairs", "", lambda _: [{"left": "0.mp4", "right": "1.mp4"}])
    assert call(port, "GET", "/state")[1]["total"] == 4


def test_a_video_that_links_outside_the_run_is_not_served(port: int, run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    video = run / "feedback" / "learned" / "0.mp4"
    video.unlink()
    video.symlink_to(tmp_path / "secret")
    assert call(port, "GET", "/videos/learned/0.mp4")[0] == 404
    video.unlink()
    video.symlink_to(run / "feedback" / "learned" / "1.mp4")
    assert call(port, "GET", "/videos/learned/0.mp4")[0] == 200
    assert call(port, "HEAD", "/videos/learned/0.mp4")[1] == b""


def test_damaged_files_are_named_on_the_page_and_at_the_start(port: int, run: Path) -> None:
    file = run / "feedback" / "learned" / "sheet.json"
    text = file.read_text()
    file.write_text(text[:-9])
    status, found, _ = call(port, "GET", "/state")
    assert (status, found["error"].startswith(f"{file}: damaged (")) == (500, True)
    with pytest.raises(FailedError, match=r"sheet\.json: damaged"):
        Desk(run)
    file.write_text(text)
    (run / "feedback" / "answers.jsonl").write_text("[]\n")
    assert "line 1 is not a valid answer" in call(port, "GET", "/state")[1]["error"]
    with pytest.raises(FailedError, match="line 1 is not a valid answer"):
        Desk(run)


def test_of_simultaneous_answers_to_one_question_one_is_saved(port: int, run: Path) -> None:
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(say(port, "learned", 0, "left")[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [409] * 7


def test_an_answer_to_a_changed_question_is_refused(run: Path, port: int) -> None:
    states = run / "feedback" / "learned" / "states.safetensors"
    whole = states.read_bytes()
    states.write_bytes(whole[:-1] + b"?")
    status, found, _ = say(port, "learned", 0, "left")
    assert status == 500 and "have changed since" in found["error"]
    assert not read_answers(run / "feedback")
    states.write_bytes(whole)
    assert say(port, "learned", 0, "left")[0] == 200


def test_missing_questions_are_an_error(run: Path, port: int) -> None:
    (run / "feedback").rename(run / "elsewhere")
    for status, found, _ in (call(port, "GET", "/state"), say(port, "learned", 0, "left")):
        assert status == 500 and found["error"].startswith(f"{run / 'feedback'}: the questions are no longer here")
    (run / "elsewhere").rename(run / "feedback")
    assert call(port, "GET", "/state")[1]["total"] == 3
