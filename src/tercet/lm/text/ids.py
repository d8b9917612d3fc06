"""How a conversation becomes token ids, and an answer's ids text again; one place, so that every step agrees.

style   prompt                                        answer
hh      \\n\\nHuman: ...\\n\\nAssistant: ...\\n\\nAssistant:    a space, then the text
chat    the tokenizer's chat template                  the text, right after the template's generation prompt
plain   the turns' texts, each with a line end after it    the text

The tokenizer's BOS, if it adds one, stands in front of the prompt alone; an answer that was not cut ends in the token
that `ends.py` names. Special tokens that somebody wrote in a text are text, in every style: only the template and this
file write special tokens.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from transformers import PreTrainedTokenizerBase

from tercet.lm.data.examples import Message, transcript
from tercet.lm.text.marks import Marks
from tercet.lm.text.template import render
from tercet.lm.text.tools import refuse_tools

Style = Literal["hh", "chat", "plain"]

_LINE_END = "\n"
_STEM_TAILS = re.compile("qz(q*)")


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], style: Style) -> str:
    """The prompt as the model reads it, up to where its answer begins (without a BOS that the tokenizer adds)."""
    if style != "chat":
        refuse_tools(messages, style)
    if style == "hh":
        return f"\n\n{transcript(tuple(messages))}\n\nAssistant:"
    if style == "plain":
        return "".join(f"{message.text}\n" for message in messages)
    return render(tokenizer, messages)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], style: Style) -> list[int]:
    """The ids of a prompt: BOS where the tokenizer adds one, never an EOS behind."""
    if style == "chat":
        return _chat_ids(tokenizer, messages)
    text = prompt_text(tokenizer, messages, style)
    bare = _bare_ids(tokenizer, text)
    special = tokenizer.encode(text, add_special_tokens=True, split_special_tokens=True)
    num_in_front = _num_in_front(special, bare, tokenizer)
    return special[:num_in_front] + bare


def response_ids(
    tokenizer: PreTrainedTokenizerBase, text: str, style: Style, *, max_tokens: int, end_id: int, ended: bool = True
) -> list[int]:
    """The ids of an answer: at most `max_tokens`, `end_id` among them; an answer that is or was cut has none."""
    anchor, start = (":", " ") if style == "hh" else (_LINE_END, "")
    unsplit = Marks.of(tokenizer).unsplit if style == "chat" else []
    return [*_ids_behind(tokenizer, anchor, start + text, unsplit), *[end_id] * ended][:max_tokens]


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], end_ids: Collection[int] = ()) -> str:
    """The text of an answer without the token that ended it, special tokens and the white space around it."""
    ids = list(ids)
    if ids and ids[-1] in end_ids:  # it need not be marked as special
        ids.pop()
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def _chat_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The ids of what the chat template writes: its marks are ids, those that stand in the messages are text."""
    marks = Marks.of(tokenizer)
    pattern = marks.written
    forged = sorted({mark for message in messages for mark in pattern.findall(message.text + message.tools)})
    if not forged:
        return tokenizer.encode(render(tokenizer, messages), add_special_tokens=False)
    # the template gets words in place of them, so that every mark in what it writes is its own
    tails = [len(tail) for message in messages for tail in _STEM_TAILS.findall(message.text + message.tools)]
    stem = "qz" + "q" * (max(tails, default=-1) + 1)  # stands in no message
    words = {mark: f"{stem}{number}z" for number, mark in enumerate(forged)}
    texts = {word: mark for mark, word in words.items()}

    def cleaned(text: str) -> str:
        return pattern.sub(lambda found: words[found[0]], text)

    clean = [replace(m, text=cleaned(m.text), tools=cleaned(m.tools)) for m in messages]
    ids: list[int] = []
    for piece, mark in marks.split(render(tokenizer, clean)):
        text = re.sub("|".join(texts), lambda found: texts[found[0]], piece)
        if marks.stand_alone or not ids:
            ids += _bare_ids(tokenizer, text, marks.unsplit)
        else:
            ids += _ids_behind(tokenizer, _LINE_END, text, marks.unsplit)
        ids += mark
    return ids


def _ids_behind(tokenizer: PreTrainedTokenizerBase, anchor: str, text: str, unsplit: Sequence[str] = ()) -> list[int]:
    """The ids of a text that goes on behind `anchor`.

    Encoded with it, then freed of it: a SentencePiece tokenizer would otherwise put a second space in front, and ids
    would differ from those of the text in one piece.
    """
    in_front = _bare_ids(tokenizer, anchor)
    whole = _bare_ids(tokenizer, anchor + text, unsplit)
    is_clean_cut = whole[: len(in_front)] == in_front
    return whole[len(in_front) :] if is_clean_cut else _bare_ids(tokenizer, text, unsplit)


def _bare_ids(tokenizer: PreTrainedTokenizerBase, text: str, unsplit: Sequence[str] = ()) -> list[int]:
    """The ids of the text alone; a `</s>` that somebody wrote in it stays four characters and ends nothing.

    Words of `unsplit` are cut behind their first character, for the tokenizer itself would not cut them.
    """
    first, *others = _cut(text, unsplit)
    ids: list[int] = tokenizer.encode(first, add_special_tokens=False, split_special_tokens=True)
    for piece in others:
        ids += _ids_behind(tokenizer, _LINE_END, piece)
    return ids


def _cut(text: str, unsplit: Sequence[str]) -> list[str]:
    """The pieces of the text, cut behind the first character of each word, also of one that begins within another."""
    if not unsplit:
        return [text]
    starts = re.finditer(f"(?=({'|'.join(map(re.escape, unsplit))}))", text)
    cuts = [0, *(start.start() + 1 for start in starts), len(text)]
    return [text[begin:end] for begin, end in pairwise(cuts)]


def _num_in_front(special: list[int], bare: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens stand in front of the bare ids."""
    for num in range(len(special) - len(bare) + 1):
        if special[num : num + len(bare)] == bare:
            return num
    # the special tokens change how the text is cut: keep a leading BOS alone
    return 1 if special[:1] == [tokenizer.bos_token_id] else 0
