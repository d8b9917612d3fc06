"""Step 2, judge: a reward model from the better of two answers (Ouyang et al. 2022, section 3.5)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.core.losses import pairwise_loss, per_token_pairwise_loss
from tercet.core.statistics import score_gain_and_bias, wins
from tercet.errors import FailedError, InputError
from tercet.lm.batch import TokenBatch
from tercet.lm.data.batches import lessons
from tercet.lm.data.digests import digests
from tercet.lm.data.examples import Example
from tercet.lm.data.splits import Sets, StepExamples, flat, require_pairs, step_examples
from tercet.lm.models.backbone import save_adapters
from tercet.lm.models.roles import ScoreModel, device_of, load_policy, load_score_model
from tercet.lm.preferences.pair_scores import PairScores, summary
from tercet.lm.preferences.pairs import sampled_pairs
from tercet.lm.scales import reference_answers, some_prompts
from tercet.lm.scoring import score_rows
from tercet.lm.stages import sft_model
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.runs.progress import progress
from tercet.train.fit import LossTerms, fit


def run(folder: RunFolder, config: LmConfig) -> None:
    """Train a reward model, measure it on held-out pairs of every set, and keep it in DIR/reward/model.

    Its score is normalised: mean 0 and variance 1 over answers of the SFT policy, or over the training answers where
    this run has no SFT policy.
    """
    examples, encoder = _pairs(folder, config)
    train = encoder.within_limits(examples.train, "reward")
    held_out = encoder.within_limits(_held_out(examples, config.reward.num_eval), "held out")
    held_out = {name: pairs for name, pairs in held_out.items() if pairs}
    if not held_out:
        raise InputError(
            "reward: no pairs are held out to measure on; raise data.eval_fraction or give data.eval pairs"
        )
    todo = lessons(train, config.data, config.reward, step="reward", seed=config.seed)
    stages = dict(todo.plan.stages)
    model = _untrained(folder, config)
    encoder.check_window(model.model)
    batches = PairBatches(encoder, device_of(config), config.reward.micro_batch_size)

    scored: dict[str, PairScores] = {}  # by the model as it was when a stage last ended

    def measure(index: int) -> dict[str, float]:
        if index not in stages:
            return {}
        scored.update({name: score_pairs(model, pairs, batches) for name, pairs in held_out.items()})
        return {f"reward/accuracy/{name}": summary(scores)["accuracy"]["mean"] for name, scores in scored.items()}

    data = digests(config, "reward")
    with folder.step("reward", total=len(todo.plan.rows), shown=["reward/loss", "reward/accuracy"], data=data) as step:
        fit(
            step,
            modules={"reward_model": model},
            plan=todo.plan.rows,
            micro_batches=lambda rows: batches.of([todo.examples[row] for row in rows]),
            count=lambda pairs: pairs.num,
            loss=lambda pairs: pair_loss(model, pairs, config.reward.loss),
            config=config.reward,
            seed=config.seed,
            metric_prefix="reward",
            measure=measure,
        )
        model.eval()
        seen = scored or {name: score_pairs(model, pairs, batches) for name, pairs in held_out.items()}
        reference, kind = _reference_batches(folder, config, encoder, todo.examples)
        scores = torch.cat([score_rows(model, b, config.reward.micro_batch_size) for b in reference])
        try:
            scale = score_gain_and_bias(scores)
        except ValueError as error:
            raise FailedError(
                f"reward: the model learned nothing ({error}); try another reward.lr or more data"
            ) from error
        model.normalise(scale)
        step.save_folder("model", lambda path: model.save(path, encoder.tokenizer, encoder.ends.ids))
        if config.lora.shared_backbone:
            step.save_folder("adapter", lambda path: save_adapters(model, path))
        results = _by_figure({name: summary(scores, scale) for name, scores in seen.items()})
        normalised = {"gain": scale.gain, "bias": scale.bias, "over": kind, "num": len(scores)}
        step.finish({"reward_model": results | {"normalised": normalised, "forgetting": _forgetting(folder, stages)}})


def _untrained(folder: RunFolder, config: LmConfig) -> ScoreModel:
    """What the reward model starts from: reward.model, or with a shared backbone the policy that PPO starts from."""
    start = sft_model(folder, config) if config.lora.shared_backbone else ""
    if config.lora.shared_backbone and not start:
        raise InputError(
            "reward: with lora.shared_backbone its adapters are trained on the SFT policy; "
            "run `tercet lm sft` with the same --out first, or set ppo.policy"
        )
    num_layers, dropout = config.reward.num_layers, config.lora.dropout
    return load_score_model(config, path=start, num_layers=num_layers, learns=True, lora_dropout=dropout)


@dataclass(frozen=True)
class Pairs:
    """Chosen answers in the first half of the rows, rejected ones in the second."""

    batch: TokenBatch
    num: int


class PairBatches:
    """Pairs of answers as micro-batches on the device."""

    def __init__(self, encoder: Encoder, device: torch.device, size: int) -> None:
        self.encoder, self.device, self.size = encoder, device, size

    def of(self, examples: Sequence[Example]) -> list[Pairs]:
        """Micro-batches in the order of the examples."""
        parts = [examples[start : start + self.size] for start in range(0, len(examples), self.size)]
        return [self._of(part) for part in parts]

    def _of(self, examples: Sequence[Example]) -> Pairs:
        prompts = [self.encoder.prompt(example) for example in examples]
        chosen = [self.encoder.response(e.chosen, ended=e.chosen_ended) for e in examples]
        rejected = [self.encoder.response(e.rejected or "", ended=e.rejected_ended) for e in examples]
        return Pairs(self.encoder.batch([*prompts, *prompts], [*chosen, *rejected]).to(self.device), len(examples))


def pair_loss(model: ScoreModel, pairs: Pairs, kind: str) -> LossTerms:
    """The pairwise loss, summed over pairs, and how many pairs the model ranks right (a tie counts half)."""
    values = model(pairs.batch)
    scores = pairs.batch.last(values)
    chosen, rejected = scores[: pairs.num], scores[pairs.num :]
    if kind == "per_token":
        held = pairs.batch.held(values)
        losses = per_token_pairwise_loss(held[: pairs.num], held[pairs.num :], from_first_difference(pairs))
    else:
        losses = pairwise_loss(chosen, rejected)
    margin = (chosen - rejected).detach()
    return LossTerms(losses.sum(), {"accuracy": float(wins(margin).sum()), "margin": float(margin.sum())})


def from_first_difference(pairs: Pairs) -> Bool[Tensor, "n length"]:
    """True from the first token in which the two texts of a pair differ to the end of the longer."""
    ids, real = pairs.batch.ids, pairs.batch.attention_mask.bool()
    differ = (ids[: pairs.num] != ids[pairs.num :]) | (real[: pairs.num] != real[pairs.num :])
    return (differ.cumsum(1) > 0) & (real[: pairs.num] | real[pairs.num :])


@torch.no_grad()
def score_pairs(model: ScoreModel, examples: Sequence[Example], batches: PairBatches) -> PairScores:
    """The scores of both answers of every pair, and how many tokens each has."""
    model.eval()
    scores: list[Float[Tensor, " n"]] = []
    lengths: list[Tensor] = []
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt) + len(examples[i].chosen))
    with progress("accuracy", total=len(examples), unit="pairs") as bar:
        for pairs in batches.of([examples[i] for i in order]):
            scores.append(model.scores(pairs.batch).view(2, -1).T.cpu())
            lengths.append(pairs.batch.response_mask.sum(1).view(2, -1).T.cpu())
            bar.advance(pairs.num)
    both, sizes = torch.cat(scores), torch.cat(lengths)
    return PairScores(both[:, 0], both[:, 1], sizes[:, 0], sizes[:, 1])


def samples_pairs(config: LmConfig, examples: StepExamples) -> bool:
    """Return True if the data has no pairs and they are to be sampled."""
    has_pairs = any(example.rejected is not None for example in flat(examples.train))
    return bool(config.reward.num_sampled_pairs) and not has_pairs


def _pairs(folder: RunFolder, config: LmConfig) -> tuple[StepExamples, Encoder]:
    """The data's pairs, or pairs sampled from the SFT model and judged where the data has none; and their encoder."""
    examples, encoder = step_examples(config.data, "reward"), Encoder.of(config)
    if not samples_pairs(config, examples):
        require_pairs(examples)
        return encoder.pairs_that_differ(examples), encoder
    # an answer that the sampler cut must not get an EOS now: PPO will score it without
    encoder = replace(encoder, max_response_tokens=encoder.max_sampled_tokens)
    pairs = sampled_pairs(folder, config, encoder, examples, sft_model(folder, config))
    return encoder.pairs_that_differ(pairs), encoder


