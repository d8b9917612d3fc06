"""Text is written as soon as it is certain, and a stop text is never seen."""

from collections.abc import Sequence

import pytest

from tercet.lm.serving.writer import Writer


def of_bytes(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


def written(text: str, *stop: str) -> tuple[list[str], bool]:
    """The pieces that a text is written in, byte by byte up to a stop text, and whether there was one."""
    writer = Writer(of_bytes, stop)
    pieces = []
    for byte in text.encode():
        pieces.append(writer.add(byte))
        if writer.stopped:
            break
    return [*pieces, writer.end()], writer.stopped


def test_a_character_of_several_tokens_is_written_once_and_whole() -> None:
    pieces, _ = written("aé你🙂")
    assert [piece for piece in pieces if piece] == ["a", "é", "你", "🙂"]


def test_a_part_of_a_character_is_written_at_the_end() -> None:
    writer = Writer(of_bytes, ())
    assert (writer.add(0xE4), writer.end()) == ("", "\ufffd")


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one. two", (". ",), "one"),
        ("one.two", (". ",), "one.two"),
        ("aaab", ("aab",), "a"),
        ("x END y STOP", ("STOP", "END"), "x "),
        ("STOP", ("STOP",), ""),
        ("ends with ST", ("STOP",), "ends with ST"),
        ("你好。再见", ("。",), "你好"),
    ],
)
def test_text_from_a_stop_text_on_is_not_written(text: str, stop: tuple[str, ...], expected: str) -> None:
    pieces, stopped = written(text, *stop)
    assert "".join(pieces) == expected
    assert stopped == (expected != text)


def test_only_what_may_begin_a_stop_text_is_held_back() -> None:
    pieces, _ = written("a-b--c", "---")
    assert pieces == ["a", "", "-b", "", "", "--c", ""]


def test_a_decoder_that_changes_its_mind_repeats_nothing() -> None:
    writer = Writer(lambda ids: {1: "one", 2: "One two", 3: "one two three"}[len(ids)], ())
    assert [writer.add(0) for _ in range(3)] == ["one", "", " two three"]
