"""The tokens that structure a conversation, told apart from the same characters in somebody's text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from transformers import AddedToken, PreTrainedTokenizerBase

from tercet.lm.per_tokenizer import once_per_tokenizer
from tercet.lm.template import frame, template_of


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
        return _any_of([re.escape(token.content) for token in self._longest_first])

    @property
    def unsplit(self) -> list[str]:
        """Marks that are not special tokens: the tokenizer reads them as marks wherever they stand."""
        return [token.content for token in self.tokens.values() if not token.special]

    def split(self, text: str) -> Iterator[tuple[str, list[int]]]:
        """The pieces of a text, each with the id of the mark behind it; some marks take the white space beside them."""
        numbers = {token.content: number for number, token in self.tokens.items()}
        sides = [(r"\s*" * t.lstrip, re.escape(t.content), r"\s*" * t.rstrip) for t in self._longest_first]
        start = 0
        for found in _any_of([f"{left}({word}){right}" for left, word, right in sides]).finditer(text):
            mark = next(group for group in found.groups() if group is not None)
            yield text[start : found.start()], [numbers[mark]]
            start = found.end()
        yield text[start:], []

    @property
    def _longest_first(self) -> list[AddedToken]:
        return sorted(self.tokens.values(), key=lambda token: len(token.content), reverse=True)


@once_per_tokenizer
def _marks(tokenizer: PreTrainedTokenizerBase, template: str) -> Marks:
    around = frame(tokenizer, template)
    added = tokenizer.added_tokens_decoder.items()
    tokens = {number: token for number, token in added if token.special or token.content in around}
    # a SentencePiece tokenizer may put a space in front of the first piece alone, or of every one
    behind, alone = (tokenizer.encode(text, add_special_tokens=False) for text in (f"{tokenizer.eos_token}x", "x"))
    return Marks(tokens, behind[1:] == alone)


def _any_of(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns) or "(?!)")  # nothing matches the latter
