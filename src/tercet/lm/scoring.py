"""Score responses: a weighted sum of reward models and of functions of prompt and response."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.config.lm import LmConfig, NetworkConfig
from tercet.core.precision import where_fp64_is
from tercet.core.statistics import AS_IT_IS, ScoreScale
from tercet.errors import InputError
from tercet.lm.batch import TokenBatch
from tercet.lm.data.columns import columns_of
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

Score = Callable[[Responses], Float[Tensor, " b"]]  # nan where a function gives no score


@dataclass(frozen=True)
class Given:
    """What a term of ppo.reward gives to responses: scores as they are, and a function's named scores, nan for none."""

    scores: Float[Tensor, " b"]
    is_missing: Bool[Tensor, " b"] | None = None  # True where a function has given no score
    named: Mapping[str, Float[Tensor, " b"]] = field(default_factory=dict)


Give = Callable[[Responses], Given]


@dataclass(frozen=True)
class Term:
    """A term of ppo.reward: its weight and scale, and a reward model or a function."""

    weight: float
    give: Give
    scale: ScoreScale = AS_IT_IS

    def added(self, given: Given) -> Float[Tensor, " b"]:
        """Return what the term adds to the score of each response; 0, its mean at the start, where there is none."""
        scores = self.weight * (self.scale.gain * given.scores + self.scale.bias).float()
        return scores if given.is_missing is None else scores.masked_fill(given.is_missing, 0.0)


@dataclass(frozen=True)
class Scorer:
    """Score responses with the sum of several terms, by their names."""

    terms: Mapping[str, Term]

    def __call__(self, responses: Responses) -> Float[Tensor, " b"]:
        """Return one score per response, on the device of the responses' tokens."""
        return Tally(self)(responses)


@dataclass(frozen=True)
class Tally:
    """A scorer that remembers what each of its terms has given and added."""

    scorer: Scorer
    added: list[Float[Tensor, "terms _"]] = field(default_factory=list)
    given: dict[str, list[Given]] = field(default_factory=lambda: defaultdict(list))

    def __call__(self, responses: Responses) -> Float[Tensor, " b"]:
        """Return one score per response."""
        terms = self.scorer.terms
        given = {name: term.give(responses) for name, term in terms.items()}
        for name, one in given.items():
            self.given[name].append(one)
        device = responses.batch.ids.device
        self.added.append(torch.stack([term.added(given[name]).to(device) for name, term in terms.items()]))
        return self.added[-1].sum(0)

    @property
    def metrics(self) -> dict[str, float]:
        """The means over all responses so far: of each term if there are several, and of the named scores.

        For each term that gave no score to some responses, their share.
        """
        means = torch.cat(self.added, 1).mean(1).tolist()
        of_terms = {f"term/{name}": mean for name, mean in zip(self.scorer.terms, means, strict=True)}
        metrics = of_terms if len(of_terms) > 1 else {}
        for name, given in self.given.items():
            missing = [one.is_missing for one in given if one.is_missing is not None]
            if any(bool(one.any()) for one in missing):
                metrics[f"unscored/{name}"] = float(torch.cat(missing).float().mean())
            for part in dict.fromkeys(part for one in given for part in one.named):
                scores = torch.cat([one.named[part] for one in given if part in one.named])
                if not scores.isnan().all():
                    metrics[f"named/{name}/{part}"] = float(scores.nanmean())
        return metrics


def load_terms(config: LmConfig, encoder: Encoder, own_path: str, backbone: Backbone | None) -> dict[str, Give]:
    """Load what the terms of ppo.reward give by name; `own_path` is the folder of this run's reward model."""
    terms: dict[str, Give] = {}
    batch_size = config.ppo.micro_batch_size
    for name in config.ppo.reward:
        if ":" in name:
            terms[name] = by_function(name, config.function_timeout_seconds)
        elif name == REWARD_MODEL:
            model = load_reward_model(config, own_path, backbone, num_layers=config.reward.num_layers)
            terms[name] = of_model(by_model(model, batch_size))
        else:
            terms[name] = of_model(by_foreign_model(name, config, encoder, batch_size))
    if not any(config.ppo.reward.values()):
        raise InputError(NO_REWARD)
    return terms


def of_model(score: Score) -> Give:
    """Give the scores of a reward model, which are never missing."""
    return lambda responses: Given(score(responses))


def by_judge(name: str, config: LmConfig, encoder: Encoder, batch_size: int) -> Score:
    """Score with a function `module:function`, or with the reward model of a folder or hub id."""
    if ":" not in name:
        return by_foreign_model(name, config, encoder, batch_size)
    give = by_function(name, config.function_timeout_seconds)
    return lambda responses: give(responses).scores


def by_model(model: ScoreModel, batch_size: int) -> Score:
    """Score with a reward model that shares the policy's tokenizer, on the sampled tokens themselves."""

    def score(responses: Responses) -> Tensor:
        return score_rows(model, responses.batch, batch_size)

    return score


def by_function(spec: str, timeout_seconds: float = 0.0) -> Give:
    """Score with a function `module:function` of prompts, responses and columns of the data."""
    function = load_score_function(spec)

    def give(responses: Responses) -> Given:
        def numbers(values: Sequence[float]) -> Tensor:
            # fp64: scores such as 1,000,000 and 1,000,000.05 must stay distinct until they are scaled
            return torch.tensor(values, dtype=torch.float64, device=where_fp64_is(responses.batch.ids).device)

        columns = columns_of(responses.examples)
        scores = call_function(function, responses.prompts, responses.texts, columns, timeout_seconds=timeout_seconds)
        total = numbers(scores.total)
        return Given(total, total.isnan(), {name: numbers(part) for name, part in scores.named.items()})

    return give


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
