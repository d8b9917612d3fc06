"""Score responses: a weighted sum of reward models and of functions of prompt and response."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.config.lm import LmConfig, NetworkConfig
from tercet.core.statistics import ScoreScale
from tercet.errors import InputError
from tercet.lm.batch import TokenBatch
from tercet.lm.models.backbone import Backbone, load_reward_model
from tercet.lm.models.configs import config_at, named_by_key
from tercet.lm.models.roles import ScoreModel, load_score_model
from tercet.lm.preferences.foreign import ForeignRewardModel
from tercet.lm.preferences.functions import call_function, load_score_function
from tercet.lm.sampling.responses import Responses
from tercet.lm.text.encoder import Encoder
from tercet.train.parallel import combined, own_batches

NO_REWARD = (
    "ppo.reward: needs a reward whose weight is not 0; give {reward_model: 1.0}, a folder, a hub id or module:function"
)
REWARD_MODEL = "reward_model"  # the name of the same run's reward model in ppo.reward

Score = Callable[[Responses], Float[Tensor, " b"]]


@dataclass(frozen=True)
class Scorer:
    """Score responses with the weighted sum of several terms."""

    terms: Sequence[tuple[float, Score]]

    def __call__(self, responses: Responses) -> Float[Tensor, " b"]:
        """Return one score per response, on the device of the responses' tokens."""
        return self.by_term(responses).sum(0)

    def by_term(self, responses: Responses) -> Float[Tensor, "terms b"]:
        """Return what each term adds to the score of each response."""
        return torch.stack([weight * score(responses).float() for weight, score in self.terms])


@dataclass(frozen=True)
class Tally:
    """A scorer that remembers what each of its terms has added; `names` are those of the terms."""

    scorer: Scorer
    names: Sequence[str]
    added: list[Float[Tensor, "terms _"]] = field(default_factory=list)

    def __call__(self, responses: Responses) -> Float[Tensor, " b"]:
        """Return one score per response."""
        self.added.append(self.scorer.by_term(responses))
        return self.added[-1].sum(0)

    @property
    def metrics(self) -> dict[str, float]:
        """The mean of each term over all responses so far; nothing if there is one term, which is the score."""
        if len(self.names) < 2:
            return {}
        means = torch.cat(self.added, 1).mean(1).tolist()
        return {f"term/{name}": mean for name, mean in zip(self.names, means, strict=True)}


def load_terms(config: LmConfig, encoder: Encoder, own_path: str, backbone: Backbone | None) -> dict[str, Score]:
    """Load the terms of ppo.reward by name, unscaled; `own_path` is the folder of this run's reward model."""
    terms: dict[str, Score] = {}
    batch_size = config.ppo.micro_batch_size
    for name in config.ppo.reward:
        if name == REWARD_MODEL:
            terms[name] = by_model(
                load_reward_model(config, own_path, backbone, num_layers=config.reward.num_layers), batch_size
            )
        else:
            terms[name] = by_judge(name, config, encoder, batch_size)
    if not any(config.ppo.reward.values()):
        raise InputError(NO_REWARD)
    return terms


def scaled(score: Score, scale: ScoreScale) -> Score:
    """Apply a scale to a score."""
    return lambda responses: scale.gain * score(responses) + scale.bias


def by_judge(name: str, networks: NetworkConfig, encoder: Encoder, batch_size: int) -> Score:
    """Score with a function `module:function`, or with the reward model of a folder or hub id."""
    return by_function(name) if ":" in name else by_foreign_model(name, networks, encoder, batch_size)


def by_model(model: ScoreModel, batch_size: int) -> Score:
    """Score with a reward model that shares the policy's tokenizer, on the sampled tokens themselves."""

    def score(responses: Responses) -> Tensor:
        return score_rows(model, responses.batch, batch_size)

    return score


def by_function(spec: str) -> Score:
    """Score with a function `module:function` of prompts and responses."""
    function = load_score_function(spec)

    def score(responses: Responses) -> Tensor:
        scores = call_function(function, responses.prompts, responses.texts)
        # fp64: scores such as 1,000,000 and 1,000,000.05 must stay distinct until they are scaled
        return torch.tensor(scores, dtype=torch.float64, device=responses.batch.ids.device)

    return score


def by_foreign_model(path: str, networks: NetworkConfig, encoder: Encoder, batch_size: int) -> Score:
    """Score with a reward model that has its own tokenizer and reads the responses' text.

    The reward model of another run reads prompt and response in the style of the run's `encoder`.
    """
    if not is_from_tercet(path, networks):
        return ForeignRewardModel.load(path, networks, encoder.style, batch_size=batch_size)
    model = load_score_model(networks, path=path, trained=True)
    encoder = encoder.with_tokenizer_at(path, networks)
    # another tokenizer may need more tokens for the same text
    encoder = replace(encoder, max_response_tokens=4 * encoder.max_sampled_tokens)

    def score(responses: Responses) -> Tensor:
        ended = responses.ended.tolist()
        ids = [encoder.response(text, ended=end) for text, end in zip(responses.texts, ended, strict=True)]
        batch = encoder.batch([encoder.prompt(example) for example in responses.examples], ids)
        return score_rows(model, batch.to(responses.batch.ids.device), batch_size)

    return score


def is_from_tercet(path: str, networks: NetworkConfig) -> bool:
    """Return True if Tercet trained the reward model."""
    with named_by_key(networks, path):
        return hasattr(config_at(networks.model, path), "score_bias")


@torch.no_grad()
def score_rows(model: ScoreModel, batch: TokenBatch, batch_size: int) -> Float[Tensor, " b"]:
    """Score any number of rows in batches of `batch_size`."""
    model.eval()
    scores = torch.zeros(len(batch.ids), device=batch.ids.device)
    for rows in own_batches(batch.lengths.tolist(), batch_size):
        scores[rows] = model.scores(batch.rows(rows))
    return combined(scores)
