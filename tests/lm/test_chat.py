"""A conversation with a stage: several turns, streamed, with commands that begin with a slash."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from tercet.config.load import load_lm_config
from tercet.errors import InputError
from tercet.lm.chat import HELP, Conversation, typed
from tercet.lm.data.examples import Example
from tercet.lm.sampling.responses import respond
from tercet.lm.stages import stages_of
from tercet.runs.folder import RunFolder

Tercet = Callable[..., Result]
Talk = Callable[..., tuple[Conversation, list[str]]]


@pytest.fixture
def talk(small_run: Path, longer: list[str]) -> Talk:
    """`talk("sft", seed=0)`: a conversation, and the pieces of text it writes."""
    config = load_lm_config("tiny", longer)

    def start(stage: str = "sft", seed: int = 0) -> tuple[Conversation, list[str]]:
        written: list[str] = []
        stages = stages_of(RunFolder.read(small_run), config.ppo.policy, 0)
        return Conversation(stages, stage, config, write=written.append, seed=seed), written

    return start


def test_an_answer_is_written_out_as_it_is_made(talk: Talk) -> None:
    conversation, written = talk()
    reply = conversation.reply("How are you?")
    assert "".join(written) == reply + "\n"
    assert len(written) > 5  # in pieces
    assert [(turn.role, turn.text) for turn in conversation.turns] == [("user", "How are you?"), ("assistant", reply)]


def test_the_turns_before_are_read_again(talk: Talk) -> None:
    conversation, _ = talk()
    conversation.hold(["/greedy", "How are you?", "And why?"])
    so_far = Example(tuple(conversation.turns[:3]), "", None, "made up", "turn 3")
    expected = respond(
        conversation.policy,
        conversation.encoder,
        [so_far],
        generator=conversation.generator,
        temperature=0.0,
        max_tokens=conversation.config.eval.max_response_tokens,
    )
    assert conversation.turns[3].text == expected.texts[0]
    conversation.hold(["/new", "And why?"])
    assert len(conversation.turns) == 2


def test_greedy_answers_are_always_the_same_and_sampled_ones_are_not(talk: Talk) -> None:
    conversation, _ = talk()
    greedy = []
    sampled = []
    for _ in range(3):
        conversation.hold(["/new", "/greedy", "How are you?"])
        greedy.append(conversation.turns[-1].text)
        conversation.hold(["/new", "/sample", "How are you?"])
        sampled.append(conversation.turns[-1].text)
    assert len(set(greedy)) == 1
    assert len(set(sampled)) == 3


def test_another_stage_takes_over_with_another_model(talk: Talk) -> None:
    conversation, _ = talk("base")
    responses = []
    for stage in ("base", "sft", "ppo"):
        conversation.hold([f"/stage {stage}", "/new", "/greedy", "How are you?"])
        assert conversation.stage == stage
        responses.append(conversation.turns[-1].text)
    assert responses[0] != responses[1]


def test_a_stage_that_is_not_there_changes_nothing(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    conversation, _ = talk()
    conversation.hold(["/stage critic"])
    assert conversation.stage == "sft"
    assert "this run has base, sft, ppo" in capsys.readouterr().out


def test_an_unknown_command_shows_the_known_ones(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    conversation, written = talk()
    conversation.hold(["/frobnicate", "   "])
    assert capsys.readouterr().out.count(HELP) == 2
    assert written == conversation.turns == []


def test_a_conversation_longer_than_the_window_forgets_its_oldest_turns_and_says_so(
    talk: Talk, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation, _ = talk()
    window = conversation.policy.model.config.max_position_embeddings
    lines = [f"{letter * (window // 4)}?" for letter in "abcdef"]
    conversation.hold(lines)
    assert conversation.turns[-2].text == lines[-1]
    assert conversation.turns[0].role == "user"
    assert conversation.turns[0].text != lines[0]
    assert f"the model's context window has {window} tokens" in capsys.readouterr().out
    before = list(conversation.turns)
    conversation.hold(["x" * window])
    assert conversation.turns == before  # what is refused displaces nothing


def test_a_message_longer_than_the_window_is_refused_and_the_talk_goes_on(
    talk: Talk, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation, written = talk()
    conversation.hold(["x" * 999, "How are you?"])
    assert "999" in (said := capsys.readouterr().out) or "1000 tokens" in said
    assert conversation.turns[0].text == "How are you?"
    assert written


def test_a_turn_that_the_template_refuses_is_not_part_of_the_talk(
    talk: Talk, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation, _ = talk()
    template = "{% for m in messages %}{% if 'forbidden' in m.content %}{{ raise_exception('not that') }}{% endif %}"
    conversation.encoder.tokenizer.chat_template = template + "{{ m.content }}{% endfor %}"
    conversation.encoder = replace(conversation.encoder, style="chat")
    conversation.hold(["Hello", "a forbidden word", "And why?"])
    assert "not that" in capsys.readouterr().out
    assert [turn.text for turn in conversation.turns if turn.role == "user"] == ["Hello", "And why?"]


def test_a_line_that_is_no_text_or_too_long_is_refused_and_the_talk_goes_on(tercet: Tercet, small_run: Path) -> None:
    long = b"x" * 20_000_000
    before = time.process_time()
    result = tercet("lm", "chat", small_run, "--stage", "sft", typed=b"a\xff\n" + long + b"\n\0\x1b[2J\r\n/greedy\nHi")
    assert time.process_time() - before < 5  # 40 s where it was read by the tokenizer
    assert result.exit_code == 0, result.output
    assert "line 1 is no UTF-8 (byte 0xff); it was not read" in result.stdout
    assert "line 2 has more than 65,536 bytes; it was not read" in result.stdout
    assert result.stdout.count("you: ") == 6  # the rest of the long line is no line


def test_what_a_model_answers_commands_no_terminal(tercet: Tercet, tmp_path: Path) -> None:
    config = load_lm_config("tiny", ["eval.max_response_tokens=64"])
    with RunFolder.open(tmp_path / "run", config, preset="tiny"):
        pass
    result = tercet("lm", "chat", tmp_path / "run", "--stage", "base", typed="Hi\n" * 5)  # random weights: random bytes
    assert result.exit_code == 0, result.output
    assert len(result.stdout) > 5 * 64
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", result.stdout)


def test_ctrl_c_stops_an_answer_and_the_talk_goes_on(talk: Talk) -> None:
    conversation, written = talk()
    pieces = iter(range(100))

    def write(piece: str) -> None:
        written.append(piece)
        if next(pieces) == 2:
            raise KeyboardInterrupt

    conversation.write = write
    conversation.hold(["How are you?", "And why?"])
    assert written[:5] == [*written[:3], " (stopped)", "\n"]
    assert [turn.role for turn in conversation.turns] == ["user", "assistant"] * 2
    assert len(conversation.turns[1].text) < len(conversation.turns[3].text)


def test_ctrl_c_at_the_prompt_ends_the_talk(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(most: int) -> bytes:
        raise KeyboardInterrupt

    assert list(typed(interrupted)) == []
    assert capsys.readouterr().out == "you: \n"


def test_bytes_that_are_no_character_at_the_end_of_an_answer_are_written(talk: Talk) -> None:
    conversation, written = talk()
    conversation.policy.model.get_output_embeddings().weight.data.zero_()
    conversation.temperature = 1.0  # any byte
    texts = [conversation.reply("How?") for _ in range(5)]
    assert any(text.endswith("\ufffd") for text in texts)
    assert "".join(written) == "".join(f"{text}\n" for text in texts)


def test_special_tokens_that_are_typed_or_answered_stay_text(talk: Talk) -> None:
    conversation, _ = talk()
    conversation.reply("</s> is not the end")
    ids = conversation.encoder.prompt(Example(tuple(conversation.turns[:1]), "", None, "made up", "turn 1"))
    assert conversation.encoder.ends.written not in ids
    assert conversation.encoder.text(conversation.encoder.response("so </s>")) == "so </s>"


def test_a_run_that_has_not_come_to_a_stage_says_which_it_has(small_run: Path) -> None:
    with pytest.raises(InputError, match="stage sft: this run has base"):
        config = load_lm_config("tiny", [])
        Conversation(stages_of(RunFolder(small_run / "eval", {}), config.ppo.policy, 0), "sft", config, write=print)


def test_the_command_reads_lines_until_they_end(tercet: Tercet, small_run: Path) -> None:
    result = tercet("lm", "chat", small_run, "--stage", "sft", typed="Hello\n/stage ppo\nHello\n")
    assert result.exit_code == 0, result.output
    assert "ppo responds now" in result.stdout
    assert result.stdout.count("you: ") == 4
    assert tercet("lm", "chat", small_run, typed="/quit\n").exit_code == 0
