"""The questions that the page asks, and the answers that it saves."""

import threading
from pathlib import Path

import pytest
from tests.web.conftest import call, say

from tercet.errors import FailedError
from tercet.feedback.answers import read_answers
from tercet.feedback.sheets import answers_to, read_sheet, take, write_sheet
from tercet.web.guard import Refused
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
    assert [(row["said"], row["who"]) for row in read_answers(run / "feedback")] == [
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


def texts(run: Path, name: str, num: int = 4) -> None:
    prompt = [{"role": "user", "text": "Hi"}]
    questions = [{"prompt": prompt, "left": f"a{i}", "right": ""} for i in range(num)]
    write_sheet(run / "feedback" / name, "answers", "", lambda _: questions)


def test_two_pages_are_asked_different_questions_until_one_has_gone(tmp_path: Path) -> None:
    texts(tmp_path, "asked", 2)
    desk = Desk(tmp_path)
    assert desk.state("Ana", "1")["question"]["question"] == 0
    assert desk.state("Bo", "2")["question"]["question"] == 1
    assert desk.state("Ana", "1")["question"]["question"] == 0  # the same again, after a reload
    waiting = desk.state("Cleo", "3")
    assert (waiting["question"], waiting["done"], waiting["total"]) == (None, 0, 2)
    given = {"sheet": "asked", "said": "left", "page": "2", "who": "Bo"}
    assert desk.answer({**given, "question": 1, "seconds": 3})["question"] is None  # Ana has the other one
    key, (page, since) = next(iter(desk._shown.items()))
    desk._shown[key] = page, since - 1000.0  # Ana has closed her page
    assert desk.state("Bo", "2")["question"]["question"] == 0
    desk.close()


def test_a_page_keeps_the_question_that_it_shows(tmp_path: Path) -> None:
    texts(tmp_path, "asked", 1)
    desk = Desk(tmp_path)
    assert desk.state("Ana", "1")["question"]["question"] == 0
    key = next(iter(desk._shown))
    desk._shown[key] = "1", desk._shown[key][1] - 1000.0  # Ana reads a long text
    for page in ("1", "2", ""):  # the others keep nothing
        assert desk.keep({"page": page}) == {}
    assert desk.state("Bo", "2")["question"] is None
    desk._shown[key] = "1", desk._shown[key][1] - 1000.0
    assert desk.keep({"page": "2"}) == {}
    assert desk.state("Bo", "2")["question"]["question"] == 0
    assert desk.keep({"page": "1"}) == {}  # it has gone to Bo
    assert desk._shown[key][0] == "2"
    desk.close()


def test_an_answer_to_a_question_that_another_page_got_later_is_kept_as_well(tmp_path: Path) -> None:
    texts(tmp_path, "asked", 1)
    desk = Desk(tmp_path)
    for who, said in (("Ana", "left"), ("Bo", "right")):
        desk.answer({"sheet": "asked", "question": 0, "said": said, "who": who, "page": who})
    state = desk.state()
    assert state["people"] == {"Ana": 1, "Bo": 1}
    assert state["agreement"] == [{"who": ("Ana", "Bo"), "num": 1, "same": 0.0, "kappa": 0.0}]
    desk.close()


def test_every_person_is_asked_the_same_questions_and_their_agreement_is_shown(tmp_path: Path) -> None:
    texts(tmp_path, "asked")
    desk = Desk(tmp_path, same=1.0)
    said = {"Ana": ["left", "left", "right", "right"], "Bo": ["left", "right", "right", "right"]}
    for index in range(4):
        for who, words in said.items():  # in turns
            question = desk.state(who, who)["question"]
            assert question["question"] == index
            desk.answer({"sheet": "asked", "question": index, "said": words[index], "who": who, "page": who})
    for who in said:
        assert (desk.state(who)["question"], desk.state(who)["done"]) == (None, 4)
    assert desk.state("Cleo")["done"] == 0
    assert desk.num_open() == 0
    # p_o = 3/4; p_e = 1/2 * 1/4 + 1/2 * 3/4 = 1/2
    assert desk.state()["agreement"] == [{"who": ("Ana", "Bo"), "num": 4, "same": 0.75, "kappa": 0.5}]
    desk.close()


def test_a_share_of_the_questions_is_asked_of_all_and_stays_so_after_a_restart(tmp_path: Path) -> None:
    texts(tmp_path, "asked", 40)

    def asked_of(who: str) -> list[int]:
        desk, numbers = Desk(tmp_path, same=0.25), []
        while (question := desk.state(who, who)["question"]) is not None:
            numbers.append(question["question"])
            desk.answer({"sheet": "asked", "question": numbers[-1], "said": "left", "who": who, "page": who})
        desk.close()
        return numbers

    assert asked_of("Ana") == list(range(40))
    shared = asked_of("Bo")
    assert 3 <= len(shared) <= 18
    assert asked_of("Cleo") == shared


def test_only_the_named_sheets_are_asked(tmp_path: Path) -> None:
    texts(tmp_path, "answers", 1)
    texts(tmp_path, "asked", 2)
    desk = Desk(tmp_path, only=["asked"])
    assert desk.state()["total"] == 2
    with pytest.raises(Refused, match="no such sheet"):
        desk.answer({"sheet": "answers", "question": 0, "said": "left", "who": "Ana"})
    desk.close()


@pytest.mark.parametrize("seconds", [-1, 1e7, True, "2", [], float("nan")])
def test_an_impossible_time_is_refused(tmp_path: Path, seconds: object) -> None:
    texts(tmp_path, "asked", 1)
    desk = Desk(tmp_path)
    with pytest.raises(Refused, match="must be a number from 0"):
        desk.answer({"sheet": "asked", "question": 0, "said": "left", "who": "Ana", "seconds": seconds})
    desk.answer({"sheet": "asked", "question": 0, "said": "left", "who": "Ana", "seconds": 1.26})
    assert read_answers(tmp_path / "feedback")[0]["seconds"] == 1.3
    desk.close()
