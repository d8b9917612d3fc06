"""What is found out about a tokenizer once, and kept no longer than the tokenizer itself."""

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

P = ParamSpec("P")
R = TypeVar("R")
OfTokenizer = Callable[Concatenate[PreTrainedTokenizerBase, P], R]


def once_per_tokenizer(function: OfTokenizer[P, R]) -> OfTokenizer[P, R]:
    """Call it once for a tokenizer and the arguments behind it, which are positional and hashable.

    functools.lru_cache would keep the tokenizers too: tens of megabytes each, and every step of a run loads its own.
    """
    known: WeakKeyDictionary[PreTrainedTokenizerBase, dict[Hashable, R]] = WeakKeyDictionary()

    @wraps(function)
    def remembered(tokenizer: PreTrainedTokenizerBase, *args: P.args, **kwargs: P.kwargs) -> R:
        results = known.setdefault(tokenizer, {})
        if args not in results:
            results[args] = function(tokenizer, *args, **kwargs)
        return results[args]

    return remembered
