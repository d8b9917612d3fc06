"""`tercet lm data` counts rightly and shows everything once, before anything is trained."""

import json
from io import StringIO
from pathlib import Path

import pytest

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.splits import StepExamples
from tercet.lm.inspect import Lengths, count_tokens, in_common, num_leaks, run, summarise
from tercet.lm.text.encoder import Encoder
from tercet.runs.screen import screen


def example(prompt: str, chosen: str = "So.", rejected: str | None = "No.") -> Example:
    return Example((Message("user", prompt),), chosen, rejected, "toy", "toy:1")


def printed(config: LmConfig) -> str:
    console = screen(width=160, record=True, file=StringIO())
    run(config, console)
    return console.export_text()


def test_the_summary_counts_by_hand() -> None:
    summary = summarise(
        [
            example("Why?", "long one", "no"),
            example("why", "long one", "no"),  # the same prompt, and the same answers
            example("Why?", "no", "long one"),
            example("How?", "same", "size"),
            example("Who?", "me", None),
        ]
    )
    assert (summary.num_examples, summary.num_pairs, summary.num_ties) == (5, 4, 1)
    assert (summary.num_repeated_prompts, summary.num_duplicates) == (2, 1)
    assert summary.longer_is_better == (1 + 1 + 0 + 0.5) / 4


def test_lengths_are_middle_nine_in_ten_and_longest() -> None:
    assert Lengths.of(list(range(1, 12))) == Lengths(6, 10, 11)
    assert Lengths.of([]) == Lengths(0, 0, 0)


def test_tokens_are_counted_by_hand() -> None:
    settings = {"style": "plain", "max_prompt_tokens": 5, "max_response_tokens": 3}
    encoder = Encoder.of(LmConfig.model_validate({"model": {"path": "random"}, "data": settings}))
    found = count_tokens([example("Why?", "So.", "No"), example("Why not?", "", None)], encoder)
    assert (found.prompt.middle, found.prompt.longest) == (7, 9)  # bytes and a line end
    assert (found.chosen, found.rejected) == (Lengths(4, 4, 4), Lengths(3, 3, 3))  # with EOS
    assert (found.too_long, found.cut) == (0.5, 0.5)


def test_conversations_in_two_sets_are_counted() -> None:
    sets = {"a": [example("Why?"), example("How?")], "b": [example("why"), example("WHY!")], "c": [example("Who?")]}
    assert in_common(sets) == {("a", "b"): 1}


def test_leaks_are_seen_across_steps() -> None:
    clean = StepExamples({"a": [example("Why?")]}, {"a": [example("How?")]}, {"a": []}, {})
    assert num_leaks([clean]) == 0
    leaky = StepExamples({"a": [example("how")]}, {"a": []}, {"a": []}, {})
    assert num_leaks([clean, leaky]) == 1


def test_everything_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"[bold]Why {i}?", "chosen": "Because it is.", "rejected": "No."} for i in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    text = printed(LmConfig.model_validate({"data": {"train": [str(path)], "split": "2,4,4"}}))
    assert "[bold]Why" in text  # texts are data, not markup
    assert "Because it is." in text
    assert "100%" in text  # chosen is the longer
    for step in ("sft", "reward", "ppo"):
        assert step in text
    assert "leaks between training and held-out data: 0" in text


def test_the_tokens_of_each_step_are_shown_in_a_narrow_terminal(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Why {i}?", "chosen": "Yes" * (1 + i % 2), "rejected": "Yess"} for i in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    sections = {"model": {"path": "random"}, "data": {"train": [str(path)], "style": "plain", "max_response_tokens": 3}}
    console = screen(width=80, record=True, file=StringIO())
    run(LmConfig.model_validate(sections), console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for step, row in (("sft", "▸Y·e·s"), ("ppo", "▸sampled: up to")):
        assert row in text.partition(f"\n{step}, pairs.jsonl:")[2]
    assert "reward cannot run on this data" in text and "equal after" in text  # in what is left of them


def test_data_that_the_template_refuses_is_shown_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text(json.dumps({"prompt": "Why?", "chosen": "So."}) + "\n", encoding="utf-8")
    template = "{% if messages[0].content == 'Why?' %}{{ raise_exception('never why') }}{% endif %}"
    template += "{% for m in messages %}{{ m.content }}{% endfor %}"
    model = {"path": "random", "chat_template": template}
    text = printed(LmConfig.model_validate({"model": model, "data": {"train": [str(path)], "style": "chat"}}))
    # the console wraps its lines, and how long the folder's name is varies
    assert "talks.jsonl:1: the chat template refuses a conversation of user: never why" in " ".join(text.split())


def test_a_set_that_one_step_cannot_use_is_shown_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"Why {i}?"}) for i in range(40)), encoding="utf-8")
    text = printed(LmConfig.model_validate({"data": {"train": [str(path)]}}))
    assert "sft cannot run on this data" in text
    assert "ppo" in text


def test_nothing_to_show_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"data\.train"):
        run(LmConfig.model_validate({}))
