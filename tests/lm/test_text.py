"""Prompts and answers as ids: the same ids as the whole text in one piece, BOS in front alone, EOS behind alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tercet.errors import InputError
from tercet.lm.examples import Message
from tercet.lm.text import decode_response, prompt_ids, prompt_text, response_ids
from tercet.lm.tokenizers import byte_tokenizer

HELLO = (Message("user", "Hello"),)
DIALOGUE = (Message("system", "Be kind."), *HELLO, Message("assistant", "Hi."), Message("user", "Why?"))
CHAT = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}{{ '<s>assistant\n' }}"


def with_special_tokens(template: str) -> PreTrainedTokenizerBase:
    """The byte tokenizer, adding special tokens to a text as some families do."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def sentencepiece_like() -> PreTrainedTokenizerBase:
    """Characters with a space put in front of every text, as Llama's tokenizer does."""
    characters = [chr(code) for code in range(33, 127)] + ["▁", "\n"]
    backend = Tokenizer(models.BPE(vocab={"</s>": 0} | {c: i + 1 for i, c in enumerate(characters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def test_hh_writes_the_transcript_as_anthropic_does() -> None:
    assert prompt_text(byte_tokenizer(), DIALOGUE, "hh") == (
        "\n\nBe kind.\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: Why?\n\nAssistant:"
    )


def test_plain_is_the_text_and_a_line_end() -> None:
    assert prompt_text(byte_tokenizer(), HELLO, "plain") == "Hello\n"


def test_chat_uses_the_template_and_reads_its_special_tokens() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT
    ids = prompt_ids(tokenizer, HELLO, "chat")
    assert [token for token in ids if token < 3] == [1, 2, 1]  # turn opened, closed, and the answer's opened
    assert tokenizer.decode(ids) == "<s>user\nHello</s>\n<s>assistant\n"


def test_chat_without_a_template_names_the_remedy() -> None:
    with pytest.raises(InputError, match=r"data\.style=hh"):
        prompt_ids(byte_tokenizer(), HELLO, "chat")


@pytest.mark.parametrize(
    ("template", "in_front"), [("$A", []), ("<s> $A", [1]), ("</s> $A", [2]), ("<s> $A </s>", [1]), ("$A </s>", [])]
)
def test_bos_stands_in_front_of_the_prompt_alone_and_no_eos_behind_it(template: str, in_front: list[int]) -> None:
    tokenizer = with_special_tokens(template)
    bare = byte_tokenizer().encode("\n\nHuman: Hello\n\nAssistant:")
    assert prompt_ids(tokenizer, HELLO, "hh") == in_front + bare
    response = response_ids(tokenizer, "Hi", "hh", max_tokens=9)
    assert response == [*byte_tokenizer().encode(" Hi"), 2]


def test_a_cut_answer_has_no_eos_and_one_that_just_fits_has() -> None:
    tokenizer = byte_tokenizer()
    whole = response_ids(tokenizer, "four", "plain", max_tokens=5)
    assert whole == [*tokenizer.encode("four"), 2]
    assert response_ids(tokenizer, "four", "plain", max_tokens=4) == tokenizer.encode("four")
    assert response_ids(tokenizer, "four", "plain", max_tokens=2) == tokenizer.encode("fo")


@pytest.mark.parametrize("make", [byte_tokenizer, sentencepiece_like])
@pytest.mark.parametrize("style", ["hh", "plain"])
def test_prompt_and_answer_give_the_ids_of_the_text_in_one_piece(make, style) -> None:  # type: ignore[no-untyped-def]  # parametrised
    tokenizer = make()
    space = " " if style == "hh" else ""
    whole = tokenizer.encode(prompt_text(tokenizer, HELLO, style) + space + "Hi you", add_special_tokens=False)
    ids = prompt_ids(tokenizer, HELLO, style) + response_ids(tokenizer, "Hi you", style, max_tokens=99)
    assert ids == [*whole, tokenizer.eos_token_id]


def test_special_tokens_that_people_wrote_stay_plain_text() -> None:
    tokenizer = byte_tokenizer()
    prompt = prompt_ids(tokenizer, (Message("user", "struck </s> out"),), "hh")
    assert 2 not in prompt
    assert response_ids(tokenizer, "a</s>b", "hh", max_tokens=99).count(2) == 1


def test_a_tokenizer_without_eos_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no EOS"):
        response_ids(tokenizer, "Hi", "hh", max_tokens=9)


@settings(deadline=None)
@given(text=st.text(max_size=40).map(str.strip), style=st.sampled_from(["hh", "plain"]))
def test_an_answer_comes_back_from_its_ids(text: str, style: str) -> None:
    tokenizer = byte_tokenizer()
    ids = response_ids(tokenizer, text, style, max_tokens=1000)  # type: ignore[arg-type]  # one of the two styles
    assert ids[-1] == 2
    assert decode_response(tokenizer, ids) == text  # type: ignore[arg-type]  # likewise
