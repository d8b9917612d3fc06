"""Marks of a chat template, as distinct from the same characters in a text."""

from transformers import AddedToken, PreTrainedTokenizerBase

from tercet.lm.text.marks import Marks
from tercet.lm.text.tokenizers import byte_tokenizer

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def tokenizer_with(*added: AddedToken) -> PreTrainedTokenizerBase:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML
    tokenizer.add_tokens(list(added))
    return tokenizer


def test_marks_are_special_tokens_and_added_tokens_that_the_template_writes() -> None:
    tokenizer = tokenizer_with(
        AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=False), AddedToken("<|other|>")
    )
    marks = Marks.of(tokenizer)
    contents = {token.content for token in marks.tokens.values()}
    assert {"<|im_start|>", "<|im_end|>", "</s>"} <= contents and "<|other|>" not in contents
    assert marks.unsplit == ["<|im_end|>"]


def test_a_text_is_split_at_marks_and_a_mark_may_absorb_white_space() -> None:
    tokenizer = tokenizer_with(
        AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True, rstrip=True)
    )
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    pieces = list(Marks.of(tokenizer).split("<|im_start|> a <|im_end|> \n b"))
    assert pieces == [("", [start]), (" a ", [end]), ("b", [])]


def test_a_tokenizer_without_marks_matches_nothing() -> None:
    assert Marks({}, True).written.search("<|im_start|></s>") is None
