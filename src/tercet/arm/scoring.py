"""What a step earns: a weighted sum of the learned reward, the environment's own, penalties and functions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.arm.play.episodes import Episodes
from tercet.arm.policies.roles import RewardEnsemble
from tercet.config.functions import load_function, named_error
from tercet.errors import FailedError, InputError

OWN = "reward_model"  # the name by which ppo.reward asks for the reward model of the same run
DENSE = "dense"
BROKEN = "blown_up"

Term = Callable[[Episodes], Float[Tensor, "n t"]]


@dataclass(frozen=True)
class Pay:
    """What the steps of some episodes earn, and what the state that ended one would have gone on earning."""

    episodes: Episodes
    steps: Float[Tensor, "n t"]
    absorbed: Float[Tensor, "n t"]  # the learned reward of the last state, a step, where an episode terminated; else 0

    def to_learn_from(self, gamma: float) -> Float[Tensor, "n t"]:
        """What each step earns, where a state that ended an episode is absorbing (Kostrikov et al. 2019, section 4.1).

        It earns its learned reward at every later step, and its last action is paid for all of them. Otherwise an end
        would be worth 0: more than going on where learned rewards are below 0, less where they are above. A learned
        reward has no zero that means anything. The sum is not cut at the horizon, since neither is the value of an
        episode that goes on: it is bootstrapped there. Without discount, later steps count as many as an episode has.
        """
        num_later = gamma / (1 - gamma) if gamma < 1 else self.steps.shape[1]
        return self.steps + num_later * self.absorbed

    def scores(self) -> Float[Tensor, " n"]:
        """What each row's first episode earns up to the horizon, undiscounted; the state that ended it goes on earning.

        So an environment that ends an episode at success and one that goes on have the same score.
        """
        ends = self.episodes.first_ends()
        inside = torch.arange(self.steps.shape[1]) <= ends[:, None]
        absorbed = self.absorbed.gather(1, ends[:, None]).squeeze(1)
        return (self.steps * inside).sum(1) + absorbed * (self.steps.shape[1] - 1 - ends)


@dataclass(frozen=True)
class Scorer:
    """The weighted sum of its terms; `learned` is the reward model among them and its weight."""

    terms: Sequence[tuple[float, Term]]
    learned: tuple[float, RewardEnsemble] | None = None

    @torch.no_grad()
    def __call__(self, episodes: Episodes) -> Pay:
        """What the episodes earn. After an end the learned reward alone goes on: the others mean what they pay."""
        steps = torch.stack([weight * term(episodes) for weight, term in self.terms]).sum(0)
        if self.learned is None:
            return Pay(episodes, steps, torch.zeros_like(steps))
        weight, model = self.learned
        return Pay(episodes, steps, weight * model(_last_sound(episodes)).masked_fill(~episodes.terminated, 0.0))


def scorer(weights: Mapping[str, float], model: RewardEnsemble | None) -> Scorer:
    """Every term of ppo.reward; `model` is this run's reward model, if it has one."""
    terms: list[tuple[float, Term]] = []
    learned = (weights[OWN], model) if OWN in weights and model is not None else None
    for name, weight in weights.items():
        if name == OWN:
            if model is None:
                raise InputError("ppo.reward: reward_model is asked for, but this run has none")
            term = by_model(model)
        elif name == DENSE:
            term = _dense
        elif ":" in name:
            term = by_function(name)
        else:
            term = by_info(name)
        terms.append((weight, term if name == BROKEN else _unless_broken(term)))
    if not any(weights.values()):
        raise InputError(
            "ppo.reward: names no reward of a weight other than 0; "
            "give {reward_model: 1.0}, {dense: 1.0} or module:function"
        )
    return Scorer(terms, learned)


def _dense(episodes: Episodes) -> Tensor:
    return episodes.dense


def by_model(model: RewardEnsemble) -> Term:
    """What the reward model says of the state that each step led to."""
    return lambda episodes: model(episodes.next_observations)


def _last_sound(episodes: Episodes) -> Tensor:
    """The state that each step led to, or the one before it where the simulation broke: then a fresh start is seen."""
    broke = episodes.infos.get(BROKEN)
    if broke is None:
        return episodes.next_observations
    return torch.where((broke > 0.5).unsqueeze(-1), episodes.observations, episodes.next_observations)


def _unless_broken(term: Term) -> Term:
    """The term, but 0 where the simulation broke: the state that is seen there is that of a fresh start."""

    def of_what_held(episodes: Episodes) -> Tensor:
        rewards, broke = term(episodes), episodes.infos.get(BROKEN)
        return rewards if broke is None else rewards.masked_fill(broke > 0.5, 0.0)

    return of_what_held


def by_info(name: str) -> Term:
    """A number that the environment gives after each step: `success`, a penalty such as `jerk`, or one of its own."""

    def term(episodes: Episodes) -> Tensor:
        if name not in episodes.infos:
            raise InputError(
                f"ppo.reward.{name}: no such term; there are {OWN}, {DENSE}, {', '.join(sorted(episodes.infos))}, "
                "or module:function"
            )
        values = episodes.infos[name]
        if not values.isfinite().all():
            raise FailedError(f"ppo.reward.{name}: the environment gave {float(values[~values.isfinite()][0])}")
        return values

    return term


def by_function(spec: str) -> Term:
    """What the user's function of the episodes gives: one number a step, shape (episodes, steps)."""
    function = load_function(spec)

    def term(episodes: Episodes) -> Tensor:
        try:
            rewards = torch.as_tensor(function(episodes), dtype=torch.float32)
        except (Exception, SystemExit) as error:  # whatever the user's own function raises; it may call sys.exit
            raise FailedError(f"the function {spec} raised {named_error(error)}") from error
        if rewards.shape != episodes.dense.shape or not rewards.isfinite().all():
            wanted = f"finite numbers of shape {tuple(episodes.dense.shape)}"
            raise FailedError(f"the function {spec} gave shape {tuple(rewards.shape)}; it must give {wanted}")
        return rewards

    return term
