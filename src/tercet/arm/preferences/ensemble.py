"""Train a reward ensemble on pairs: its loss, scale and accuracy."""

from collections.abc import Sequence

import torch

from tercet.arm.networks.reward_ensemble import RewardEnsemble, SuccessClassifier
from tercet.arm.preferences.pairs import Pairs
from tercet.config.arm import RewardConfig
from tercet.core.losses import pairwise_loss
from tercet.core.statistics import score_gain_and_bias, wins
from tercet.errors import FailedError
from tercet.train.chance import seed_everything
from tercet.train.fit import LossTerms, shuffled_plan, take_step
from tercet.train.optim import adamw, warmup_then_linear
from tercet.train.parallel import own_share


def new_ensemble(pairs: Pairs, config: RewardConfig, *, seed: int) -> RewardEnsemble:
    """Create an ensemble whose inputs are scaled by the states of these pairs, on their device."""
    seed_everything(seed, "reward model")
    kind = SuccessClassifier if config.feedback == "success" else RewardEnsemble
    model = kind(pairs.better.shape[-1], num_models=config.num_models, hidden_size=config.hidden_size)
    model.scaled.measure(torch.cat([pairs.better, pairs.worse]))
    return model.to(pairs.better.device)


def pair_loss(model: RewardEnsemble, pairs: Pairs) -> LossTerms:
    """Pairwise loss, averaged over the models and summed over pairs, with the number of pairs ranked correctly.

    A segment's score is the sum of its states' rewards. A pair that was judged equal counts one half. A classifier
    learns that the better state is a success and the worse is none (binary cross-entropy).
    """
    better, worse = model.each(pairs.better).sum(-1), model.each(pairs.worse).sum(-1)
    if isinstance(model, SuccessClassifier):
        zeros = torch.zeros_like(better).flatten()
        losses = (pairwise_loss(better.flatten(), zeros) + pairwise_loss(zeros, worse.flatten())) / 2
    else:
        losses = pairwise_loss(better.flatten(), worse.flatten(), pairs.preference.expand_as(better).flatten())
    margins = (better - worse).detach().mean(0)
    correct = torch.where(pairs.preference == 0.5, 0.5, wins(margins))
    return LossTerms(losses.sum() / len(model.nets), {"accuracy": float(correct.sum()), "margin": float(margins.sum())})


@torch.no_grad()
def correct_by_pair(model: RewardEnsemble, pairs: Pairs) -> list[float]:
    """1 for each pair whose better segment has the higher score, 0.5 for a tie."""
    margins = model(pairs.better).sum(-1) - model(pairs.worse).sum(-1)
    return wins(margins).tolist()


@torch.no_grad()
def normalise(model: RewardEnsemble, pairs: Pairs) -> None:
    """Scale the reward to mean 0 and variance 1 over the states of these pairs. A classifier has a scale of its own."""
    if isinstance(model, SuccessClassifier):
        return
    rewards = model.each(torch.cat([pairs.better, pairs.worse])).mean(0).flatten()
    try:
        model.normalise(score_gain_and_bias(rewards))
    except ValueError as error:
        raise FailedError(
            f"reward: the model learned nothing ({error}); try another reward.lr or more pairs"
        ) from error


def micro_batches(pairs: Pairs, rows: Sequence[int], size: int) -> list[Pairs]:
    """Split the pairs of these rows into parts of at most `size`."""
    parts = torch.tensor(rows, dtype=torch.long).split(size) if rows else ()  # a rank may have no rows
    return [pairs.rows(part) for part in parts]


def fit_ensemble(pairs: Pairs, config: RewardConfig, *, seed: int, name: str) -> RewardEnsemble:
    """Train and normalise an ensemble without checkpoints. The same pairs and seed give the same ensemble."""
    model = new_ensemble(pairs, config, seed=seed)
    optimizer = adamw(model, lr=config.lr, weight_decay=config.weight_decay)
    steps = shuffled_plan(len(pairs), config, seed=seed, name=name)
    for index, rows in enumerate(steps):
        take_step(
            optimizer,
            micro_batches(pairs, own_share(rows), config.micro_batch_size),
            count=len,
            loss=lambda part: pair_loss(model, part),
            lr=config.lr * warmup_then_linear(index, len(steps), config.warmup_fraction),
            max_grad_norm=config.max_grad_norm,
            loss_name=f"{name}: the loss of step {index}",
        )
    normalise(model, pairs)
    return model.eval().requires_grad_(False)
