"""Prompts and answers as ids: the same ids as the whole text in one piece, BOS in front alone, EOS behind alone."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tercet.errors import InputError
from tercet.lm.data.examples import Message, Role
from tercet.lm.text.ids import decode_response, prompt_ids, prompt_text, response_ids
from tercet.lm.text.tokenizers import byte_tokenizer

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
    response = response_ids(tokenizer, "Hi", "hh", max_tokens=9, end_id=2)
    assert response == [*byte_tokenizer().encode(" Hi"), 2]


def test_a_cut_answer_has_no_eos_and_one_that_just_fits_has() -> None:
    tokenizer = byte_tokenizer()
    whole = response_ids(tokenizer, "four", "plain", max_tokens=5, end_id=2)
    assert whole == [*tokenizer.encode("four"), 2]
    assert response_ids(tokenizer, "four", "plain", max_tokens=4, end_id=2) == tokenizer.encode("four")
    assert response_ids(tokenizer, "four", "plain", max_tokens=2, end_id=2) == tokenizer.encode("fo")


@pytest.mark.parametrize("make", [byte_tokenizer, sentencepiece_like])
@pytest.mark.parametrize("style", ["hh", "plain"])
def test_prompt_and_answer_give_the_ids_of_the_text_in_one_piece(make, style) -> None:  # type: ignore[no-untyped-def]  # parametrised
    tokenizer = make()
    space = " " if style == "hh" else ""
    whole = tokenizer.encode(prompt_text(tokenizer, HELLO, style) + space + "Hi you", add_special_tokens=False)
    ids = prompt_ids(tokenizer, HELLO, style) + response_ids(tokenizer, "Hi you", style, max_tokens=99, end_id=2)
    assert ids == [*whole, 2]


def chat_tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    """Tokenizers with a chat template that differ in what they put in front of a text, and in which marks are special.

    Marks have the ids 0 to 3.
    """
    marks = {"</s>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "<|sep|>": 3}
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    ascii_and_more = [chr(code) for code in range(33, 127)] + ["▁", "\n", "\r", "é", "你", "<unk>"]

    def made(characters: list[str], pre: pre_tokenizers.PreTokenizer, decoder: decoders.Decoder, special: bool = True):  # type: ignore[no-untyped-def]  # made is used below alone
        vocabulary = marks | {character: len(marks) + i for i, character in enumerate(characters)}
        unk = "<unk>" if "<unk>" in vocabulary else None
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=unk))
        backend.pre_tokenizer, backend.decoder = pre, decoder
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token=unk)
        tokenizer.add_tokens([AddedToken(word, special=special, normalized=False) for word in marks if word != "</s>"])
        tokenizer.add_tokens([AddedToken("<|sep|>", special=True, normalized=False, rstrip=True)])
        tokenizer.chat_template = CHATML
        return tokenizer

    byte_level, metaspace = pre_tokenizers.ByteLevel, pre_tokenizers.Metaspace
    return {
        "bytes": made(symbols, byte_level(add_prefix_space=False), decoders.ByteLevel()),
        "bytes, marks not special": made(symbols, byte_level(add_prefix_space=False), decoders.ByteLevel(), False),
        "bytes, space in front": made(symbols, byte_level(add_prefix_space=True), decoders.ByteLevel()),
        "pieces": made(ascii_and_more, metaspace(prepend_scheme="always"), decoders.Metaspace()),
        "pieces, first alone": made(ascii_and_more, metaspace(prepend_scheme="first"), decoders.Metaspace()),
        "pieces, not special": made(ascii_and_more, metaspace(prepend_scheme="first"), decoders.Metaspace(), False),
    }


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}<|sep|>\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|sep|>\n{% endif %}"
)
CHAT_TOKENIZERS = chat_tokenizers()
# texts of marks, of parts of them and of what surrounds them
WORDS = st.sampled_from(
    ["<|im_start|>", "<|im_end|>", "</s>", "<|sep|>", "<|im", "_end|>", "<", " ", "\n", "a", "é", "qz"]
)
TEXTS = st.lists(WORDS, min_size=1, max_size=8).map("".join).map(str.strip).filter(bool)


@pytest.mark.parametrize("name", CHAT_TOKENIZERS)
def test_no_text_can_write_a_mark(name: str) -> None:
    tokenizer = CHAT_TOKENIZERS[name]

    @settings(deadline=None, derandomize=True, max_examples=25)
    @given(st.lists(TEXTS, min_size=1, max_size=3), TEXTS)
    def holds(texts: list[str], answer: str) -> None:
        roles: list[Role] = ["user", "assistant", "user"]
        talk = [Message(role, text) for role, text in zip(roles, texts, strict=False)]
        plain = [Message(role, "a") for role, _ in zip(roles, texts, strict=False)]
        ids = prompt_ids(tokenizer, talk, "chat")
        expected = [token for token in prompt_ids(tokenizer, plain, "chat") if token < 4]
        assert [token for token in ids if token < 4] == expected  # those of the template, and no other
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for message in talk:
            assert "".join(message.text.split()) in "".join(text.split())
        response = response_ids(tokenizer, answer, "chat", max_tokens=999, end_id=2)
        assert [token for token in response if token < 4] == [2] and response[-1] == 2
        if name.startswith("bytes"):
            assert decode_response(tokenizer, response, {2}) == answer

    holds()


@pytest.mark.parametrize(
    "text", ["<|im_end|>" + "\n" * 60_000 + "a", "<|im_end|>qz" + "q" * 60_000, "<|im_end|>" * 3_000]
)
def test_a_text_made_to_be_slow_is_encoded_in_time_that_grows_with_its_length(text: str) -> None:
    start = time.process_time()
    ids = prompt_ids(CHAT_TOKENIZERS["bytes, marks not special"], (Message("user", text),), "chat")
    assert len(ids) >= len(text)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", CHAT_TOKENIZERS)
def test_a_text_without_marks_has_the_ids_of_the_rendering_in_one_piece(name: str) -> None:
    """The way that texts with marks take gives the tokenizer's own ids where there is nothing to tell apart."""
    tokenizer = CHAT_TOKENIZERS[name]

    @settings(deadline=None, derandomize=True, max_examples=20)
    @given(st.lists(st.text("ab <|>_qz\né你", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=3))
    def holds(texts: list[str]) -> None:
        roles: list[Role] = ["user", "assistant", "user"]
        talk = [Message(role, text) for role, text in zip(roles, texts, strict=False)]
        whole = tokenizer.encode(prompt_text(tokenizer, talk, "chat"), add_special_tokens=False)
        assert prompt_ids(tokenizer, talk, "chat") == whole
        forged = prompt_ids(tokenizer, [Message("system", "</s>"), *talk], "chat")
        clean = prompt_ids(tokenizer, [Message("system", "a"), *talk], "chat")
        at = clean.index(2)  # behind the system message
        assert forged[forged.index(2) :] == clean[at:]

    holds()


def test_an_answer_ends_in_the_token_it_is_given_and_is_read_without_it() -> None:
    tokenizer = CHAT_TOKENIZERS["bytes, marks not special"]
    ids = response_ids(tokenizer, "Hi", "chat", max_tokens=9, end_id=2)
    assert ids[-1] == 2 and decode_response(tokenizer, ids, (0, 2)) == "Hi"


def test_special_tokens_that_people_wrote_stay_plain_text() -> None:
    tokenizer = byte_tokenizer()
    prompt = prompt_ids(tokenizer, (Message("user", "struck </s> out"),), "hh")
    assert 2 not in prompt
    assert response_ids(tokenizer, "a</s>b", "hh", max_tokens=99, end_id=2).count(2) == 1


@settings(deadline=None)
@given(text=st.text(max_size=40).map(str.strip), style=st.sampled_from(["hh", "plain"]))
def test_an_answer_comes_back_from_its_ids(text: str, style: str) -> None:
    tokenizer = byte_tokenizer()
    ids = response_ids(tokenizer, text, style, max_tokens=1000, end_id=2)  # type: ignore[arg-type]  # one of the two styles
    assert ids[-1] == 2
    assert decode_response(tokenizer, ids) == text  # type: ignore[arg-type]  # likewise
