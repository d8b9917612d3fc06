"""Encode prompts and responses and decode responses, in the same way in every step.

style   prompt                                        response
hh      \\n\\nHuman: ...\\n\\nAssistant: ...\\n\\nAssistant:    a space, then the text
chat    the tokenizer's chat template                  the text, right after the template's generation prompt
plain   the turns' texts, each with a line end after it    the text

The tokenizer's BOS, if it adds one, precedes the prompt only. A complete response ends in the token of `ends.py`.
Special tokens inside a text of the data are plain text in every style: only the template and this file write special
tokens.
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
    """Write the prompt as the model reads it, up to the start of the response; without the tokenizer's BOS."""
    if style != "chat":
        refuse_tools(messages, style)
    if style == "hh":
        return f"\n\n{transcript(tuple(messages))}\n\nAssistant:"
    if style == "plain":
        return "".join(f"{message.text}\n" for message in messages)
    return render(tokenizer, messages)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], style: Style) -> list[int]:
    """Encode a prompt, with BOS if the tokenizer adds one, and never with EOS."""
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
    """Encode a response: at most `max_tokens`, with `end_id` at the end unless the response is or was cut off."""
    anchor, start = (":", " ") if style == "hh" else (_LINE_END, "")
    unsplit = Marks.of(tokenizer).unsplit if style == "chat" else []
    return [*_ids_behind(tokenizer, anchor, start + text, unsplit), *[end_id] * ended][:max_tokens]


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], end_ids: Collection[int] = ()) -> str:
    """Decode a response without its end token, special tokens and surrounding white space."""
    ids = list(ids)
    if ids and ids[-1] in end_ids:  # the end token may be an ordinary token
        ids.pop()
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def _chat_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Encode what the chat template writes: its own marks as special ids, marks inside messages as text."""
    marks = Marks.of(tokenizer)
    pattern = marks.written
    forged = sorted({mark for message in messages for mark in pattern.findall(message.text + message.tools)})
    if not forged:
        return tokenizer.encode(render(tokenizer, messages), add_special_tokens=False)
    # placeholders replace them in the messages, so every mark in the output is the template's own
    tails = [len(tail) for message in messages for tail in _STEM_TAILS.findall(message.text + message.tools)]
    stem = "qz" + "q" * (max(tails, default=-1) + 1)  # occurs in no message
    words = {mark: f"{stem}{number}z" for number, mark in enumerate(forged)}
    texts = {word: mark for mark, word in words.items()}

    def cleaned(text: str) -> str:
        return pattern.sub(lambda match: words[match[0]], text)

    clean = [replace(m, text=cleaned(m.text), tools=cleaned(m.tools)) for m in messages]
    ids: list[int] = []
    for piece, mark in marks.split(render(tokenizer, clean)):
        text = re.sub("|".join(texts), lambda match: texts[match[0]], piece)
        if marks.stand_alone or not ids:
            ids += _bare_ids(tokenizer, text, marks.unsplit)
        else:
            ids += _ids_behind(tokenizer, _LINE_END, text, marks.unsplit)
        ids += mark
    return ids


def _ids_behind(tokenizer: PreTrainedTokenizerBase, anchor: str, text: str, unsplit: Sequence[str] = ()) -> list[int]:
    """Encode a text that follows `anchor`.

    It is encoded together with `anchor`, whose ids are then removed: a SentencePiece tokenizer would otherwise add a
    leading space, and the ids would differ from those of the whole text.
    """
    in_front = _bare_ids(tokenizer, anchor)
    whole = _bare_ids(tokenizer, anchor + text, unsplit)
    is_clean_cut = whole[: len(in_front)] == in_front
    return whole[len(in_front) :] if is_clean_cut else _bare_ids(tokenizer, text, unsplit)


def _bare_ids(tokenizer: PreTrainedTokenizerBase, text: str, unsplit: Sequence[str] = ()) -> list[int]:
    """Encode a text without special tokens; a `</s>` inside it is encoded as four characters.

    Words of `unsplit` are split after their first character, since the tokenizer would not split them.
    """
    first, *others = _cut(text, unsplit)
    ids: list[int] = tokenizer.encode(first, add_special_tokens=False, split_special_tokens=True)
    for piece in others:
        ids += _ids_behind(tokenizer, _LINE_END, piece)
    return ids


def _cut(text: str, unsplit: Sequence[str]) -> list[str]:
    """Split the text after the first character of each word in `unsplit`, overlapping words included."""
    if not unsplit:
        return [text]
    starts = re.finditer(f"(?=({'|'.join(map(re.escape, unsplit))}))", text)
    cuts = [0, *(start.start() + 1 for start in starts), len(text)]
    return [text[begin:end] for begin, end in pairwise(cuts)]


def _num_in_front(special: list[int], bare: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """Count the special tokens before the bare ids."""
    for num in range(len(special) - len(bare) + 1):
        if special[num : num + len(bare)] == bare:
            return num
    # the special tokens change how the text is tokenized: keep only a leading BOS
    return 1 if special[:1] == [tokenizer.bos_token_id] else 0
