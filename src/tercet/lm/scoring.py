"""What an answer earns: a weighted sum of reward models and of functions of prompt and response."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.core.statistics import ScoreScale
from tercet.errors import InputError
from tercet.lm.batch import TokenBatch
from tercet.lm.models.backbone import Backbone, load_reward_model
from tercet.lm.models.roles import ScoreModel, load_score_model
from tercet.lm.models.weights import config_at, named_by_key
from tercet.lm.preferences.foreign import Judge
from tercet.lm.preferences.functions import call_function, load_score_function
from tercet.lm.sampling.responses import Answers
from tercet.lm.text.encoder import Encoder

NO_REWARD = (
    "ppo.reward: names no reward of a weight other than 0; "
    "give {reward_model: 1.0}, a folder, a hub id or module:function"
)
OWN = "reward_model"  # the name by which ppo.reward asks for the reward model of the same run

Score = Callable[[Answers], Float[Tensor, " b"]]


@dataclass(frozen=True)
class Scorer:
    """The weighted sum of its terms."""

    terms: Sequence[tuple[float, Score]]

    def __call__(self, answers: Answers) -> Float[Tensor, " b"]:
        """One score an answer, on the device of the answers' tokens."""
        return torch.stack([weight * score(answers).float() for weight, score in self.terms]).sum(0)


def load_terms(config: LmConfig, own_path: str, backbone: Backbone | None) -> dict[str, Score]:
    """The terms of ppo.reward by their names, as they score; `own_path` is where this run's reward model lies."""
    terms: dict[str, Score] = {}
    batch_size = config.ppo.micro_batch_size
    for name in config.ppo.reward:
        if name == OWN:
            terms[name] = by_model(load_reward_model(config, own_path, backbone), batch_size)
        elif ":" in name:
            terms[name] = by_function(name)
        else:
            terms[name] = by_foreign_model(name, config)
    if not any(config.ppo.reward.values()):
        raise InputError(NO_REWARD)
    return terms


def scaled(score: Score, scale: ScoreScale) -> Score:
    """The score on that scale."""
    return lambda answers: scale.gain * score(answers) + scale.bias


def by_model(model: ScoreModel, batch_size: int) -> Score:
    """The score of a reward model that shares the policy's tokenizer, on the very tokens that were sampled."""

    def score(answers: Answers) -> Tensor:
        return score_rows(model, answers.batch, batch_size)

    return score


def by_function(spec: str) -> Score:
    """The score of a function `module:function` of prompts and responses."""
    function = load_score_function(spec)

    def score(answers: Answers) -> Tensor:
        scores = call_function(function, answers.prompts, answers.texts)
        # in fp64: 1,000,000 and 1,000,000.05 are to be told apart until they are scaled
        return torch.tensor(scores, dtype=torch.float64, device=answers.batch.ids.device)

    return score


def by_foreign_model(path: str, config: LmConfig) -> Score:
    """The score of a reward model with a tokenizer of its own, which reads the answers' text.

    One of another run reads what it was trained on, prompt and answer in the style of `config.data`.
    """
    if not is_ours(path, config):
        return Judge.load(path, config)
    model = load_score_model(config, path=path, trained=True)
    encoder = Encoder.of(config, path)
    # another tokenizer may need more tokens for the same text
    encoder = replace(encoder, max_response_tokens=4 * encoder.max_sampled_tokens)

    def score(answers: Answers) -> Tensor:
        ended = answers.ended.tolist()
        ids = [encoder.response(text, ended=end) for text, end in zip(answers.texts, ended, strict=True)]
        batch = encoder.batch([encoder.prompt(example) for example in answers.examples], ids)
        return score_rows(model, batch.to(answers.batch.ids.device), config.ppo.micro_batch_size)

    return score


def is_ours(path: str, config: LmConfig) -> bool:
    """Whether a run of Tercet's trained the reward model."""
    with named_by_key(config, path):
        return hasattr(config_at(config.model, path), "score_bias")


@torch.no_grad()
def score_rows(model: ScoreModel, batch: TokenBatch, batch_size: int) -> Float[Tensor, " b"]:
    """The scores of any number of rows, a few at a time."""
    model.eval()
    return torch.cat([model.scores(batch.rows(rows)) for rows in torch.arange(len(batch.ids)).split(batch_size)])
