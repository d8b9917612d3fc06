"""What must hold before PPO may start; each of these has silently ruined somebody's run."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from tercet.config.lm import PpoConfig
from tercet.core.losses import ratio_statistics
from tercet.core.masked import masked_mean
from tercet.errors import FailedError
from tercet.lm.batch import TokenBatch
from tercet.lm.rollout import Assessed, LmActorCritic, RefLogprobs, beyond_clip, build, kl_per_answer, paid_scores
from tercet.lm.sampling.responses import Answers
from tercet.lm.scoring import score_rows

# The largest difference between two computations of one number, in nats or units of reward. In bf16 another batch
# shape is another rounding, and `sampler` and `grouping` are means over tokens. On SmolLM2-135M `sampler` was 0.011
# (0.027 with logits in bf16); `grouping` was 0 on a CPU without bf16 instructions, and 0.0036 on another machine
# (0.020). The ratio, the KL and the rewards compare like with like, and must agree there too.
TOLERANCE = {
    "fp32": dict.fromkeys(("sampler", "ratio", "grouping", "kl", "padding", "reward_identity"), 2e-3),
    "bf16": {"sampler": 0.1, "ratio": 1e-2, "grouping": 0.05, "kl": 1e-2, "padding": 0.3, "reward_identity": 2e-3},
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
        "grouping": _grouping(answers.batch, seen, actor_critic, config),
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
        "grouping": "what a token is worth depends on the other rows of its micro-batch, more than rounding explains: "
        "positions or the attention mask are wrong, or precision=bf16 is too coarse for this model",
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
    logprobs = _training_forward(batch, actor_critic, torch.arange(len(batch.ids)).split(config.micro_batch_size))
    ratio = ratio_statistics(logprobs, seen.logprobs, batch.response_mask, clip_range=config.clip_range)
    return max(float((logprobs - seen.logprobs).abs().max()), float(ratio.clip_fraction), float(ratio.approx_kl))


def _grouping(batch: TokenBatch, seen: Assessed, actor_critic: LmActorCritic, config: PpoConfig) -> float:
    """The mean |log ratio| where rows have other neighbours than in the rollout, as in PPO's minibatches."""
    rows = torch.arange(len(batch.ids))
    parts = [part for half in (rows[::2], rows[1::2]) for part in half.split(config.micro_batch_size)]
    logprobs = _training_forward(batch, actor_critic, parts)
    return float(masked_mean((logprobs - seen.logprobs).abs(), batch.response_mask))


def _padding(batch: TokenBatch, seen: Assessed, actor_critic: LmActorCritic, reference: RefLogprobs) -> float:
    """The same rows alone, and the whole batch with junk in longer padding."""
    row = torch.tensor([int(batch.lengths.argmin())])
    alone = batch.rows(row)
    junk = torch.randint(1, 4, (len(batch.ids), 3), generator=torch.Generator().manual_seed(0)).to(batch.ids.device)
    tail = torch.cat([batch.ids, junk], 1)
    columns = torch.arange(tail.shape[1], device=tail.device)
    tail = torch.where(columns[None] < batch.lengths[:, None], tail, tail.flip(1).clamp(max=3))
    padded = TokenBatch(tail, batch.prompt_lengths, batch.response_mask)
    off: list[Tensor] = []
    with torch.no_grad():
        for one, rows in ((alone, row), (padded, torch.arange(len(tail)))):
            values = one.at_actions(actor_critic.value_model(one), shift=-1)
            for ours, before in ((reference(one), seen.ref_logprobs[rows]), (values, seen.values[rows])):
                off.append((ours - before).abs().max())
        both = [score_rows(actor_critic.value_model, b, len(b.ids)) for b in (batch, padded)]
    return float(torch.stack([*off, (both[0] - both[1]).abs().max()]).max())  # nan if any is; Python's max may drop it


def _reward_identity(answers: Answers, seen: Assessed, config: PpoConfig) -> float:
    rollout = build(answers, seen, config, kl_coef=config.kl_coef)
    paid = rollout.rewards.masked_fill(~rollout.mask, 0.0).sum(1)
    due = paid_scores(answers, seen, config) - config.kl_coef * kl_per_answer(seen, answers)
    return float((paid - due).abs().max())


@torch.no_grad()
def _training_forward(batch: TokenBatch, actor_critic: LmActorCritic, parts: Sequence[Int[Tensor, " n"]]) -> Tensor:
    """The actor's log-probabilities in training mode, these rows at a time."""
    actor_critic.policy.train()
    found = torch.cat([actor_critic.actor(batch.rows(rows).inputs).logprobs for rows in parts])
    actor_critic.policy.eval()
    return found[torch.cat(list(parts)).argsort()]


def _failed(what: str, why: str) -> FailedError:
    return FailedError(f"PPO's self-check: {what}: {why}. Nothing was trained")