def _held_out(examples: StepExamples, most: int) -> Sets:
    return {name: [e for e in rows if e.rejected is not None][:most] for name, rows in examples.held_out.items()}


def _reference_batches(
    folder: RunFolder, config: LmConfig, encoder: Encoder, train: Sequence[Example]
) -> tuple[list[TokenBatch], str]:
    """Answers over which the score is normalised, and what they are."""
    if policy_path := sft_model(folder, config):
        answers = reference_answers(load_policy(config, path=policy_path), encoder, train, config)
        return [part.batch for part in answers], "answers of the SFT policy"
    batches = PairBatches(encoder, device_of(config), config.reward.micro_batch_size)
    some = some_prompts(train, config)[: len(train)]
    return [pairs.batch for pairs in batches.of(some)], "training answers, chosen and rejected"


def _by_figure(by_set: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """figure -> set -> value, from set -> figure -> value."""
    figures = dict.fromkeys(figure for result in by_set.values() for figure in result)
    return {figure: {name: result[figure] for name, result in by_set.items() if figure in result} for figure in figures}


def _forgetting(folder: RunFolder, stages: dict[int, str]) -> list[dict[str, object]]:
    """Accuracy on every set after every stage."""
    rows = {row["index"]: row for row in folder.metrics() if row["step"] == "reward"}
    start = "reward/accuracy/"
    return [
        {"after": name, "accuracy": {k[len(start) :]: v for k, v in rows[index].items() if k.startswith(start)}}
        for index, name in stages.items()
    ]
