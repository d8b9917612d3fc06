"""Answers outlive a kill at any moment, and the last word counts."""

from pathlib import Path

import pytest

from tercet.errors import InputError
from tercet.feedback.answers import AnswerBook, read_answers


def said(feedback: Path) -> dict[tuple[str, str, int], object]:
    return {key: row["said"] for key, row in read_answers(feedback).items()}


def test_the_last_word_counts_and_an_answer_can_be_taken_back(tmp_path: Path) -> None:
    with AnswerBook(tmp_path) as book:
        book.write(("learned", "", 0), "left", "Ana")
        book.write(("learned", "", 1), "equal", "Ana")
        book.write(("learned", "", 0), None, "Ana")
        book.write(("round-1", "", 1), [{"step": 3, "call": "good"}], "Bo")
    assert said(tmp_path) == {("learned", "", 1): "equal", ("round-1", "", 1): [{"step": 3, "call": "good"}]}
    row = read_answers(tmp_path)["learned", "", 1]
    assert (row["who"], row["when"][:2], row["when"][-6:]) == ("Ana", "20", "+00:00")
    with AnswerBook(tmp_path) as book:
        book.write(("learned", "", 0), "right", "Bo")
    assert said(tmp_path)["learned", "", 0] == "right"
    assert list(read_answers(tmp_path))[-1] == ("learned", "", 0)  # in the order in which they were given


def test_an_answer_is_on_the_disk_before_the_next_one(tmp_path: Path) -> None:
    book = AnswerBook(tmp_path)
    book.write(("learned", "", 0), "left", "Ana")
    assert said(tmp_path) == {("learned", "", 0): "left"}
    book.close()


def test_a_row_that_a_kill_tore_spoils_neither_those_before_nor_those_behind(tmp_path: Path) -> None:
    with AnswerBook(tmp_path) as book:
        book.write(("learned", "", 0), "left", "Ana")
        book.write(("learned", "", 1), "right", "Ana")
    file = tmp_path / "answers.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    with AnswerBook(tmp_path) as book:
        book.write(("learned", "", 2), "equal", "Ana")
    assert said(tmp_path) == {("learned", "", 0): "left", ("learned", "", 2): "equal"}


def test_a_name_may_hold_what_unicode_calls_the_end_of_a_line(tmp_path: Path) -> None:
    with AnswerBook(tmp_path) as book:
        book.write(("learned", "", 0), "left", "Ana\u2028Maria")
    assert read_answers(tmp_path)["learned", "", 0]["who"] == "Ana\u2028Maria"


@pytest.mark.parametrize("copied", ["", '{"sheet": "torn", "quest'])
def test_answers_go_to_the_file_that_was_put_in_place(tmp_path: Path, copied: str) -> None:
    with AnswerBook(tmp_path) as book:
        book.write(("learned", "", 0), "left", "Ana")
        other = tmp_path / "from elsewhere"
        other.write_text((tmp_path / "answers.jsonl").read_text() + copied)
        other.rename(tmp_path / "answers.jsonl")  # as rsync and mv do
        book.write(("learned", "", 1), "right", "Ana")
        assert said(tmp_path) == {("learned", "", 0): "left", ("learned", "", 1): "right"}
        with pytest.raises(InputError, match="another `tercet label`"):
            AnswerBook(tmp_path)
        (tmp_path / "answers.jsonl").unlink()
        book.write(("learned", "", 2), "equal", "Ana")
        assert said(tmp_path) == {("learned", "", 2): "equal"}


def test_one_process_at_a_time_takes_answers_down(tmp_path: Path) -> None:
    with AnswerBook(tmp_path), pytest.raises(InputError, match="another `tercet label` takes answers down"):
        AnswerBook(tmp_path)
    AnswerBook(tmp_path).close()
