"""Show the tokens that a step reads, with special tokens and trained tokens marked.

The output is readable without colour and in a narrow terminal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text
from transformers import PreTrainedTokenizerBase

from tercet.lm.data.examples import Example
from tercet.lm.data.splits import StepName
from tercet.lm.text.encoder import Encoder

LEGEND = Text.assemble(
    "tokens of some rows, as each step reads them: · between tokens, ↵ line end, ",
    ("⟦special⟧", "magenta"),
    ", ",
    ("▸learned◂", "green"),
)
_LONGEST_CHARACTER = 4  # bytes, and so tokens, of a character
_SHOWN = 32  # tokens at each end of a long text


@dataclass(frozen=True)
class TokenRow:
    """One text: the loss reads the tokens from `learned` on; `sampled` describes what PPO appends."""

    name: str
    ids: Sequence[int]
    learned: int
    sampled: str = ""


def token_rows(
    step: StepName, example: Example, encoder: Encoder, *, sft_loss_on: str, reward_loss: str
) -> list[TokenRow]:
    """Return the texts that a step reads of an example: one, or two for the reward model.

    `sft_loss_on` is sft.loss_on and `reward_loss` is reward.loss.
    """
    prompt = encoder.prompt(example)
    if step == "ppo":
        ends = " or ".join(f"⟦{encoder.tokenizer.convert_ids_to_tokens(number)}⟧" for number in encoder.ends.ids)
        sampled = f"sampled: up to {encoder.max_sampled_tokens} tokens, until {ends}"
        return [TokenRow("prompt", prompt, len(prompt), sampled)]
    chosen = encoder.chosen(example)
    if step == "sft":
        return [TokenRow("answer", prompt + chosen, 1 if sft_loss_on == "text" else len(prompt))]
    rejected = encoder.rejected(example)
    rows = {"chosen": prompt + chosen, "rejected": prompt + rejected}
    pairs = list(zip(*rows.values(), strict=False))
    first_difference = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    is_per_token = reward_loss == "per_token"
    return [TokenRow(name, ids, first_difference if is_per_token else len(ids) - 1) for name, ids in rows.items()]


def shown(row: TokenRow, tokenizer: PreTrainedTokenizerBase) -> Text:
    """Return a row's tokens as one line that may wrap anywhere."""
    text = Text(f"{row.name}: ", overflow="fold")
    for ids, style in ((row.ids[: row.learned], ""), (row.ids[row.learned :], "green")):
        if style:
            text.append("▸", style)
        for number, (piece, is_special) in enumerate(_shortened(pieces(tokenizer, ids))):
            text.append("·" * bool(number), "dim")
            text.append(f"⟦{piece}⟧" if is_special else piece.replace("\n", "↵"), "magenta" if is_special else style)
    return text.append(f"{row.sampled}◂", "green")


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[tuple[str, bool]]:
    """Return the text of each token and whether it is special; tokens that form one character together are merged."""
    added = tokenizer.added_tokens_decoder
    anchor = tokenizer.encode("a", add_special_tokens=False)  # some tokenizers hide the space of a first token
    out: list[tuple[str, bool]] = []
    part: list[int] = []
    for number in ids:
        if number in added:
            out += [("\ufffd", False)] * bool(part) + [(added[number].content, True)]
            part = []
            continue
        part.append(number)
        text = _decoded(tokenizer, [*anchor, *part]).removeprefix(_decoded(tokenizer, anchor))
        if not text.endswith("\ufffd"):
            out.append((text, False))
            part = []
    return out + [("\ufffd", False)] * bool(part)


def text_of_each(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Return one text for each token; of tokens that form one character together, the last has it and the others ''."""
    texts: list[str] = []
    part: list[int] = []
    for number in ids:
        part.append(number)
        whole = "".join(text for text, _ in pieces(tokenizer, part))
        if whole.endswith("\ufffd") and number != ids[-1] and len(part) < _LONGEST_CHARACTER:
            texts.append("")
        else:
            texts.append(whole)
            part = []
    return texts


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _shortened(pieces: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    left_out = len(pieces) - 2 * _SHOWN
    if left_out <= 0:
        return pieces
    return [*pieces[:_SHOWN], (f" ... {left_out} tokens ... ", False), *pieces[-_SHOWN:]]
