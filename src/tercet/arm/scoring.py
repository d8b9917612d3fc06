"""What a step earns: a weighted sum of the learned reward, the environment's own, penalties and functions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.arm.episodes import Episodes
from tercet.arm.models import RewardEnsemble
from tercet.config.functions import load_function, named_error
from tercet.errors import FailedError, InputError

OWN = "reward_model"  # the name by which ppo.reward asks for the reward model of the same run
DENSE = "dense"
BROKEN = "blown_up"

Term = Callable[[Episodes], Float[Tensor, "n t"]]


@dataclass(frozen=True)
class Scorer:
    """The weighted sum of its terms."""

    terms: Sequence[tuple[float, Term]]

    @torch.no_grad()
    def __call__(self, episodes: Episodes) -> Float[Tensor, "n t"]:
        """What each step earns."""
        return torch.stack([weight * term(episodes) for weight, term in self.terms]).sum(0)


def scorer(weights: Mapping[str, float], model: RewardEnsemble | None) -> Scorer:
    """Every term of ppo.reward; `model` is this run's reward model, if it has one."""
    terms: list[tuple[float, Term]] = []
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
    if not terms:
        raise InputError("ppo.reward: names no reward; give {reward_model: 1.0}, {dense: 1.0} or module:function")
    return Scorer(terms)


def _dense(episodes: Episodes) -> Tensor:
    return episodes.dense


def by_model(model: RewardEnsemble) -> Term:
    """What the reward model says of the state that each step led to."""
    return lambda episodes: model(episodes.next_observations)


def _unless_broken(term: Term) -> Term:
    """The term, but 0 where the simulation broke: the state that is seen there is that of a fresh start."""

    def of_what_held(episodes: Episodes) -> Tensor:
        rewards, broke = term(episodes), episodes.infos.get(BROKEN)
        return rewards if broke is None else rewards.masked_fill(broke > 0.5, 0.0)

    return of_what_held


def by_info(name: str) -> Term:
    """A number that the environment gives after each step: `success`, or a penalty such as `jerk`."""

    def term(episodes: Episodes) -> Tensor:
        if name not in episodes.infos:
            raise InputError(
                f"ppo.reward.{name}: no such term; there are {OWN}, {DENSE}, {', '.join(sorted(episodes.infos))}, "
                "or module:function"
            )
        return episodes.infos[name]

    return term


def by_function(spec: str) -> Term:
    """What the user's function of the episodes gives: one number a step, shape (episodes, steps)."""
    function = load_function(spec)

    def term(episodes: Episodes) -> Tensor:
        try:
            rewards = torch.as_tensor(function(episodes), dtype=torch.float32)
        except Exception as error:  # whatever the user's own function raises
            raise FailedError(f"the function {spec} raised {named_error(error)}") from error
        if rewards.shape != episodes.dense.shape or not rewards.isfinite().all():
            wanted = f"finite numbers of shape {tuple(episodes.dense.shape)}"
            raise FailedError(f"the function {spec} gave shape {tuple(rewards.shape)}; it must give {wanted}")
        return rewards

    return term
