"""The tokens that structure a conversation, as distinct from the same characters inside a text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from transformers import AddedToken, PreTrainedTokenizerBase

from tercet.lm.text.per_tokenizer import once_per_tokenizer
from tercet.lm.text.template import frame, template_of


@dataclass(frozen=True)
class Marks:
    """Special tokens and other added tokens that the chat template writes around turns; `tokens` is by id."""

    tokens: dict[int, AddedToken]
    stand_alone: bool  # a text between two marks has the same ids as on its own

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "Marks":
        """Find the marks of a tokenizer with its chat template."""
        return _marks(tokenizer, template_of(tokenizer))

    @property
    def written(self) -> re.Pattern[str]:
        """A pattern that matches any mark."""
        longest_first = sorted((token.content for token in self.tokens.values()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # the latter matches nothing

    @property
    def unsplit(self) -> list[str]:
        """Marks that are not special tokens: the tokenizer encodes them as marks even inside a text."""
        return [token.content for token in self.tokens.values() if not token.special]

    def split(self, text: str) -> Iterator[tuple[str, list[int]]]:
        """Yield the pieces of a text, each with the id of the mark after it; some marks absorb adjacent white space."""
        by_content = {token.content: (number, token) for number, token in self.tokens.items()}
        start, is_stripped = 0, False
        for match in self.written.finditer(text):
            number, token = by_content[match[0]]
            piece = text[start : match.start()]
            piece = piece.lstrip() if is_stripped else piece
            yield piece.rstrip() if token.lstrip else piece, [number]
            start, is_stripped = match.end(), token.rstrip
        yield text[start:].lstrip() if is_stripped else text[start:], []


@once_per_tokenizer
def _marks(tokenizer: PreTrainedTokenizerBase, template: str) -> Marks:
    around = frame(tokenizer, template)
    added = tokenizer.added_tokens_decoder.items()
    tokens = {number: token for number, token in added if token.special or token.content in around}
    # a SentencePiece tokenizer may add a space before the first piece only, or before every one
    after_eos, alone = (tokenizer.encode(text, add_special_tokens=False) for text in (f"{tokenizer.eos_token}x", "x"))
    return Marks(tokens, after_eos[1:] == alone)
