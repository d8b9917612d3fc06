"""A policy that acts in environments: it decides when its chunk of actions is used up or an episode begins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from tercet.arm.play.episodes import Episodes, play_turn, turns
from tercet.arm.policies.policy import Policy
from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.env import ArmEnv
from tercet.errors import InputError
from tercet.train.parallel import dealt

# from a mask of environments to tensors (m, ...) for the environments of the mask: the pictures of each camera, or what
# a policy keeps of them
View = Callable[[Bool[Tensor, " n"]], tuple[Tensor, ...]]


def camera_view(env: VectorEnv, cameras: Sequence[Camera]) -> View:
    """Return the view of these cameras in an environment. Without cameras nothing is rendered."""
    if not cameras:
        return lambda rows: ()
    if not isinstance(env, ArmEnv):
        raise InputError(
            "policy.cameras: only the tasks of the built-in arm have cameras; leave it empty, with a policy.kind other "
            "than conv"
        )
    return lambda rows: tuple(torch.from_numpy(images) for images in env.pictures(cameras, rows.numpy()))


def sight_of(env: VectorEnv, policy: Policy) -> View:
    """Return the view of a policy's cameras as the policy keeps it, on its device."""
    view = camera_view(env, policy.cameras)
    return lambda rows: policy.look(*(images.to(policy.device) for images in view(rows)))


def set_witness(env: VectorEnv, policy: Policy) -> None:
    """Let the encoders of a policy see every step of the environment, for a reward model that sees pictures."""
    if not isinstance(env, ArmEnv):
        raise InputError("reward.sees=pictures: only the tasks of the built-in arm have cameras; set reward.sees=state")
    view, rows = sight_of(env, policy), torch.ones(env.num_envs, dtype=torch.bool)

    @torch.no_grad()
    def witness() -> NDArray[np.float32]:
        return torch.cat(view(rows), -1).cpu().numpy()

    env.witness = witness


class Agent:
    """A policy with its current chunk of actions in each environment; an `ActionFunction`.

    Without noise it takes the policy's most likely actions. It calls `view` (see `sight_of`) only where it decides.
    """

    def __init__(
        self, policy: Policy, noise: Float[Tensor, "t n z"] | None = None, view: View = lambda rows: ()
    ) -> None:
        self.policy, self.noise, self.view = policy, noise, view
        self.starts: list[Tensor] = []
        self.decisions: list[Tensor] = []

    def __call__(
        self, step: int, observations: Float[Tensor, "n o"], fresh: Bool[Tensor, " n"]
    ) -> Float[Tensor, "n a"]:
        """Return the action of each environment; `fresh` is True where an episode begins."""
        noise = None if self.noise is None else self.noise[step]
        if self.policy.chunk == 1:
            self.starts.append(torch.ones_like(fresh))
            decisions, actions = self._decide(observations, noise, self.starts[-1])
            self.decisions.append(decisions)
            return actions[:, 0]
        due = fresh if step == 0 else fresh | (self._num_done == self.policy.chunk)
        if due.all():
            decisions, actions = self._decide(observations, noise, due)
            self._chunks = actions.clone()  # rows of it are replaced below
            self._num_done = torch.zeros(len(observations), dtype=torch.long)
        else:
            decisions = self.decisions[-1].clone()
            if due.any():
                draws = None if noise is None else noise[due]
                decisions[due], self._chunks[due] = self._decide(observations[due], draws, due)
                self._num_done[due] = 0
        self.starts.append(due)
        self.decisions.append(decisions)
        actions = self._chunks[torch.arange(len(observations)), self._num_done]
        self._num_done += 1
        return actions

    def _decide(
        self, observations: Float[Tensor, "m o"], noise: Float[Tensor, "m z"] | None, due: Bool[Tensor, " n"]
    ) -> tuple[Tensor, Float[Tensor, "m c a"]]:
        """Return decisions and their actions where `due` is True, on the CPU, where the environments are."""
        device = self.policy.device
        noise = None if noise is None else noise.to(device)
        decisions = self.policy.decide(observations.to(device), noise, *self.view(due))
        return decisions.cpu(), self.policy.actions(decisions).cpu()


