"""Cache results per tokenizer, for the lifetime of the tokenizer."""

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

P = ParamSpec("P")
R = TypeVar("R")
OfTokenizer = Callable[Concatenate[PreTrainedTokenizerBase, P], R]


def once_per_tokenizer(function: OfTokenizer[P, R]) -> OfTokenizer[P, R]:
    """Cache a function of a tokenizer and further arguments, which must be positional and hashable.

    functools.lru_cache would keep the tokenizers alive too: tens of megabytes each, and every step loads its own.
    """
    cache: WeakKeyDictionary[PreTrainedTokenizerBase, dict[Hashable, R]] = WeakKeyDictionary()

    @wraps(function)
    def cached(tokenizer: PreTrainedTokenizerBase, *args: P.args, **kwargs: P.kwargs) -> R:
        results = cache.setdefault(tokenizer, {})
        if args not in results:
            results[args] = function(tokenizer, *args, **kwargs)
        return results[args]

    return cached
