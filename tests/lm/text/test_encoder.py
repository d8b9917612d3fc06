"""The limits of prompts, answers and windows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.splits import StepExamples
from tercet.lm.models.roles import load_policy
from tercet.lm.text.encoder import Encoder, check_conversations, check_tokenizers
from tercet.lm.text.tokenizers import byte_tokenizer

MakeConfig = Callable[..., LmConfig]

LONG_TEMPLATE = (
    "{% for m in messages %}{% if loop.first %}"
    + "You are a helpful assistant, and much else besides. " * 4
    + "{% endif %}"
    "{{ m.content }}{% endfor %}"
)


def asking(text: str, location: str = "data.jsonl:1") -> Example:
    return Example((Message("user", text),), "An answer.", None, "made up", location)


def test_one_tokenizer_and_style_for_prompts_and_answers(make_config: MakeConfig) -> None:
    encoder = Encoder.of(make_config(data={"style": "hh", "max_response_tokens": 4}))
    prompt, response = encoder.prompt(asking("Hi")), encoder.response("Yes it is")
    assert encoder.tokenizer.decode(prompt) == "\n\nHuman: Hi\n\nAssistant:"
    assert encoder.tokenizer.decode(response) == " Yes" and encoder.response("Ok")[-1] == 2
    batch = encoder.batch([prompt], [response])
    assert batch.ids[0].tolist() == prompt + response and int(batch.prompt_lengths) == len(prompt)


def test_long_prompts_are_left_out_and_counted(make_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = Encoder.of(make_config(data={"max_prompt_tokens": 10}))
    fits, too_long = asking("a" * 9), asking("a" * 10)  # a line end follows the text
    kept = encoder.within_limits({"one": [fits, too_long], "two": [fits]}, "sft")
    assert kept == {"one": [fits], "two": [fits]}
    said = " ".join(capsys.readouterr().out.split())
    assert "sft: 1 of 3 left out" in said and "data.max_prompt_tokens=10" in said


def test_no_prompt_that_fits_is_an_error_with_place_and_remedy(make_config: MakeConfig) -> None:
    encoder = Encoder.of(make_config(data={"max_prompt_tokens": 3}))
    with pytest.raises(InputError, match=r"data\.jsonl:7.*max_prompt_tokens=3.*this one 6.*raise it"):
        encoder.within_limits({"one": [asking("Hello", "data.jsonl:7")]}, "sft")
    assert encoder.within_limits({"one": []}, "sft") == {"one": []}


@pytest.mark.parametrize("style", ["plain", "hh", "chat"])
def test_the_limit_is_kept_in_every_style(style: str, make_config: MakeConfig) -> None:
    """Short texts are let through without being tokenised; a template may still make them long."""
    config = make_config(model={"chat_template": LONG_TEMPLATE}, data={"style": style, "max_prompt_tokens": 200})
    encoder = Encoder.of(config)

    @settings(deadline=None, derandomize=True, max_examples=40)
    @given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60), min_size=1, max_size=3))
    def check(texts: list[str]) -> None:
        turns = tuple(Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts))
        example = Example(turns, "", None, "made up", "here")
        short = Example((Message("user", "a"),), "", None, "made up", "here")
        encoder_ = encoder if style != "chat" else replace(encoder, max_prompt_tokens=230)
        kept = encoder_.within_limits({"set": [example, short]}, "test")["set"]
        assert (example in kept) == (len(encoder_.prompt(example)) <= encoder_.max_prompt_tokens)

    check()


def test_the_window_must_hold_prompt_and_answer(architecture: str, make_config: MakeConfig) -> None:
    for max_response_tokens, fits in ((40, True), (41, False)):
        data = {"max_prompt_tokens": 24, "max_response_tokens": max_response_tokens}
        config = make_config(architecture, data=data)
        model = load_policy(config).model
        if fits or architecture == "bloom":  # ALiBi has no window
            Encoder.of(config).check_window(model)
        else:
            with pytest.raises(InputError, match=r"need 65 tokens, but the model reads 64"):
                Encoder.of(config).check_window(model)


def test_a_tokenizer_larger_than_the_vocabulary(make_config: MakeConfig) -> None:
    shape = make_config().model.architecture | {"vocab_size": 258}
    config = make_config(model={"architecture": shape})
    with pytest.raises(InputError, match=r"259 tokens, the model embeds 258; they do not belong together"):
        Encoder.of(config).check_window(load_policy(config).model)


def test_tokens_that_were_added_to_the_tokenizer_alone_are_named(make_config: MakeConfig, tmp_path: Path) -> None:
    shape = make_config().model.architecture | {"vocab_size": 260}
    tokenizer = byte_tokenizer()
    for number, word in enumerate(("<fits>", "<a>", "<b>"), 260):
        tokenizer.add_tokens([word])
        tokenizer.save_pretrained(tmp_path)
        config = make_config(model={"architecture": shape, "tokenizer": str(tmp_path)})
        if number == 260:
            Encoder.of(config).check_window(load_policy(config).model)
    said = r"262 tokens, the model embeds 260; <a>, <b> were added .*resize_token_embeddings\(262\)"
    with pytest.raises(InputError, match=said):
        Encoder.of(config).check_window(load_policy(config).model)


@pytest.mark.parametrize("key", ["reward.model", "ppo.policy"])
def test_roles_that_read_the_same_ids_have_one_tokenizer(key: str, make_config: MakeConfig, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path / "same")
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(tmp_path / "more")
    section, name = key.split(".")
    same, more = ({section: {name: str(tmp_path / folder)}} for folder in ("same", "more"))
    check_tokenizers(make_config(**same))
    with pytest.raises(InputError, match=rf"^{key}: .*same' has another tokenizer than model.path"):
        check_tokenizers(make_config(model={"tokenizer": str(tmp_path / "more")}, **same))
    if key == "reward.model":  # whose pad token may be one of its own
        check_tokenizers(make_config(**more))
    else:
        with pytest.raises(InputError, match=rf"^{key}: .*more' has another tokenizer than model.path"):
            check_tokenizers(make_config(**more))


SAYS_TWICE = "{% for m in messages %}{{ m.content }}{{ m.content }}</s>{% endfor %}"
SAYS_ONCE = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
REFUSES_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + SAYS_ONCE


def saved_tokenizer(folder: Path, template: str) -> str:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return str(folder)


def chatting(make_config: MakeConfig, chat_template: str = "", **sections: dict[str, str]) -> LmConfig:
    """A config of random weights, without model.tokenizer, in the chat style."""
    config = make_config(model={"chat_template": chat_template, "tokenizer": ""}, data={"style": "chat"}, **sections)
    assert not config.model.tokenizer
    return config


def test_all_steps_render_by_one_template(make_config: MakeConfig, tmp_path: Path) -> None:
    policy = saved_tokenizer(tmp_path / "policy", SAYS_ONCE)
    for template, written in (("", "Hi</s>"), (SAYS_TWICE, "HiHi</s>")):  # that of the policy, or the config's
        config = chatting(make_config, template, ppo={"policy": policy})
        encoder = Encoder.of(config)
        assert encoder.tokenizer.decode(encoder.prompt(asking("Hi"))) == written
        elsewhere = encoder.with_tokenizer_at(policy, config)  # a reward model's own
        assert elsewhere.tokenizer.decode(elsewhere.prompt(asking("Hi"))) == "Hi</s>"


def test_the_template_in_force_is_saved_with_the_tokenizer(make_config: MakeConfig, tmp_path: Path) -> None:
    encoder = Encoder.of(chatting(make_config, SAYS_TWICE))
    encoder.tokenizer.save_pretrained(tmp_path)
    again = Encoder.of(chatting(make_config, ppo={"policy": str(tmp_path)}))
    assert again.prompt(asking("Hi")) == encoder.prompt(asking("Hi"))


def test_a_template_is_checked_before_anything_is_read(make_config: MakeConfig) -> None:
    for template, what in (("{{ messages[0].content }}", "leaves out turn 2"), ("{% for %}", "error in line 1")):
        with pytest.raises(InputError, match=rf"^model\.chat_template: the chat template .*{what}"):
            Encoder.of(chatting(make_config, template))
    with pytest.raises(InputError, match=r"no chat template: set data\.style=hh"):
        Encoder.of(chatting(make_config))


def test_a_conversation_that_the_template_refuses_has_its_place(make_config: MakeConfig) -> None:
    encoder = Encoder.of(chatting(make_config, REFUSES_SYSTEM))
    turns = (Message("system", "Be kind."), Message("user", "Hi"))
    with pytest.raises(InputError, match=r"^talks\.jsonl:3: the chat template refuses .* system, user: no system"):
        encoder.within_limits({"set": [Example(turns, "", None, "set", "talks.jsonl:3")]}, "sft")


def test_an_answer_ends_as_the_template_ends_a_turn(make_config: MakeConfig, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<|end|>"])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    config = make_config(model={"tokenizer": str(tmp_path)}, data={"style": "chat"})
    encoder = Encoder.of(config)
    assert encoder.response("No") == [*byte_tokenizer().encode("No"), 259] and encoder.ends.ids == (2, 259)
    assert encoder.text(encoder.response("No")) == "No"


def test_pairs_that_are_equal_after_the_cut_are_left_out_and_counted(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = Encoder.of(make_config(data={"max_response_tokens": 4}))
    equal = pair("longer", "longest")
    differ = [pair("lone", "long"), pair("lon", "long"), pair("lon", "lon", rejected_ended=False), pair("lon", None)]
    examples = StepExamples({"set": [equal, *differ]}, {"set": [equal]}, {"set": differ}, {"other": 1})
    left = encoder.pairs_that_differ(examples)
    assert (left.train, left.validation, left.test) == ({"set": differ}, {"set": []}, {"set": differ})
    assert left.dropped == {"other": 1, "equal after data.max_response_tokens=4": 2}
    said = " ".join(capsys.readouterr().out.split())
    assert "reward: 2 of 10 left out, their responses are equal after data.max_response_tokens=4" in said


def test_pairs_that_are_all_equal_after_the_cut_are_refused(make_config: MakeConfig) -> None:
    encoder = Encoder.of(make_config(data={"max_response_tokens": 2}))
    with pytest.raises(InputError, match=r"^pairs\.jsonl:1: .* equal after data\.max_response_tokens=2.*raise it"):
        encoder.pairs_that_differ(StepExamples({"set": [pair("lone", "long")]}, {}, {}, {}))


def pair(chosen: str, rejected: str | None, *, rejected_ended: bool = True) -> Example:
    turns = (Message("user", "Hi"),)
    return Example(turns, chosen, rejected, "set", "pairs.jsonl:1", rejected_ended=rejected_ended)


def test_the_texts_of_an_example_are_encoded_once(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, example = Encoder.of(make_config(data={"max_response_tokens": 8})), pair("long", "lone")
    ids = encoder.prompt(example), encoder.chosen(example), encoder.rejected(example)
    shorter = replace(encoder, max_response_tokens=2)
    assert shorter.chosen(example) == ids[1][:2]  # an encoder with other limits makes its own ids
    assert ids[2] == encoder.response("lone")

    def refuse(*_args: object, **_settings: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(encoder.tokenizer, "encode", refuse)
    assert (encoder.prompt(example), encoder.chosen(example), encoder.rejected(example)) == ids
    encoder.chosen(example).clear()  # the caller's list, not the encoder's
    assert encoder.chosen(example) == ids[1]


def test_a_template_that_formats_earlier_responses_differently_is_reported(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(f'{{"prompt": "Why {i}?", "chosen": "So.", "rejected": "No."}}\n' for i in range(20)))
    thinks = "{% for m in messages %}{{ '<think></think>' if m.role == 'assistant' }}{{ m.content }}</s>{% endfor %}"
    for template, is_told in ((SAYS_ONCE, False), (thinks, True)):
        model = {"chat_template": template, "tokenizer": ""}
        config = make_config(model=model, data={"style": "chat", "train": [str(file)]})
        check_conversations(Encoder.of(config), config.data, ["sft", "reward", "ppo"])
        assert ("'<think></think>' before earlier responses" in capsys.readouterr().out) == is_told
