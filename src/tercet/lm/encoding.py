"""How the texts of one run become tokens: its tokenizer, its style of prompts and its limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.examples import Example
from tercet.lm.splits import Sets
from tercet.lm.text import Style, prompt_ids, prompt_text, response_ids
from tercet.lm.tokenizers import load_tokenizer
from tercet.lm.tokens import TokenBatch, pad
from tercet.lm.weights import named_by_key
from tercet.runs.progress import say


@dataclass(frozen=True)
class Encoder:
    """Prompts and answers to tokens, the same way in every step."""

    tokenizer: PreTrainedTokenizerBase
    style: Style
    max_prompt_tokens: int
    max_response_tokens: int
    max_sampled_tokens: int

    @classmethod
    def of(cls, config: LmConfig, path: str = "") -> "Encoder":
        """The encoder of a run, or of the model at `path` where a run starts from that."""
        data = config.data
        with named_by_key(config, path):
            tokenizer = load_tokenizer(config.model, path)
        return cls(
            tokenizer, data.style, data.max_prompt_tokens, data.max_response_tokens, config.ppo.max_response_tokens
        )

    @property
    def eos_id(self) -> int:
        """What ends an answer."""
        return cast(int, self.tokenizer.eos_token_id)  # transformers types it as anything; load_tokenizer checked it

    @property
    def pad_id(self) -> int:
        """What fills the room behind the shorter rows."""
        return cast(int, self.tokenizer.pad_token_id)  # likewise

    def prompt(self, example: Example) -> list[int]:
        """The prompt's ids, up to where the answer begins."""
        return prompt_ids(self.tokenizer, example.messages, self.style)

    def response(self, text: str, *, ended: bool = True) -> list[int]:
        """The answer's ids: EOS at the end unless the answer is cut, or was cut (not `ended`) when it was sampled."""
        return response_ids(self.tokenizer, text, self.style, max_tokens=self.max_response_tokens, ended=ended)

    def batch(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> TokenBatch:
        """Ids, padded; on the CPU."""
        return pad(prompts, responses, pad_id=self.pad_id)

    def within_limits(self, sets: Sets, what: str) -> Sets:
        """The sets without prompts of more than `max_prompt_tokens`, which are counted and told."""
        kept = {name: [e for e in rows if self._fits(e)] for name, rows in sets.items()}
        lost, total = sum(len(sets[n]) - len(kept[n]) for n in sets), sum(map(len, sets.values()))
        if lost and lost == total:
            first = next(example for rows in sets.values() for example in rows)
            raise InputError(
                f"{first.place}: this and every other prompt for {what} has more than "
                f"data.max_prompt_tokens={self.max_prompt_tokens} tokens (this one {len(self.prompt(first))}); raise it"
            )
        if lost:
            say(
                f"{what}: {lost} of {total} left out, "
                f"their prompts exceed data.max_prompt_tokens={self.max_prompt_tokens}"
            )
        return kept

    def check_window(self, model: PreTrainedModel) -> None:
        """InputError where the longest prompt and answer do not fit into what the model can read at once."""
        window = getattr(model.config, "max_position_embeddings", None)
        for key, longest in (("data", self.max_response_tokens), ("ppo", self.max_sampled_tokens)):
            needed = self.max_prompt_tokens + longest
            if window is not None and needed > window:
                raise InputError(
                    f"data.max_prompt_tokens={self.max_prompt_tokens} and {key}.max_response_tokens={longest} need "
                    f"{needed} tokens, but the model reads {window}; lower one of them"
                )
        embedded = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings  # a Module, to transformers' types
        if len(self.tokenizer) > embedded:
            raise InputError(
                f"model.tokenizer: it has {len(self.tokenizer)} tokens, the model embeds {embedded}; "
                "they do not belong together"
            )

    def _fits(self, example: Example) -> bool:
        # a token holds at least a byte of text, but for BOS and a space in front: short prompts need no tokenizer
        if len(prompt_text(self.tokenizer, example.messages, self.style).encode()) + 2 <= self.max_prompt_tokens:
            return True
        return len(self.prompt(example)) <= self.max_prompt_tokens


def check_tokenizers(config: LmConfig) -> None:
    """InputError where one role would read another's token ids and take them for other words."""
    ours = Encoder.of(config).tokenizer.get_vocab()
    for key, path in (("reward.model", config.reward.model), ("ppo.policy", config.ppo.policy)):
        if path and Encoder.of(config, path).tokenizer.get_vocab() != ours:
            raise InputError(
                f"{key}: {path!r} has another tokenizer than model.path={config.model.path!r}, and actor, critic and "
                "reward model read the same token ids; give models of one family"
            )
