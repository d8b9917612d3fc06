"""Reward models from elsewhere: read by their own tokenizer, scored by their own forward pass, encoders included."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tercet.config.lm import LmConfig
from tercet.errors import FailedError, InputError
from tercet.lm.data.examples import Example, transcript
from tercet.lm.models.roles import device_of
from tercet.lm.models.weights import load_judge, named_by_key, window_of
from tercet.lm.sampling.responses import Answers
from tercet.lm.text.encoder import Encoder
from tercet.lm.text.ids import Style, prompt_ids, response_ids
from tercet.lm.text.template import behind_answer, check_template
from tercet.lm.text.tokenizers import read_tokenizer

Reading = dict[str, list[int]]  # the model's arguments for one text

_NO_LIMIT = 10**9
_LOOKED_AT = 32  # prompts, longest first, whose tokens are counted before anything is trained


@dataclass(frozen=True)
class Judge:
    """A reward model that somebody else trained; it gives the score that its folder gives under transformers.

    A text is read as the tokenizer's own chat template writes the whole conversation; without one, as a pair of prompt
    and answer where the tokenizer puts separators behind texts, else as a transcript in the run's style.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    style: Style  # where the tokenizer has neither template nor separators
    batch_size: int

    @classmethod
    def load(cls, name: str, config: LmConfig) -> "Judge":
        """The judge in a folder or hub id, on its device; InputError where it is none."""
        with named_by_key(config, name):
            trust = config.model.trust_remote_code
            model, tokenizer = load_judge(name, trust=trust), read_tokenizer(name, trust=trust)
            if tokenizer.chat_template:
                check_template(tokenizer)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = -1  # no token: transformers then takes the score at the last one
        style = "hh" if config.data.style == "chat" else config.data.style
        nn.Module.to(model, device_of(config))  # transformers' own is typed for another use
        return cls(name, model, tokenizer, style, config.ppo.micro_batch_size)

    def __call__(self, answers: Answers) -> Float[Tensor, " b"]:
        """The score of each answer, on the device of the answers' tokens."""
        ended = answers.ended.tolist()
        examples = zip(answers.examples, answers.texts, ended, strict=True)
        return self.scores([self.reading(*one) for one in examples]).to(answers.batch.ids.device)

    def reading(self, example: Example, text: str, ended: bool = True) -> Reading:
        """A prompt and its answer as the model reads them; a template and separators end every answer."""
        tokenizer, messages = self.tokenizer, example.messages
        if tokenizer.chat_template:
            behind = tokenizer.encode(behind_answer(tokenizer), add_special_tokens=False)
            return {"input_ids": prompt_ids(tokenizer, messages, "chat") + self._answer(text, "chat") + behind}
        if tokenizer.sep_token_id in tokenizer.encode("a"):
            asked = messages[0].text if len(messages) == 1 else transcript(tuple(messages))
            return {**tokenizer(asked, text, split_special_tokens=True)}
        ids = prompt_ids(tokenizer, messages, self.style) + self._answer(text, self.style)
        end_id = tokenizer.eos_token_id
        return {"input_ids": [*ids, end_id] if ended and isinstance(end_id, int) else ids}

    @torch.no_grad()
    def scores(self, readings: Sequence[Reading]) -> Float[Tensor, " b"]:
        """One score a text; texts of one length together, so that nothing is padded and none knows of the others."""
        length = [len(reading["input_ids"]) for reading in readings]
        self._check(max(length))
        found = torch.empty(len(readings))
        for _, same in groupby(sorted(range(len(readings)), key=length.__getitem__), key=length.__getitem__):
            for rows in torch.tensor(list(same)).split(self.batch_size):
                some = [readings[row] for row in rows.tolist()]
                inputs = {key: torch.tensor([r[key] for r in some]).to(self.model.device) for key in some[0]}
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
                found[rows] = self.model(**inputs).logits[:, 0].float().cpu()
        return found

    @property
    def window(self) -> int:
        """How many tokens it reads at once."""
        return min(window_of(self.model.config) or _NO_LIMIT, self.tokenizer.model_max_length)

    def _answer(self, text: str, style: Style) -> list[int]:
        return response_ids(self.tokenizer, text, style, max_tokens=_NO_LIMIT, end_id=0, ended=False)

    def _check(self, num_tokens: int) -> None:
        if num_tokens > self.window:
            raise FailedError(
                f"ppo.reward: {self.name!r} reads {self.window} tokens, and a prompt with its answer has {num_tokens}; "
                "lower data.max_prompt_tokens or ppo.max_response_tokens, or give another reward model"
            )


def check_judge(name: str, config: LmConfig, prompts: Sequence[Example]) -> None:
    """InputError where a reward model from elsewhere is none, or too short for the run's prompts and answers."""
    judge, encoder = Judge.load(name, config), Encoder.of(config)
    by_length = sorted(prompts, key=lambda example: -len(example.prompt))
    asked = (example for example in by_length if len(encoder.prompt(example)) <= config.data.max_prompt_tokens)
    longest = max((len(judge.reading(e, "")["input_ids"]) for e in islice(asked, _LOOKED_AT)), default=0)
    needed = longest + config.ppo.max_response_tokens
    if needed > judge.window:
        raise InputError(
            f"ppo.reward: {name!r} reads {judge.window} tokens, but a prompt of {longest} of them and "
            f"ppo.max_response_tokens={config.ppo.max_response_tokens} need {needed}; lower data.max_prompt_tokens or "
            "ppo.max_response_tokens, or give another reward model"
        )
