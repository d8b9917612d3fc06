"""Reward models that others trained: each has its own tokenizer and forward pass; encoders are supported too."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tercet.config.lm import NetworkConfig
from tercet.errors import FailedError, InputError
from tercet.lm.data.examples import Example, transcript
from tercet.lm.models.configs import named_by_key, window_of
from tercet.lm.models.weights import load_judge
from tercet.lm.sampling.responses import Responses
from tercet.lm.text.encoder import Encoder
from tercet.lm.text.ids import Style, prompt_ids, response_ids
from tercet.lm.text.template import after_response, check_template
from tercet.lm.text.tokenizers import read_tokenizer
from tercet.train.device import device_of
from tercet.train.parallel import combined, own_rows

Inputs = dict[str, list[int]]  # arguments of the model for one text

_NO_LIMIT = 10**9
_NUM_CHECKED = 32  # longest prompts whose tokens are counted before training


@dataclass(frozen=True)
class ForeignRewardModel:
    """A reward model that others trained; its scores are those of transformers.

    The input is the whole conversation in the tokenizer's chat template. Without a template it is a pair of prompt and
    response if the tokenizer writes separators after texts, else a transcript in the run's style.
    """

    name: str
    key: str  # of the config, which names it
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    style: Style  # if the tokenizer has neither template nor separators
    batch_size: int

    @classmethod
    def load(cls, name: str, networks: NetworkConfig, style: Style, *, batch_size: int) -> "ForeignRewardModel":
        """Load the reward model of a folder or hub id onto its device; InputError if it is not one."""
        with named_by_key(networks, name):
            trust = networks.model.trust_remote_code
            model, tokenizer = load_judge(name, trust=trust), read_tokenizer(name, trust=trust)
            if tokenizer.chat_template:
                check_template(tokenizer)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = -1  # no such token: transformers then reads the score at the last one
        nn.Module.to(model, device_of(networks.device))  # the method of transformers has other types
        key = networks.keys_by_path.get(name, "ppo.reward")
        return cls(name, key, model, tokenizer, "hh" if style == "chat" else style, batch_size)

    def __call__(self, responses: Responses) -> Float[Tensor, " b"]:
        """Score each response, on the device of the responses' tokens."""
        ended = responses.ended.tolist()
        examples = zip(responses.examples, responses.texts, ended, strict=True)
        return self.scores([self.encode(*one) for one in examples]).to(responses.batch.ids.device)

    def encode(self, example: Example, text: str, ended: bool = True) -> Inputs:
        """Encode a prompt and its response; a template or separators end every response, cut off or not."""
        tokenizer, messages = self.tokenizer, example.messages
        if tokenizer.chat_template:
            suffix = tokenizer.encode(after_response(tokenizer), add_special_tokens=False)
            return {"input_ids": prompt_ids(tokenizer, messages, "chat") + self._response(text, "chat") + suffix}
        if tokenizer.sep_token_id in tokenizer.encode("a"):
            prompt = messages[0].text if len(messages) == 1 else transcript(tuple(messages))
            return {**tokenizer(prompt, text, split_special_tokens=True)}
        ids = prompt_ids(tokenizer, messages, self.style) + self._response(text, self.style)
        end_id = tokenizer.eos_token_id
        return {"input_ids": [*ids, end_id] if ended and isinstance(end_id, int) else ids}

    @torch.no_grad()
    def scores(self, texts: Sequence[Inputs]) -> Float[Tensor, " b"]:
        """Return one score per text; only texts of equal length share a batch, so that nothing is padded."""
        length = [len(inputs["input_ids"]) for inputs in texts]
        self._check(max(length))
        scores = torch.zeros(len(texts))
        for _, same in groupby(sorted(own_rows(length).tolist(), key=length.__getitem__), key=length.__getitem__):
            for rows in torch.tensor(list(same)).split(self.batch_size):
                some = [texts[row] for row in rows.tolist()]
                inputs = {key: torch.tensor([r[key] for r in some]).to(self.model.device) for key in some[0]}
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
                scores[rows] = self.model(**inputs).logits[:, 0].float().cpu()
        return combined(scores)

    @property
    def window(self) -> int:
        """The context window in tokens."""
        return min(window_of(self.model.config) or _NO_LIMIT, self.tokenizer.model_max_length)

    def _response(self, text: str, style: Style) -> list[int]:
        return response_ids(self.tokenizer, text, style, max_tokens=_NO_LIMIT, end_id=0, ended=False)

    def _check(self, num_tokens: int) -> None:
        if num_tokens > self.window:
            raise FailedError(
                f"{self.key}: {self.name!r} reads {self.window} tokens, but a prompt with its response has "
                f"{num_tokens}; lower data.max_prompt_tokens or ppo.max_response_tokens, or give another reward model"
            )


def check_foreign(model: ForeignRewardModel, encoder: Encoder, prompts: Sequence[Example]) -> None:
    """Raise InputError if the reward model's window is too short for the run's texts."""
    by_length = sorted(prompts, key=lambda example: -len(example.prompt))
    within = (example for example in by_length if len(encoder.prompt(example)) <= encoder.max_prompt_tokens)
    longest = max((len(model.encode(e, "")["input_ids"]) for e in islice(within, _NUM_CHECKED)), default=0)
    needed = longest + encoder.max_sampled_tokens
    if needed > model.window:
        raise InputError(
            f"{model.key}: {model.name!r} reads {model.window} tokens, but a prompt of {longest} tokens and "
            f"ppo.max_response_tokens={encoder.max_sampled_tokens} need {needed}; lower data.max_prompt_tokens or "
            "ppo.max_response_tokens, or give another reward model"
        )
