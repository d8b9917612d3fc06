"""A policy at play: it decides where its chunk of actions is used up or an episode begins, and acts in between."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from tercet.arm.play.episodes import Episodes, play_rows
from tercet.arm.policies.roles import Policy
from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.env import ArmEnv
from tercet.errors import InputError

# of the environments that a mask names, a tensor (m, height, width, 3) for each camera
Eyes = Callable[[Bool[Tensor, " n"]], tuple[Tensor, ...]]


def eyes_of(env: VectorEnv, cameras: Sequence[Camera]) -> Eyes:
    """What these cameras see in an environment; nothing is drawn where there are none."""
    if not cameras:
        return lambda rows: ()
    if not isinstance(env, ArmEnv):
        raise InputError("policy.cameras: only this arm's own tasks have cameras; leave it empty")
    return lambda rows: tuple(torch.from_numpy(seen) for seen in env.pictures(cameras, rows.numpy()))


class Acting:
    """An `Act` of a policy. Without noise it takes the policy's most likely actions; its `eyes` open to decide."""

    def __init__(
        self, policy: Policy, noise: Float[Tensor, "t n z"] | None = None, eyes: Eyes = lambda rows: ()
    ) -> None:
        self.policy, self.noise, self.eyes = policy, noise, eyes
        self.starts: list[Tensor] = []
        self.decisions: list[Tensor] = []

    def __call__(self, step: int, seen: Float[Tensor, "n o"], fresh: Bool[Tensor, " n"]) -> Float[Tensor, "n a"]:
        """The action of each environment; `fresh` is True where an episode begins."""
        noise = None if self.noise is None else self.noise[step]
        if self.policy.chunk == 1:
            self.starts.append(torch.ones_like(fresh))
            self.decisions.append(self.policy.decide(seen, noise, *self.eyes(self.starts[-1])))
            return self.policy.actions(self.decisions[-1])[:, 0]
        due = fresh if step == 0 else fresh | (self._done == self.policy.chunk)
        if due.all():
            decisions = self.policy.decide(seen, noise, *self.eyes(due))
            self._chunks = self.policy.actions(decisions).clone()  # rows of it are replaced below
            self._done = torch.zeros(len(seen), dtype=torch.long)
        else:
            decisions = self.decisions[-1].clone()
            if due.any():
                draws = None if noise is None else noise[due]
                decisions[due] = self.policy.decide(seen[due], draws, *self.eyes(due))
                self._chunks[due] = self.policy.actions(decisions[due])
                self._done[due] = 0
        self.starts.append(due)
        self.decisions.append(decisions)
        actions = self._chunks[torch.arange(len(seen)), self._done]
        self._done += 1
        return actions


@dataclass(frozen=True)
class Played:
    """Episodes, and what the policy decided: `starts` is True in the columns in which it did."""

    episodes: Episodes
    starts: Bool[Tensor, "n t"]
    decisions: Tensor  # (n, t, d), numbers or tokens; from one start to the next the same
    # of each camera what was seen in order to decide, in the order of the steps and within one of the rows
    pictures: tuple[UInt8[Tensor, "k _ _ 3"], ...] = ()


@torch.no_grad()
def sampled(
    env: VectorEnv, policy: Policy, noise: Float[Tensor, "t n z"] | None, *, num: int, horizon: int, seed: int
) -> Played:
    """`num` episodes of the policy, given standard normal noise; without it, it takes its most likely actions."""
    turns: list[Acting] = []
    # only the built-in arm has cameras, and its episodes are played at once: in the order of the steps
    eyes, looks = eyes_of(env, policy.cameras), list[tuple[Tensor, ...]]()

    def remembered(rows: Tensor) -> tuple[Tensor, ...]:
        looks.append(eyes(rows))
        return looks[-1]

    def act_of(rows: slice) -> Acting:
        turns.append(Acting(policy, None if noise is None else noise[:, rows], remembered))
        return turns[-1]

    episodes = play_rows(env, act_of, num, horizon=horizon, seed=seed)
    starts, decisions = (
        torch.cat([torch.stack(getattr(acting, name), 1) for acting in turns]) for name in ("starts", "decisions")
    )
    pictures = tuple(torch.cat(seen) for seen in zip(*looks, strict=True))
    return Played(episodes, starts, decisions, pictures)


@dataclass(frozen=True)
class Decided:
    """Played episodes with one column a decision, padded at the end where `mask` is False."""

    observations: Float[Tensor, "n k o"]  # in which it was decided
    decisions: Tensor  # (n, k, d)
    next_observations: Float[Tensor, "n k o"]  # to which the last of its actions led
    lengths: Int[Tensor, "n k"]  # actions that were done of it
    terminated: Bool[Tensor, "n k"]
    truncated: Bool[Tensor, "n k"]
    mask: Bool[Tensor, "n k"]
    pictures: tuple[UInt8[Tensor, "n k _ _ 3"], ...] = ()  # of each camera, in which it was decided


def decided(played: Played) -> Decided:
    """Of each decision, where it was taken and where it led."""
    episodes, (num, horizon) = played.episodes, played.starts.shape
    counts = played.starts.sum(1, keepdim=True)
    first = played.starts.int().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
    mask = torch.arange(first.shape[1]) < counts
    ends = torch.cat([first[:, 1:], torch.full((num, 1), horizon)], 1)
    ends = torch.where(torch.arange(1, first.shape[1] + 1) < counts, ends, torch.tensor(horizon))
    rows, last = torch.arange(num)[:, None], ends - 1
    looks = (played.starts.T.flatten().cumsum(0) - 1).view(horizon, num).T[rows, first]
    return Decided(
        observations=episodes.observations[rows, first],
        decisions=played.decisions[rows, first],
        next_observations=episodes.next_observations[rows, last],
        lengths=ends - first,
        terminated=episodes.terminated[rows, last] & mask,
        truncated=episodes.truncated[rows, last] & mask,
        mask=mask,
        pictures=tuple(seen[looks] for seen in played.pictures),
    )


def summed(earned: Float[Tensor, "n t"], starts: Bool[Tensor, "n t"], *, gamma: float) -> Float[Tensor, "n k"]:
    """What each decision earned with its actions: the sum of gamma^j r_j, j counted from the decision on."""
    number = starts.cumsum(1) - 1
    steps = torch.arange(earned.shape[1]).expand_as(earned)
    since = steps - torch.where(starts, steps, 0).cummax(1).values
    found = torch.zeros(len(earned), int(number.max()) + 1)
    return found.scatter_add(1, number, earned * gamma**since)
