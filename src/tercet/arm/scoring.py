"""The reward of a step: a weighted sum of the learned reward, the environment's reward, penalties and functions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.arm.networks.reward_ensemble import RewardEnsemble
from tercet.arm.play.episodes import Episodes
from tercet.config.functions import load_function, named_error
from tercet.errors import FailedError, InputError
from tercet.runs.ranks import follows, share

REWARD_MODEL = "reward_model"  # name, in ppo.reward, of the reward model of the same run
DENSE = "dense"
BLOWN_UP = "blown_up"

Term = Callable[[Episodes], Float[Tensor, "n t"]]


@dataclass(frozen=True)
class StepRewards:
    """Rewards of the steps of episodes, and the reward per step of each state that ended an episode."""

    episodes: Episodes
    steps: Float[Tensor, "n t"]
    absorbing: Float[Tensor, "n t"]  # where an episode terminated, the learned reward of its last state; else 0

    def for_learning(self, gamma: float) -> Float[Tensor, "n t"]:
        """Rewards with absorbing states (Kostrikov et al. 2019, section 4.1).

        A state that ended an episode earns its learned reward at every later step; the sum is added to the last action.
        Otherwise an end would be worth 0, which is arbitrary, since the zero of a learned reward has no meaning: PPO
        would seek ends if rewards are negative and avoid them if they are positive. The sum goes beyond the horizon, as
        does the bootstrapped value of an episode that continues. With gamma 1, it has as many steps as an episode.
        """
        num_later = gamma / (1 - gamma) if gamma < 1 else self.steps.shape[1]
        return self.steps + num_later * self.absorbing

    def scores(self) -> Float[Tensor, " n"]:
        """Undiscounted reward of each row's first episode up to the horizon, with an absorbing last state.

        An environment that ends an episode at success and one that continues thus give the same score.
        """
        ends = self.episodes.first_ends()
        inside = torch.arange(self.steps.shape[1]) <= ends[:, None]
        absorbing = self.absorbing.gather(1, ends[:, None]).squeeze(1)
        return (self.steps * inside).sum(1) + absorbing * (self.steps.shape[1] - 1 - ends)


@dataclass(frozen=True)
class Scorer:
    """A weighted sum of terms; `learned` is the weight of the reward model and the model."""

    terms: Sequence[tuple[float, Term]]
    learned: tuple[float, RewardEnsemble] | None = None

    @torch.no_grad()
    def __call__(self, episodes: Episodes) -> StepRewards:
        """Compute the rewards. Only the learned reward continues after an end, since other terms have a true zero."""
        steps = torch.stack([weight * term(episodes) for weight, term in self.terms]).sum(0)
        if self.learned is None:
            return StepRewards(episodes, steps, torch.zeros_like(steps))
        weight, model = self.learned
        absorbing = weight * _rewards_of(model, _last_valid_states(episodes)).masked_fill(~episodes.terminated, 0.0)
        return StepRewards(episodes, steps, absorbing)


def scorer(weights: Mapping[str, float], model: RewardEnsemble | None) -> Scorer:
    """Build the reward from the weights of ppo.reward; `model` is this run's reward model, or None."""
    terms: list[tuple[float, Term]] = []
    learned = (weights[REWARD_MODEL], model) if REWARD_MODEL in weights and model is not None else None
    for name, weight in weights.items():
        if name == REWARD_MODEL:
            if model is None:
                raise InputError("ppo.reward: uses reward_model, but this run has none")
            term = by_model(model)
        elif name == DENSE:
            term = _dense
        elif ":" in name:
            term = by_function(name)
        else:
            term = by_info(name)
        terms.append((weight, term if name == BLOWN_UP else _zero_if_blown_up(term)))
    if not any(weights.values()):
        raise InputError(
            "ppo.reward: needs a reward whose weight is not 0; "
            "give {reward_model: 1.0}, {dense: 1.0} or module:function"
        )
    return Scorer(terms, learned)


def _dense(episodes: Episodes) -> Tensor:
    return episodes.dense


def by_model(model: RewardEnsemble) -> Term:
    """Reward of the reward model for the state after each step."""
    return lambda episodes: _rewards_of(model, episodes.outcomes)


def _rewards_of(model: RewardEnsemble, states: Float[Tensor, "n t o"]) -> Float[Tensor, "n t"]:
    """Evaluate the model on its device. Episodes and their rewards are on the CPU."""
    return model(states.to(model.device)).cpu()


def _last_valid_states(episodes: Episodes) -> Tensor:
    """Return the outcome of each step, or of the one before if the simulation broke: its outcome is a new start."""
    blown_up, outcomes = episodes.infos.get(BLOWN_UP), episodes.outcomes
    if blown_up is None:
        return outcomes
    before = episodes.observations if episodes.seen is None else torch.cat([outcomes[:, :1], outcomes[:, :-1]], 1)
    return torch.where((blown_up > 0.5).unsqueeze(-1), before, outcomes)


def _zero_if_blown_up(term: Term) -> Term:
    """Return the term with 0 where the simulation broke, since the state after that step is a new start."""

    def masked(episodes: Episodes) -> Tensor:
        rewards, blown_up = term(episodes), episodes.infos.get(BLOWN_UP)
        return rewards if blown_up is None else rewards.masked_fill(blown_up > 0.5, 0.0)

    return masked


def by_info(name: str) -> Term:
    """Number from the infos of the environment: `success`, a penalty such as `jerk`, or another."""

    def term(episodes: Episodes) -> Tensor:
        if name not in episodes.infos:
            raise InputError(
                f"ppo.reward.{name}: unknown term; use {REWARD_MODEL}, {DENSE}, "
                f"{', '.join(sorted(episodes.infos))}, or module:function"
            )
        values = episodes.infos[name]
        if not values.isfinite().all():
            raise FailedError(f"ppo.reward.{name}: the environment returned {float(values[~values.isfinite()][0])}")
        return values

    return term


def by_function(spec: str) -> Term:
    """Reward from a user's function of the episodes, which returns one number per step: (episodes, steps)."""
    function = None if follows() else load_function(spec)

    def term(episodes: Episodes) -> Tensor:
        return share(lambda: rewards_of(episodes))

    def rewards_of(episodes: Episodes) -> Tensor:
        assert function is not None  # only rank 0 calls it
        try:
            rewards = torch.as_tensor(function(episodes), dtype=torch.float32)
        except (Exception, SystemExit) as error:  # a user's function can raise anything, and may call sys.exit
            raise FailedError(f"the function {spec} raised {named_error(error)}") from error
        if rewards.shape != episodes.dense.shape or not rewards.isfinite().all():
            wanted = f"finite numbers of shape {tuple(episodes.dense.shape)}"
            raise FailedError(f"the function {spec} returned shape {tuple(rewards.shape)}; it must return {wanted}")
        return rewards

    return term
