"""The text of single tokens."""

from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from tercet.lm.text.token_view import pieces


class Vocabulary:
    """The texts of a tokenizer's tokens, remembered; special tokens have their own, such as `</s>`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        @lru_cache(maxsize=1 << 16)
        def text(token: int) -> str:
            return "".join(piece for piece, _ in pieces(tokenizer, [token]))

        self.text = text
