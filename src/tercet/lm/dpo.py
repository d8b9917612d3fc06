"""DPO: train the SFT policy on the preference pairs themselves (Rafailov et al. 2023, arXiv:2305.18290)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.core.dpo import implicit_rewards
from tercet.core.kl import k1
from tercet.core.losses import pairwise_loss
from tercet.core.statistics import wins
from tercet.errors import FailedError, InputError
from tercet.lm.batch import TokenBatch
from tercet.lm.data.batches import lessons
from tercet.lm.data.digests import digests
from tercet.lm.data.examples import Example
from tercet.lm.data.splits import overlap
from tercet.lm.models.division import to_save
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.pair_batches import (
    PairBatches,
    Pairs,
    held_out_pairs,
    pair_length,
    pair_prompt,
    preference_pairs,
    score_pairs,
)
from tercet.lm.preferences.pair_scores import summary
from tercet.lm.prompts import validation_prompts
from tercet.lm.rollout import RefLogprobs, reference_logprobs
from tercet.lm.sampling.model_check import check_policy
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.stages import sft_model
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.train.chance import generator
from tercet.train.device import device_of
from tercet.train.fit import LossTerms, fit
from tercet.train.loss_scale import LossScale
from tercet.train.parallel import combined, own, own_batches

NO_VALIDATION = "dpo: no validation prompts are held out to measure the KL on; raise data.eval_fraction"
# nats per token between the untrained policy and the reference; as in PPO
TOLERANCE = {"fp32": 2e-3, "bf16": 1e-2, "fp16": 2e-3}
SHOWN = ["dpo/loss", "dpo/accuracy", "dpo/margin", "dpo/validation_kl"]


def run(folder: RunFolder, config: LmConfig) -> None:
    """Train the SFT policy on the pairs of step 2, measure it on held-out pairs, and save it in DIR/dpo/model.

    The reference is the SFT policy. Log-probabilities are those at ppo.temperature, at which the policy is sampled.
    """
    if not (policy_path := sft_model(folder, config.ppo.policy)):
        missing = folder.path / "sft" / "model"
        raise InputError(
            f"dpo: {missing} does not exist yet; run `tercet lm sft` with the same --out, or set ppo.policy"
        )
    examples, encoder = preference_pairs(folder, config)
    train = encoder.within_limits(examples.train, "dpo")
    held_out = held_out_pairs(examples, encoder, most=config.dpo.num_eval, step="dpo")
    if not (prompts := validation_prompts(encoder, config)):
        raise InputError(NO_VALIDATION)
    todo = lessons(
        train,
        config.data,
        config.dpo,
        step="reward",
        section="dpo",
        seed=config.seed,
        group_prompts=config.reward.group_pairs,
    )
    learned = _untrained(config, encoder, policy_path)
    policy = learned.policy
    batches = PairBatches(encoder, device_of(config.device), config.dpo.micro_batch_size)
    sampler = Sampler(policy, encoder, learned.temperature, config.eval.batch_size)

    def measure(index: int) -> dict[str, float]:
        done = index + 1
        if done % config.dpo.eval_every and done < len(todo.plan.rows):
            return {}
        return {"dpo/validation_kl": _kl(sampler, prompts, learned, seed=config.seed)}

    data = digests(config, "dpo")
    with folder.step("dpo", total=len(todo.plan.rows), shown=SHOWN, data=data) as step:
        if step.restore() is None:
            folder.add_results("dpo", {"prompt_overlap": {"dpo": overlap(examples)}})
            _check_start(learned, batches.of([todo.examples[row] for row in todo.plan.rows[0][:2]]))
        fit(
            step,
            modules={"policy": policy},
            plan=todo.plan.rows,
            micro_batches=lambda rows: batches.of(own([todo.examples[row] for row in rows], pair_length, pair_prompt)),
            count=lambda pairs: pairs.num,
            loss=lambda pairs: dpo_loss(learned, pairs, beta=config.dpo.beta),
            config=config.dpo,
            seed=config.seed,
            metric_prefix="dpo",
            scale=LossScale() if config.scales_losses else None,
            eight_bit=config.optimizer == "adamw8bit",
            measure=measure,
        )
        policy.eval()
        found = {
            name: summary(score_pairs(lambda batch: learned(batch, beta=config.dpo.beta), pairs, batches))
            for name, pairs in held_out.items()
        }
        saved = to_save(policy)
        step.save_folder("model", lambda path: saved.save(path, encoder.tokenizer, encoder.ends.ids))
        of_sets = {key: {name: one[key] for name, one in found.items()} for key in ("accuracy", "margin")}
        step.finish({"dpo": of_sets})


class LearnedReward:
    """The reward that a policy stands for: beta times its log-ratio to the reference."""

    def __init__(self, policy: Policy, reference: RefLogprobs, temperature: float) -> None:
        self.policy, self.reference, self.temperature = policy, reference, temperature

    def __call__(self, batch: TokenBatch, *, beta: float) -> Float[Tensor, " b"]:
        """Return the reward of each response."""
        return implicit_rewards(self.logprobs(batch), self.reference(batch), batch.response_mask, beta=beta)

    def logprobs(self, batch: TokenBatch) -> Float[Tensor, "b t"]:
        """Return the policy's log-probability of each response token."""
        return response_logprobs(self.policy, batch, temperature=self.temperature).logprobs


