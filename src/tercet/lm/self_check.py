"""What must hold before PPO may start; each of these has silently ruined somebody's run."""

from collections.abc import Callable

import torch
from torch import Tensor

from tercet.config.lm import PpoConfig
from tercet.core.losses import ratio_statistics
from tercet.core.masked import masked_mean
from tercet.errors import FailedError
from tercet.lm.answers import Answers
from tercet.lm.rollout import Assessed, LmActorCritic, RefLogprobs, beyond_clip, build, kl_per_answer, paid_scores
from tercet.lm.scoring import score_rows
from tercet.lm.tokens import TokenBatch

# The largest difference between two computations of one number, in nats or units of reward. In bf16 another batch
# shape is another rounding; the ratio and the rewards compare like with like, and must agree there too.
TOLERANCE = {
    "fp32": dict.fromkeys(("sampler", "ratio", "kl", "padding", "reward_identity"), 2e-3),
    "bf16": {"sampler": 0.3, "ratio": 1e-2, "kl": 0.1, "padding": 0.3, "reward_identity": 2e-3},
}


def check(
    answers: Answers, seen: Assessed, actor_critic: LmActorCritic, reference: RefLogprobs, config: PpoConfig
) -> dict[str, float]:
    """Measure everything on one small rollout of the untrained actor; FailedError says what does not hold and why.

    Finite numbers, and scores within the clip; the sampler's log-probabilities near those of the rollout (in bf16 they
    are computed again, and a broken sampler would hide behind that); ratio 1 with the training forward; KL 0 from the
    reference; log-probabilities and values that do not depend on padding and batch mates; rewards that sum to the score
    less the price of the KL.
    """
    mask, tolerance = answers.batch.response_mask, TOLERANCE[actor_critic.policy.precision]
    for name in ("logprobs", "ref_logprobs", "values", "scores"):
        if not torch.isfinite(getattr(seen, name)).all():
            raise _failed(f"{name} are not finite", "the weights are damaged, or too large for this precision")
    if beyond_clip(seen, config).all():
        raise _failed(
            f"every score lies beyond ppo.reward_clip={config.reward_clip:g}, from {float(seen.scores.min()):.3g} to "
            f"{float(seen.scores.max()):.3g}",
            "all answers would be paid alike; lower the weights of ppo.reward, or raise ppo.reward_clip",
        )
    found = {
        "sampler": float(masked_mean((answers.logprobs - seen.logprobs).abs(), mask)),
        "ratio": _ratio(answers.batch, seen, actor_critic, config),
        "kl": float(kl_per_answer(seen, answers).abs().max() / mask.sum(1).max()),
        "padding": _padding(answers.batch, seen, actor_critic, reference),
        "reward_identity": _reward_identity(answers, seen, config),
    }
    not_the_sampler = (
        "the sampler's log-probabilities are not those of the training forward: dropout, another temperature, "
        "or a cache or position ids that this architecture handles differently"
    )
    causes = {
        "sampler": not_the_sampler,
        "ratio": not_the_sampler,
        "kl": "the reference is not the model that the actor starts from",
        "padding": "what a token is worth depends on padding or batch mates: positions or the attention mask are wrong",
        "reward_identity": "rewards do not sum to score - kl_coef * KL: something is lost or counted twice",
    }
    for name, value in found.items():
        if not value <= tolerance[name]:
            raise _failed(f"{name} is off by {value:.3g}, more than {tolerance[name]:.3g}", causes[name])
    return found


def _ratio(batch: TokenBatch, seen: Assessed, actor_critic: LmActorCritic, config: PpoConfig) -> float:
    """|log ratio| of the first update, which must be 0, and with it the clip fraction and the approximate KL."""
    actor_critic.policy.train()
    logprobs = _in_parts(batch, lambda part: actor_critic.actor(part.inputs).logprobs, config.micro_batch_size)
    actor_critic.policy.eval()
    ratio = ratio_statistics(logprobs, seen.logprobs, batch.response_mask, clip_range=config.clip_range)
    return max(float((logprobs - seen.logprobs).abs().max()), float(ratio.clip_fraction), float(ratio.approx_kl))


def _padding(batch: TokenBatch, seen: Assessed, actor_critic: LmActorCritic, reference: RefLogprobs) -> float:
    """The same rows alone, and the whole batch with junk in longer padding."""
    row = torch.tensor([int(batch.lengths.argmin())])
    alone = batch.rows(row)
    junk = torch.randint(1, 4, (len(batch.ids), 3), generator=torch.Generator().manual_seed(0)).to(batch.ids.device)
    tail = torch.cat([batch.ids, junk], 1)
    columns = torch.arange(tail.shape[1], device=tail.device)
    tail = torch.where(columns[None] < batch.lengths[:, None], tail, tail.flip(1).clamp(max=3))
    padded = TokenBatch(tail, batch.prompt_lengths, batch.response_mask)
    worst = 0.0
    with torch.no_grad():
        for one, rows in ((alone, row), (padded, torch.arange(len(tail)))):
            values = one.at_actions(actor_critic.value_model(one), shift=-1)
            for ours, before in ((reference(one), seen.ref_logprobs[rows]), (values, seen.values[rows])):
                worst = max(worst, float((ours - before).abs().max()))
        both = [score_rows(actor_critic.value_model, b, len(b.ids)) for b in (batch, padded)]
    return max(worst, float((both[0] - both[1]).abs().max()))


def _reward_identity(answers: Answers, seen: Assessed, config: PpoConfig) -> float:
    rollout = build(answers, seen, config, kl_coef=config.kl_coef)
    paid = rollout.rewards.masked_fill(~rollout.mask, 0.0).sum(1)
    due = paid_scores(answers, seen, config) - config.kl_coef * kl_per_answer(seen, answers)
    return float((paid - due).abs().max())


@torch.no_grad()
def _in_parts(batch: TokenBatch, compute: Callable[[TokenBatch], Tensor], size: int) -> Tensor:
    return torch.cat([compute(batch.rows(rows)) for rows in torch.arange(len(batch.ids)).split(size)])


def _failed(what: str, why: str) -> FailedError:
    return FailedError(f"PPO's self-check: {what}: {why}. Nothing was trained")
