"""Step 2, judge: train a reward model on preference pairs (Ouyang et al. 2022, section 3.5)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from tercet.config.lm import LmConfig, NetworkConfig, RewardConfig
from tercet.core.losses import pairwise_loss, per_token_pairwise_loss
from tercet.core.statistics import ScoreScale, score_gain_and_bias, wins
from tercet.errors import FailedError, InputError
from tercet.lm.batch import TokenBatch
from tercet.lm.data.batches import lessons
from tercet.lm.data.digests import digests
from tercet.lm.data.examples import Example
from tercet.lm.data.splits import Sets, overlap
from tercet.lm.models.backbone import save_adapters
from tercet.lm.models.division import to_save
from tercet.lm.models.roles import ScoreModel, load_policy, load_score_model
from tercet.lm.pair_batches import (
    PairBatches,
    Pairs,
    held_out_pairs,
    pair_length,
    pair_prompt,
    preference_pairs,
    score_pairs,
)
from tercet.lm.preferences.off_topic import with_off_topic
from tercet.lm.preferences.pair_scores import PairScores, summary
from tercet.lm.preferences.pairs import round_set
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.scales import draw_examples, reference_responses
from tercet.lm.scoring import score_rows
from tercet.lm.stages import model_of, sft_model
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.runs.rounds import in_round, results_in_round
from tercet.train.device import device_of
from tercet.train.fit import LossTerms, fit
from tercet.train.loss_scale import LossScale
from tercet.train.parallel import own


def run(folder: RunFolder, config: LmConfig, *, number: int = 0) -> None:
    """Train a reward model, measure it on held-out pairs of every set, and save it in DIR/reward/model.

    Its score is normalised to mean 0 and variance 1 over responses of the SFT policy, or over the training responses
    if the run has no SFT policy. Round `number` adds pairs of responses of the last actor and writes to
    DIR/reward-<number>. It starts from the same weights as round 0: a model that is trained further would see the
    earlier pairs once more in every round and overfit them.
    """
    examples, encoder = preference_pairs(folder, config, number)
    train = with_off_topic(encoder.within_limits(examples.train, "reward"), config.reward.off_topic, seed=config.seed)
    held_out = held_out_pairs(examples, encoder, most=config.reward.num_eval, step="reward")
    todo = lessons(
        train, config.data, config.reward, step="reward", seed=config.seed, group_prompts=config.reward.group_pairs
    )
    stages = dict(todo.plan.stages)
    policy_path = sft_model(folder, config.ppo.policy)
    model = _untrained(config, config.reward, policy_path)
    encoder.check_window(model.model)
    batches = PairBatches(encoder, device_of(config.device), config.reward.micro_batch_size)

    scored: dict[str, PairScores] = {}  # by the model at the end of the latest stage

    def measure(index: int) -> dict[str, float]:
        if index not in stages:
            return {}
        scored.update({name: score_pairs(model.scores, pairs, batches) for name, pairs in held_out.items()})
        return {f"reward/accuracy/{name}": summary(scores)["accuracy"]["mean"] for name, scores in scored.items()}

    name, data = in_round("reward", number), digests(config, "reward")
    with folder.step(name, total=len(todo.plan.rows), shown=["reward/loss", "reward/accuracy"], data=data) as step:
        if step.restore() is None:
            folder.add_results(name, results_in_round({"prompt_overlap": {"reward": overlap(examples)}}, number))
        fit(
            step,
            modules={"reward_model": model},
            plan=todo.plan.rows,
            micro_batches=lambda rows: batches.of(own([todo.examples[row] for row in rows], pair_length, pair_prompt)),
            count=lambda pairs: pairs.num,
            loss=lambda pairs: pair_loss(model, pairs, config.reward.loss),
            config=config.reward,
            seed=config.seed,
            metric_prefix="reward",
            scale=LossScale() if config.scales_losses else None,
            eight_bit=config.optimizer == "adamw8bit",
            measure=measure,
        )
        model.eval()
        pair_scores = scored or {name: score_pairs(model.scores, pairs, batches) for name, pairs in held_out.items()}
        reference, kind = _reference_batches(config, policy_path, encoder, todo.examples)
        scale = _normalise(model, reference, batch_size=config.reward.micro_batch_size)
        saved = to_save(model)
        step.save_folder("model", lambda path: saved.save(path, encoder.tokenizer, encoder.ends.ids))
        if config.lora.shared_backbone:
            step.save_folder("adapter", lambda path: save_adapters(model, path))
        results = _by_metric({name: summary(scores, scale) for name, scores in pair_scores.items()})
        num = sum(len(batch.ids) for batch in reference)
        normalised = {"gain": scale.gain, "bias": scale.bias, "over": kind, "num": num}
        measured = results | {"normalised": normalised, "forgetting": _forgetting(folder, name, stages)}
        before = _accuracy_before(folder, config, number, held_out, batches) if number else {}
        step.finish(results_in_round({"reward_model": measured, **before}, number))


def _untrained(networks: NetworkConfig, reward: RewardConfig, policy_path: str) -> ScoreModel:
    """Load the start of the reward model: reward.model, or with a shared backbone the policy that PPO starts from."""
    start = policy_path if networks.lora.shared_backbone else reward.model
    if networks.lora.shared_backbone and not start:
        raise InputError(
            "reward: with lora.shared_backbone its adapters are trained on the SFT policy; "
            "run `tercet lm sft` with the same --out first, or set ppo.policy"
        )
    num_layers, dropout = reward.num_layers, networks.lora.dropout
    return load_score_model(
        networks,
        path=start,
        num_layers=num_layers,
        learns=True,
        lora_dropout=dropout,
        is_backbone=networks.lora.shared_backbone,
    )


def pair_loss(model: ScoreModel, pairs: Pairs, kind: str) -> LossTerms:
    """Return the pairwise loss, summed over pairs, and the number of correctly ranked pairs (a tie counts half)."""
    values = model(pairs.batch)
    scores = pairs.batch.last(values)
    chosen, rejected = scores[pairs.chosen], scores[pairs.rejected]
    if kind == "per_token":
        extended = pairs.batch.repeat_last(values)
        first = from_first_difference(pairs)
        losses = per_token_pairwise_loss(extended[pairs.chosen], extended[pairs.rejected], first)
    else:
        losses = pairwise_loss(chosen, rejected)
    margin = (chosen - rejected).detach()
    return LossTerms(losses.sum(), {"accuracy": float(wins(margin).sum()), "margin": float(margin.sum())})


def from_first_difference(pairs: Pairs) -> Bool[Tensor, "n length"]:
    """Return True from the first token in which the two texts of a pair differ to the end of the longer one."""
    ids, real = pairs.batch.ids, pairs.batch.attention_mask.bool()
    chosen, rejected = real[pairs.chosen], real[pairs.rejected]
    differ = (ids[pairs.chosen] != ids[pairs.rejected]) | (chosen != rejected)
    return (differ.cumsum(1) > 0) & (chosen | rejected)


def _accuracy_before(
    folder: RunFolder, config: LmConfig, number: int, held_out: Sets, batches: PairBatches
) -> dict[str, object]:
    """Return how often the reward model of the round before agrees with the judge on this round's held-out pairs."""
    pairs = held_out.get(round_set(number))
    if not pairs:
        return {}
    path = model_of(folder, in_round("reward", number - 1))
    model = load_score_model(config, path=path, trained=True)
    return {"accuracy_before": summary(score_pairs(model.scores, pairs, batches))["accuracy"]}


