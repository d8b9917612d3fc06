"""Answers outlive a kill at any moment, and the last word counts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tercet.errors import FailedError, InputError
from tercet.feedback.answers import Answer, AnswerBook, by_question, key_of, read_answers


def said(feedback: Path) -> dict[tuple[str, str, int], object]:
    return {key_of(row): row["said"] for row in read_answers(feedback)}


def test_the_last_word_counts_and_an_answer_can_be_taken_back(tmp_path: Path) -> None:
    with AnswerBook(tmp_path) as book:
        book.write(("learned", "", 0), "left", "Ana")
        book.write(("learned", "", 1), "equal", "Ana")
        book.write(("learned", "", 0), None, "Ana")
        book.write(("round-1", "", 1), [{"step": 3, "call": "good"}], "Bo")
    assert said(tmp_path) == {("learned", "", 1): "equal", ("round-1", "", 1): [{"step": 3, "call": "good"}]}
    row = read_answers(tmp_path)[0]
    assert (row["who"], row["when"][:2], row["when"][-6:]) == ("Ana", "20", "+00:00")
    with AnswerBook(tmp_path) as book:
        book.write(("learned", "", 0), "right", "Bo")
    assert said(tmp_path)["learned", "", 0] == "right"
    assert key_of(read_answers(tmp_path)[-1]) == ("learned", "", 0)  # in the order in which they were given


def test_two_people_have_an_answer_each_and_take_back_their_own(tmp_path: Path) -> None:
    key = ("learned", "", 0)
    with AnswerBook(tmp_path) as book:
        book.write_all([Answer(key, "left", "Ana", 2.5), Answer(key, "right", "Bo"), Answer(key, "equal", "Ana")])
        (rows,) = by_question(read_answers(tmp_path)).values()
        assert [(row["who"], row["said"], row.get("seconds")) for row in rows] == [
            ("Bo", "right", None),
            ("Ana", "equal", None),
        ]
        book.write(key, None, "Ana")
        assert [row["who"] for row in read_answers(tmp_path)] == ["Bo"]
        book.write(key, "left", "Ana", seconds=1.5)
    assert read_answers(tmp_path)[-1]["seconds"] == 1.5


def test_seconds_that_are_no_number_are_named(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text(json.dumps(WHOLE | {"seconds": "2"}) + "\n")
    with pytest.raises(FailedError, match="seconds is of the type str"):
        read_answers(tmp_path)


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
    assert read_answers(tmp_path)[0]["who"] == "Ana\u2028Maria"


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


WHOLE = {"sheet": "learned", "digest": "", "question": 0, "said": "left", "who": "Ana", "when": "2026"}
ALL_BUT_ITS_END = len(json.dumps(WHOLE | {"said": "right", "when": "2026-01-01T00:00:00+00:00", "check": "01234567"}))
SOURCE = Path(__file__).parents[2] / "src"
# a file may hold as many bytes as the first argument says: three answers are refused, and with more room one is taken
REFUSALS = """
import resource, sys
from pathlib import Path
from tercet.errors import FailedError
from tercet.feedback.answers import AnswerBook
book = AnswerBook(Path(sys.argv[2]))
book.write(("learned", "", 0), "left", "Ana")
resource.setrlimit(resource.RLIMIT_FSIZE, (book.path.stat().st_size + int(sys.argv[1]), resource.RLIM_INFINITY))
for index in (1, 2, 3):
    try:
        book.write(("learned", "", index), "right", "Ana")
    except FailedError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
book.write(("learned", "", 4), "equal", "Ana")
book.close()
"""


@pytest.mark.parametrize("room", [0, 60, ALL_BUT_ITS_END])
def test_an_answer_that_finds_no_room_is_not_written_later(tmp_path: Path, room: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", REFUSALS, str(room), str(tmp_path)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    refused = "answers.jsonl: this answer could not be saved (File too large); earlier answers are saved."
    assert [refused in line for line in output.splitlines()] == [True] * 3
    assert said(tmp_path) == {("learned", "", 0): "left", ("learned", "", 4): "equal"}
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("[1]", "must be an object"),
        (json.dumps(WHOLE)[:-9], "delimiter"),
        (json.dumps(WHOLE | {"sheet": ["learned"]}), "sheet is of the type list"),
        (json.dumps(WHOLE | {"question": True}), "question is of the type bool"),
        (json.dumps(WHOLE | {"who": None}), "who is of the type NoneType"),
        (json.dumps(WHOLE | {"said": {"step": 1}}), "said is of the type dict"),
        (json.dumps({key: WHOLE[key] for key in ("sheet", "digest", "question", "who", "when")}), "said is missing"),
        (json.dumps(WHOLE)[:-1] + ', "said": "right"}', "'said' is given twice"),
        (json.dumps(WHOLE | {"who": "\ud800"}), "lone surrogate"),
        (json.dumps(WHOLE).replace('"2026"', "NaN"), "NaN is not a finite number"),
        ("[" * 100_000, "nested too deeply"),
        ("\0\0\0", "Expecting value"),
        (json.dumps(WHOLE | {"check": "01234567"}), "its contents do not match its check"),
    ],
)
def test_a_row_that_is_no_answer_is_named_with_its_line(tmp_path: Path, line: str, wrong: str) -> None:
    (tmp_path / "answers.jsonl").write_text(json.dumps(WHOLE) + "\n\n" + line + "\n")
    with pytest.raises(FailedError) as caught:
        read_answers(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'answers.jsonl'}: line 3 is not a valid answer (")
    assert wrong in str(caught.value)
    assert "remove this line, and its question is asked again" in str(caught.value)


def test_one_flipped_bit_of_an_answer_never_makes_another_one(tmp_path: Path) -> None:
    with AnswerBook(tmp_path) as book:
        book.write(("learned", "", 1), [{"step": 3, "call": "good"}], "Ana")
    file, key = tmp_path / "answers.jsonl", ("learned", "", 1)
    written, answer = file.read_bytes(), said(tmp_path)[key]
    noticed, bits = 0, range(0, 8 * len(written), 11)
    for bit in bits:
        changed = bytearray(written)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        try:
            assert said(tmp_path) in ({key: answer}, {})
        except FailedError:
            noticed += 1
    assert noticed > 0.9 * len(bits)


def test_a_last_row_that_lacks_its_line_end_counts_and_stays(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text(json.dumps(WHOLE))
    with AnswerBook(tmp_path) as book:
        book.write(("learned", "", 1), "right", "Ana")
    assert said(tmp_path) == {("learned", "", 0): "left", ("learned", "", 1): "right"}


def test_a_folder_or_a_pipe_in_place_of_the_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "answers.jsonl")
    for does in (read_answers, AnswerBook):
        with pytest.raises(FailedError, match=r"answers\.jsonl: must be a file"):
            does(tmp_path)


def test_one_process_at_a_time_takes_answers_down(tmp_path: Path) -> None:
    with AnswerBook(tmp_path), pytest.raises(InputError, match="another `tercet label` is running"):
        AnswerBook(tmp_path)
    AnswerBook(tmp_path).close()
