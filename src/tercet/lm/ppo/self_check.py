"""Check log-probabilities, values and rewards before PPO starts."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from tercet.config.lm import PpoConfig
from tercet.core.losses import ratio_statistics
from tercet.core.masked import masked_mean
from tercet.errors import FailedError
from tercet.lm.batch import TokenBatch
from tercet.lm.rollout import Assessment, LmActorCritic, RefLogprobs, build, final_scores, is_clipped, kl_per_response
from tercet.lm.sampling.responses import Responses
from tercet.lm.scoring import score_rows

# The largest allowed difference between two computations of one number, in nats or units of reward. In bf16 rounding
# depends on the batch shape, and `sampler` and `grouping` are means over tokens. On SmolLM2-135M `sampler` was 0.011
# (0.027 with logits in bf16). `grouping` was 0 on a CPU without bf16 instructions, and 0.0036 on another machine
# (0.020). The ratio, the KL and the rewards compare equal batch shapes, so they must agree in bf16 too.
# fp16 has 3 more binary digits than bf16.
TOLERANCE = {
    "fp32": dict.fromkeys(("sampler", "ratio", "grouping", "kl", "padding", "reward_identity"), 2e-3),
    "bf16": {"sampler": 0.1, "ratio": 1e-2, "grouping": 0.05, "kl": 1e-2, "padding": 0.3, "reward_identity": 2e-3},
    "fp16": {"sampler": 0.02, "ratio": 2e-3, "grouping": 0.01, "kl": 2e-3, "padding": 0.05, "reward_identity": 2e-3},
}


# the largest mean difference in nats per token while training, when an engine may round the adapters too
MOST_MISMATCH = {"fp32": 0.02, "bf16": 0.2, "fp16": 0.05}


def check_engine(mismatch: float, actor_critic: LmActorCritic) -> None:
    """Raise FailedError if an engine no longer samples from the current policy.

    The self-check cannot find an engine that ignores adapters, because they change nothing before training.
    """
    most = MOST_MISMATCH[actor_critic.policy.precision]
    if not mismatch <= most:
        raise FailedError(
            f"the engine's log-probabilities are off by {mismatch:.3g} a token, more than {most:g}: it does not sample "
            "from the current policy; it may ignore adapters of some layers, or keep old weights. Set "
            "ppo.sampler=own, and give the same command again to continue from the last checkpoint"
        )


def check(
    responses: Responses,
    assessment: Assessment,
    actor_critic: LmActorCritic,
    reference: RefLogprobs,
    config: PpoConfig,
    *,
    at_reference: bool = True,
) -> dict[str, float]:
    """Check a small rollout of the untrained actor; FailedError names the check that fails and its likely cause.

    All numbers are finite, and not all scores are clipped. The sampler's log-probabilities are close to the rollout's
    (which are recomputed in bf16 and fp16, so a broken sampler would otherwise go unnoticed). The ratio in the training
    forward is 1, and with `at_reference` the KL from the reference is 0. Log-probabilities and values do not depend on
    padding or on the other rows. Rewards sum to the score minus the KL penalty.
    """
    mask, precision = responses.batch.response_mask, actor_critic.policy.precision
    tolerance = TOLERANCE[precision]
    for name in ("logprobs", "ref_logprobs", "values", "scores"):
        numbers = getattr(assessment, name)
        if numbers is not None and not torch.isfinite(numbers).all():
            raise _failed(f"{name} are not finite", "the weights are damaged, or too large for this precision")
    if is_clipped(assessment.scores, config).all():
        low, high = float(assessment.scores.min()), float(assessment.scores.max())
        raise _failed(
            f"every score is beyond ppo.reward_clip={config.reward_clip:g}, from {low:.3g} to {high:.3g}",
            "nearly all responses would get the same reward; lower the weights of ppo.reward, or raise ppo.reward_clip",
        )
    errors = {
        "sampler": float(masked_mean((responses.logprobs - assessment.logprobs).abs(), mask)),
        "ratio": _ratio(responses.batch, assessment, actor_critic, config),
        "grouping": _grouping(responses.batch, assessment, actor_critic, config),
        "kl": float(kl_per_response(assessment, responses).abs().max() / mask.sum(1).max()),
        "padding": _padding(responses.batch, assessment, actor_critic, reference),
        "reward_identity": _reward_identity(responses, assessment, config),
    }
    if not at_reference:
        del errors["kl"]
    sampler_differs = (
        "the sampler's log-probabilities are not those of the training forward: dropout, another temperature, "
        "or a cache or position ids that this architecture handles differently"
    )
    engine_differs = (
        "the engine's log-probabilities are not those of the training forward: it has another model, precision or "
        "temperature; a vLLM server must serve the policy that PPO starts from, with --logprobs-mode "
        "processed_logprobs"
    )
    causes = {
        "sampler": engine_differs if responses.by_engine else sampler_differs,
        "ratio": sampler_differs,
        "grouping": "log-probabilities depend on the other rows of the micro-batch, by more than rounding: "
        f"positions or the attention mask are wrong, or precision={precision} is too coarse for this model",
        "kl": "the reference is not the model that the actor starts from",
        "padding": "numbers of a token depend on padding or on other rows: positions or the attention mask are wrong",
        "reward_identity": "rewards do not sum to score - kl_coef * KL: a term is missing or counted twice",
    }
    for name, value in errors.items():
        if not value <= tolerance[name]:
            raise _failed(f"{name} is off by {value:.3g}, more than {tolerance[name]:.3g}", causes[name])
    return errors


def _ratio(batch: TokenBatch, assessment: Assessment, actor_critic: LmActorCritic, config: PpoConfig) -> float:
    """Return the largest of |log ratio|, clip fraction and approximate KL of the first update; all must be 0."""
    logprobs = _training_forward(batch, actor_critic, torch.arange(len(batch.ids)).split(config.micro_batch_size))
    ratio = ratio_statistics(logprobs, assessment.logprobs, batch.response_mask, clip_range=config.clip_range)
    return max(float((logprobs - assessment.logprobs).abs().max()), float(ratio.clip_fraction), float(ratio.approx_kl))


def _grouping(batch: TokenBatch, assessment: Assessment, actor_critic: LmActorCritic, config: PpoConfig) -> float:
    """Return the mean |log ratio| if rows are grouped otherwise than in the rollout, as in PPO's minibatches."""
    rows = torch.arange(len(batch.ids))
    parts = [part for half in (rows[::2], rows[1::2]) for part in half.split(config.micro_batch_size)]
    logprobs = _training_forward(batch, actor_critic, parts)
    return float(masked_mean((logprobs - assessment.logprobs).abs(), batch.response_mask))