@dataclass(frozen=True)
class PolicyEpisodes:
    """Episodes with the decisions of the policy that played them."""

    episodes: Episodes
    starts: Bool[Tensor, "n t"]  # True where the policy decided
    decisions: Tensor  # (n, t, d), numbers or tokens, constant from one start to the next
    # what `Policy.look` kept of the images at the decisions, ordered by step, then by row
    pictures: tuple[Shaped[Tensor, "k ..."], ...] = ()


@torch.no_grad()
def sample_episodes(
    env: VectorEnv, policy: Policy, noise: Float[Tensor, "t n z"] | None, *, num: int, horizon: int, seed: int
) -> PolicyEpisodes:
    """Sample `num` episodes from the policy, given standard normal noise; None takes its most likely actions."""
    view = sight_of(env, policy)

    def turn(rows: slice) -> PolicyEpisodes:
        images_by_step: list[tuple[Tensor, ...]] = []

        def recorded_view(which: Tensor) -> tuple[Tensor, ...]:
            images_by_step.append(view(which))
            return images_by_step[-1]

        agent = Agent(policy, None if noise is None else noise[:, rows], recorded_view)
        episodes = play_turn(env, agent, rows, horizon=horizon, seed=seed)
        pictures = tuple(torch.cat(images).cpu() for images in zip(*images_by_step, strict=True))
        return PolicyEpisodes(episodes, torch.stack(agent.starts, 1), torch.stack(agent.decisions, 1), pictures)

    parts = dealt(turns(num, env.num_envs), turn)
    return PolicyEpisodes(
        Episodes.joined([part.episodes for part in parts]),
        torch.cat([part.starts for part in parts]),
        torch.cat([part.decisions for part in parts]),
        # only the built-in arm has cameras, and all its episodes are played in one turn, so images are ordered by step
        parts[0].pictures,
    )


@dataclass(frozen=True)
class Decisions:
    """Decisions of episodes, one column per decision, padded at the end where `mask` is False."""

    observations: Float[Tensor, "n k o"]  # before the decision
    decisions: Tensor  # (n, k, d)
    next_observations: Float[Tensor, "n k o"]  # after the last action of the decision
    lengths: Int[Tensor, "n k"]  # number of actions that were executed
    terminated: Bool[Tensor, "n k"]
    truncated: Bool[Tensor, "n k"]
    mask: Bool[Tensor, "n k"]
    pictures: tuple[Shaped[Tensor, "n k ..."], ...] = ()  # what the policy kept of them, before the decision

    def to(self, device: torch.device) -> "Decisions":
        """Copy them to a device."""
        columns = {name: value.to(device) for name, value in vars(self).items() if name != "pictures"}
        return Decisions(**columns, pictures=tuple(images.to(device) for images in self.pictures))


def decisions_of(played: PolicyEpisodes) -> Decisions:
    """Collect the decisions of these episodes, each with the states before and after it."""
    episodes, (num, horizon) = played.episodes, played.starts.shape
    counts = played.starts.sum(1, keepdim=True)
    first = played.starts.int().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
    mask = torch.arange(first.shape[1]) < counts
    ends = torch.cat([first[:, 1:], torch.full((num, 1), horizon)], 1)
    ends = torch.where(torch.arange(1, first.shape[1] + 1) < counts, ends, torch.tensor(horizon))
    rows, last = torch.arange(num)[:, None], ends - 1
    picture_rows = (played.starts.T.flatten().cumsum(0) - 1).view(horizon, num).T[rows, first]
    return Decisions(
        observations=episodes.observations[rows, first],
        decisions=played.decisions[rows, first],
        next_observations=episodes.next_observations[rows, last],
        lengths=ends - first,
        terminated=episodes.terminated[rows, last] & mask,
        truncated=episodes.truncated[rows, last] & mask,
        mask=mask,
        pictures=tuple(images[picture_rows] for images in played.pictures),
    )


def sum_rewards(rewards: Float[Tensor, "n t"], starts: Bool[Tensor, "n t"], *, gamma: float) -> Float[Tensor, "n k"]:
    """Sum the rewards of each decision's actions: sum_j gamma^j r_j, with j counted from the decision."""
    number = starts.cumsum(1) - 1
    steps = torch.arange(rewards.shape[1]).expand_as(rewards)
    steps_since = steps - torch.where(starts, steps, 0).cummax(1).values
    sums = torch.zeros(len(rewards), int(number.max()) + 1)
    return sums.scatter_add(1, number, rewards * gamma**steps_since)