def _untrained(config: LmConfig, encoder: Encoder, policy_path: str) -> LearnedReward:
    """Load the policy and its reference, which is the policy without its adapters if it has adapters."""
    policy = load_policy(config, path=policy_path, learns=True)
    encoder.check_window(policy.model)
    check_policy(policy)
    temperature = config.ppo.temperature
    frozen = None if config.lora.rank else load_policy(config, path=policy_path)
    return LearnedReward(policy, reference_logprobs(policy, frozen, temperature=temperature), temperature)


def dpo_loss(learned: LearnedReward, pairs: Pairs, *, beta: float) -> LossTerms:
    """Return DPO's loss and its metrics, summed over pairs; a tie counts half in the accuracy."""
    rewards = learned(pairs.batch, beta=beta)
    chosen, rejected = rewards[pairs.chosen], rewards[pairs.rejected]
    losses = pairwise_loss(chosen, rejected)
    chosen, rejected = chosen.detach(), rejected.detach()
    metrics = {
        "accuracy": wins(chosen - rejected),
        "margin": chosen - rejected,
        "reward_chosen": chosen,
        "reward_rejected": rejected,
    }
    return LossTerms(losses.sum(), {name: float(values.sum()) for name, values in metrics.items()})


@torch.no_grad()
def _kl(sampler: Sampler, prompts: Sequence[Example], learned: LearnedReward, *, seed: int) -> float:
    """Return the KL from the reference in nats per response, on responses that the policy samples now."""
    kls: list[Tensor] = []
    for responses in sampler.sample_all(prompts, generator(seed, "validation"), title="validation"):
        batch = responses.batch
        kl = torch.zeros(len(batch.ids), device=batch.ids.device)
        for rows in own_batches(batch.lengths.tolist(), sampler.batch_size):
            part = batch.rows(rows)
            kl[rows] = k1(learned.logprobs(part), learned.reference(part)).sum(1)  # both are 0 at padding
        kls.append(combined(kl))
    return float(torch.cat(kls).mean())


@torch.no_grad()
def _check_start(learned: LearnedReward, batches: Sequence[Pairs]) -> None:
    """Raise FailedError if the untrained policy is not the reference: the first loss would not be ln 2."""
    most = TOLERANCE[learned.policy.precision]
    for pairs in batches:
        lengths = pairs.batch.response_mask.sum(1).clamp(min=1)  # a response may be empty
        ratios = learned(pairs.batch, beta=1.0) / lengths
        if not (off := float(ratios.abs().max())) <= most:
            raise FailedError(
                f"dpo: the policy differs from its reference by {off:.3g} nats per token before the first step, more "
                f"than {most:g}: the reference is not the model that DPO starts from. Nothing was trained"
            )
