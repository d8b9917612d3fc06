"""How a conversation becomes token ids, and an answer's ids text again; one place, so that every step agrees.

style   prompt                                        answer
hh      \\n\\nHuman: ...\\n\\nAssistant: ...\\n\\nAssistant:    a space, then the text
chat    the tokenizer's chat template                  the text, right after the template's generation prompt
plain   the turns' texts, each with a line end after it    the text

The tokenizer's BOS, if it adds one, stands in front of the prompt alone; an EOS ends every answer that was not cut.
"""

from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

from tercet.errors import InputError
from tercet.lm.examples import Message, transcript

Style = Literal["hh", "chat", "plain"]


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], style: Style) -> str:
    """The prompt as the model reads it, up to where its answer begins (without a BOS that the tokenizer adds)."""
    if style == "hh":
        return f"\n\n{transcript(tuple(messages))}\n\nAssistant:"
    if style == "plain":
        return "".join(f"{message.text}\n" for message in messages)
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template: set data.style=hh, or give one in model.chat_template")
    turns = [{"role": message.role, "content": message.text} for message in messages]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert isinstance(rendered, str)  # tokenize=False
    return rendered


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], style: Style) -> list[int]:
    """The ids of a prompt: BOS where the tokenizer adds one, never an EOS behind."""
    text = prompt_text(tokenizer, messages, style)
    if style == "chat":  # the template has written its own special tokens
        return tokenizer.encode(text, add_special_tokens=False)
    bare = _bare_ids(tokenizer, text)
    special = tokenizer.encode(text, add_special_tokens=True, split_special_tokens=True)
    num_in_front = _num_in_front(special, bare, tokenizer)
    return special[:num_in_front] + bare


def response_ids(
    tokenizer: PreTrainedTokenizerBase, text: str, style: Style, *, max_tokens: int, ended: bool = True
) -> list[int]:
    """The ids of an answer: at most `max_tokens`, the EOS among them; an answer that is or was cut has no EOS."""
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no EOS token, so no answer could end; give another in model.tokenizer")
    # encoded behind the last character of the prompt, then freed of it: a SentencePiece tokenizer would otherwise
    # put a second space in front, and ids would differ from those of the prompt and answer in one piece
    anchor, start = (":", " ") if style == "hh" else ("\n", "")
    in_front = _bare_ids(tokenizer, anchor)
    whole = _bare_ids(tokenizer, anchor + start + text)
    is_clean_cut = whole[: len(in_front)] == in_front
    ids = whole[len(in_front) :] if is_clean_cut else _bare_ids(tokenizer, start + text)
    return [*ids, *[tokenizer.eos_token_id] * ended][:max_tokens]


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of an answer without special tokens and the white space around it."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def _bare_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of the text alone; a `</s>` that somebody wrote in it stays four characters and ends nothing."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def _num_in_front(special: list[int], bare: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens stand in front of the bare ids."""
    for num in range(len(special) - len(bare) + 1):
        if special[num : num + len(bare)] == bare:
            return num
    # the special tokens change how the text is cut: keep a leading BOS alone
    return 1 if special[:1] == [tokenizer.bos_token_id] else 0