def _reference_batches(
    config: LmConfig, policy_path: str, encoder: Encoder, train: Sequence[Example]
) -> tuple[list[TokenBatch], str]:
    """Return the responses over which the score is normalised, and a description of them."""
    num = config.reward.num_reference_samples
    if policy_path:
        policy = load_policy(config, path=policy_path)
        sampler = Sampler(policy, encoder, config.ppo.temperature, config.eval.batch_size)
        responses = reference_responses(sampler, train, num, seed=config.seed)
        return [part.batch for part in responses], "answers of the SFT policy"
    batches = PairBatches(encoder, device_of(config.device), config.reward.micro_batch_size)
    drawn = draw_examples(train, num, seed=config.seed)[: len(train)]
    return [pairs.batch for pairs in batches.of(drawn)], "training answers, chosen and rejected"


def _normalise(model: ScoreModel, reference: Sequence[TokenBatch], *, batch_size: int) -> ScoreScale:
    """Scale the score to mean 0 and variance 1 over responses. FailedError if all of them have the same score."""
    scores = torch.cat([score_rows(model, batch, batch_size) for batch in reference])
    try:
        scale = score_gain_and_bias(scores)
    except ValueError as error:
        raise FailedError(f"reward: the model learned nothing ({error}); try another reward.lr or more data") from error
    model.normalise(scale)
    return scale


def _by_metric(by_set: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Turn set -> metric -> value into metric -> set -> value."""
    metrics = dict.fromkeys(metric for result in by_set.values() for metric in result)
    return {metric: {name: result[metric] for name, result in by_set.items() if metric in result} for metric in metrics}


def _forgetting(folder: RunFolder, step: str, stages: dict[int, str]) -> list[dict[str, object]]:
    """List the accuracy on every set after every stage."""
    rows = {row["index"]: row for row in folder.metrics() if row["step"] == step}
    start = "reward/accuracy/"
    return [
        {"after": name, "accuracy": {k[len(start) :]: v for k, v in rows[index].items() if k.startswith(start)}}
        for index, name in stages.items()
    ]
