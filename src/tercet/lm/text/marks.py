"""The tokens that structure a conversation, told apart from the same characters in somebody's text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from transformers import AddedToken, PreTrainedTokenizerBase

from tercet.lm.text.per_tokenizer import once_per_tokenizer
from tercet.lm.text.template import frame, template_of


@dataclass(frozen=True)
class Marks:
    """Special tokens, and others that the chat template writes around turns; `tokens` by their ids."""

    tokens: dict[int, AddedToken]
    stand_alone: bool  # a text between two marks has the ids that it has alone

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "Marks":
        """The marks of a tokenizer with its chat template."""
        return _marks(tokenizer, template_of(tokenizer))

    @property
    def written(self) -> re.Pattern[str]:
        """Finds what reads as a mark."""
        longest_first = sorted((token.content for token in self.tokens.values()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # nothing matches the latter

    @property
    def unsplit(self) -> list[str]:
        """Marks that are not special tokens: the tokenizer reads them as marks wherever they stand."""
        return [token.content for token in self.tokens.values() if not token.special]

    def split(self, text: str) -> Iterator[tuple[str, list[int]]]:
        """The pieces of a text, each with the id of the mark behind it; some marks take the white space beside them."""
        by_content = {token.content: (number, token) for number, token in self.tokens.items()}
        start, is_stripped = 0, False
        for found in self.written.finditer(text):
            number, token = by_content[found[0]]
            piece = text[start : found.start()]
            piece = piece.lstrip() if is_stripped else piece
            yield piece.rstrip() if token.lstrip else piece, [number]
            start, is_stripped = found.end(), token.rstrip
        yield text[start:].lstrip() if is_stripped else text[start:], []


@once_per_tokenizer
def _marks(tokenizer: PreTrainedTokenizerBase, template: str) -> Marks:
    around = frame(tokenizer, template)
    added = tokenizer.added_tokens_decoder.items()
    tokens = {number: token for number, token in added if token.special or token.content in around}
    # a SentencePiece tokenizer may put a space in front of the first piece alone, or of every one
    behind, alone = (tokenizer.encode(text, add_special_tokens=False) for text in (f"{tokenizer.eos_token}x", "x"))
    return Marks(tokens, behind[1:] == alone)
