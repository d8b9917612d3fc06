"""Time one PPO step on random weights with the pipeline's own code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from transformers import PreTrainedModel

from tercet.config.lm import LoraConfig, ModelConfig, NetworkConfig, PpoConfig
from tercet.lm.batch import pad
from tercet.lm.models.backbone import Backbone
from tercet.lm.models.division import whole_network
from tercet.lm.models.roles import load_policy, load_score_model
from tercet.lm.plan.hardware import wait
from tercet.lm.rollout import LmActorCritic, assess, build, reference_logprobs
from tercet.lm.sampling.generate import SampledTokens, generate
from tercet.lm.sampling.responses import Responses
from tercet.lm.scoring import by_model
from tercet.runs.clock import Moment
from tercet.train.chance import generator
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.update import takes_one_step, update
from tercet.types import Rollout

EOS = 2
FIRST_WORD = 4  # smaller ids are special tokens


@dataclass(frozen=True)
class Work:
    """The sizes of one step.

    `prompt` and `response` are numbers of tokens. With real lengths, a prompt has 8 to 2 * `prompt` tokens, and a
    response has about `response` tokens, at most twice as many.
    """

    lengths: Literal["fixed", "real"] = "fixed"
    batch: int = 8
    group: int = 1  # responses to a prompt; more than one are compared as GRPO does, without a critic
    prompt: int = 64
    response: int = 64
    threads: int = 2  # CPU threads; the command sets them
    warmup: int = 1
    iters: int = 3
    layers: int = 12
    hidden: int = 768
    vocab: int = 50272


def shape(work: Work) -> dict[str, str | int | float | bool]:
    """Return the architecture, by default that of OPT-125M (Zhang et al. 2022)."""
    return {
        "model_type": "opt",
        "vocab_size": work.vocab,
        "hidden_size": work.hidden,
        "word_embed_proj_dim": work.hidden,
        "num_hidden_layers": work.layers,
        "num_attention_heads": work.hidden // 64,
        "ffn_dim": 4 * work.hidden,
        "max_position_embeddings": 2048,
    }


def networks_of(work: Work, lora: Mapping[str, int | bool] = {}) -> NetworkConfig:
    """Return the config of the networks: all weights of actor and critic are trained, or adapters."""
    return NetworkConfig(
        model=ModelConfig(path="random", architecture=shape(work)), lora=LoraConfig.model_validate(lora)
    )


def ppo_of(work: Work, *, micro_batch_size: int = 8) -> PpoConfig:
    """Return the settings of PPO: one epoch, one minibatch."""
    return PpoConfig(
        algorithm="grpo" if work.group > 1 else "ppo",
        group_size=work.group,
        batch_size=work.batch,
        micro_batch_size=min(work.batch, micro_batch_size),
        epochs=1,
        num_minibatches=1,
        missing_eos_penalty=0.0,
    )


def prompts(work: Work, index: int) -> list[list[int]]:
    """Draw the prompts of step number `index`, each repeated for its group."""
    chance, num = torch.Generator().manual_seed(index), work.batch // work.group
    lengths = [work.prompt] * num
    if work.lengths == "real":
        lengths = torch.randint(8, 2 * work.prompt + 1, (num,), generator=chance).tolist()
    drawn = [torch.randint(FIRST_WORD, work.vocab, (n,), generator=chance).tolist() for n in lengths]
    return [prompt for prompt in drawn for _ in range(work.group)]


def eos_of(work: Work) -> int:
    """Return the id of EOS, or with fixed lengths an id that is never drawn."""
    return EOS if work.lengths == "real" else -1


def most_tokens(work: Work) -> int:
    """Return the maximum length of a response."""
    return work.response * (2 if work.lengths == "real" else 1)


@torch.no_grad()
def make_eos_likely(model: PreTrainedModel, mean: int) -> None:
    """Raise the logit of EOS so that random weights end a response after about `mean` tokens.

    The logits of random weights are nearly equal, so EOS has the probability 1 / mean if its logit is larger by
    log(vocabulary / mean).
    """
    embeddings = model.get_output_embeddings()
    assert embeddings is not None  # every causal language model has them
    head = embeddings.weight
    norm = model.model.decoder.final_layer_norm
    increase = torch.log(torch.tensor(head.shape[0] / mean))
    norm.bias.add_(increase * head[EOS] / head[EOS].square().sum())


def phases(
    moments: tuple[Moment, Moment, Moment, Moment], *, num_drawn: int, num_prompt_tokens: int
) -> dict[str, float]:
    """Compute times and rates of one PPO step from its start and the ends of sampling, scoring and training."""
    start, generated, scored, end = moments
    num_tokens = num_drawn + num_prompt_tokens
    return {
        "gen_s": generated.wall - start.wall,
        "score_s": scored.wall - generated.wall,
        "train_s": end.wall - scored.wall,
        "total_s": end.wall - start.wall,
        "total_cpu_s": end.own - start.own,
        "tokens_per_s": num_tokens / (end.wall - start.wall),
        "gen_tokens_per_s": num_drawn / (generated.wall - start.wall),
        "num_tokens": num_tokens,
        "num_drawn": num_drawn,
        "other_cpus": end.others_since(start),
    }


class Step:
    """One PPO step with its four roles; critic and reward model may have another config than the actor."""

    def __init__(
        self,
        work: Work,
        networks: NetworkConfig,
        ppo: PpoConfig,
        *,
        critics: NetworkConfig | None = None,
        num_critic_layers: int = 0,
    ) -> None:
        self.work, self.ppo = work, ppo
        backbone = Backbone.load(networks) if networks.lora.shared_backbone else None
        self.policy = backbone.policy() if backbone else load_policy(networks, learns=True)
        self.frozen = None if networks.lora.rank else load_policy(networks)
        if work.lengths == "real":
            for policy in filter(None, (self.policy, self.frozen)):
                make_eos_likely(policy.model, work.response)
        build = backbone.score_model if backbone else partial(load_score_model, critics or networks)
        self.critic = build(num_layers=num_critic_layers, learns=True) if ppo.has_critic else None
        self.reward_model = build(num_layers=num_critic_layers, learns=False)
        temperature = ppo.temperature
        self.actor_critic = LmActorCritic(self.policy, self.critic, temperature)
        self.reference = reference_logprobs(self.policy, self.frozen, temperature=temperature)
        self.scorer = by_model(self.reward_model, ppo.micro_batch_size)
        self.learner = Learner.of(self.actor_critic, self.policy, self.critic, ppo)

    def __call__(self, index: int) -> dict[str, float]:
        """Sample, score and train; return the times and rates."""
        prompt_rows = prompts(self.work, index)
        start = self._now()
        drawn = self.sample(prompt_rows, index, most=most_tokens(self.work))
        generated = self._now()
        rollout = self.score(prompt_rows, drawn)
        scored = self._now()
        update(self.learner, rollout, self.ppo, generator=generator(1, index))
        moments = (start, generated, scored, self._now())
        return phases(moments, num_drawn=int(drawn.mask.sum()), num_prompt_tokens=sum(map(len, prompt_rows)))

    def sample(self, prompt_rows: Sequence[Sequence[int]], index: int, *, most: int) -> SampledTokens:
        """Sample responses of at most `most` tokens."""
        policy = whole_network(self.policy).eval()
        with policy.autocast():
            return generate(
                policy.model,
                prompt_rows,
                end_ids=[eos_of(self.work)],
                max_tokens=most,
                temperature=self.ppo.temperature,
                generator=generator(0, index),
                static=policy.cuda_graphs,
            )

    def score(self, prompt_rows: Sequence[Sequence[int]], drawn: SampledTokens) -> Rollout:
        """Compute what PPO needs to know about the responses, with all four roles."""
        ppo, batch = self.ppo, pad(prompt_rows, drawn.tolist(), pad_id=EOS).to(drawn.ids.device)
        responses = Responses([], [""] * len(prompt_rows), batch, drawn.logprobs, drawn.ended)
        assessment = assess(
            responses,
            self.actor_critic,
            self.reference,
            self.scorer,
            micro_batch_size=ppo.micro_batch_size,
            values_learn=takes_one_step(ppo, len(prompt_rows)),
        )
        return build(responses, assessment, ppo, kl_coef=ppo.kl_coef)

    def _now(self) -> Moment:
        wait(self.policy.model.device)
        return Moment.now()