def _padding(batch: TokenBatch, assessment: Assessment, actor_critic: LmActorCritic, reference: RefLogprobs) -> float:
    """Return the largest change of a row computed alone, or of the batch with random ids in longer padding."""
    row = torch.tensor([int(batch.lengths.argmin())])
    alone = batch.rows(row)
    junk = torch.randint(1, 4, (len(batch.ids), 3), generator=torch.Generator().manual_seed(0)).to(batch.ids.device)
    tail = torch.cat([batch.ids, junk], 1)
    columns = torch.arange(tail.shape[1], device=tail.device)
    tail = torch.where(columns[None] < batch.lengths[:, None], tail, tail.flip(1).clamp(max=3))
    padded = TokenBatch(tail, batch.prompt_lengths, batch.response_mask)
    off, critic = list[Tensor](), actor_critic.value_model
    with torch.no_grad():
        for one, rows in ((alone, row), (padded, torch.arange(len(tail)))):
            off.append((reference(one) - assessment.ref_logprobs[rows]).abs().max())
            if critic and assessment.values is not None:
                values = one.at_actions(critic(one), shift=-1)
                off.append((values - assessment.values[rows]).abs().max())
        if critic:
            both = [score_rows(critic, b, len(b.ids)) for b in (batch, padded)]
            off.append((both[0] - both[1]).abs().max())
    return float(torch.stack(off).max())  # nan if any is; Python's max may drop it


def _reward_identity(responses: Responses, assessment: Assessment, config: PpoConfig) -> float:
    rollout = build(responses, assessment, config, kl_coef=config.kl_coef)
    total = rollout.rewards.masked_fill(~rollout.mask, 0.0).sum(1)
    kl_coef = config.kl_coef if config.kl_penalty == "reward" else 0.0
    expected = final_scores(responses, assessment, config) - kl_coef * kl_per_response(assessment, responses)
    return float((total - expected).abs().max())


@torch.no_grad()
def _training_forward(batch: TokenBatch, actor_critic: LmActorCritic, parts: Sequence[Int[Tensor, " n"]]) -> Tensor:
    """Return the actor's log-probabilities in training mode, computed in these groups of rows."""
    actor_critic.policy.train()
    logprobs = torch.cat([actor_critic.actor(batch.rows(rows).inputs).logprobs for rows in parts])
    actor_critic.policy.eval()
    return logprobs[torch.cat(list(parts)).argsort()]


def _failed(fault: str, cause: str) -> FailedError:
    return FailedError(f"PPO's self-check: {fault}: {cause}. Nothing was trained")
