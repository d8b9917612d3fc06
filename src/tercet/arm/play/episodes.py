"""Play episodes in several environments over one horizon, and record them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tercet.arm.sim.env import SEEN
from tercet.errors import InputError
from tercet.train.parallel import dealt

# from the step, the observations and a mask of the environments in which an episode begins to actions
ActionFunction = Callable[[int, Float[Tensor, "n o"], Bool[Tensor, " n"]], Float[Tensor, "n a"]]


@dataclass(frozen=True)
class Episodes:
    """One row per environment, one column per step. If an episode ends before the last step, the row starts another.

    `next_observations` are the states after each action, including the last state of an episode. `infos` are numbers
    that the environment gives after each step: `success`, `progress`, penalties. `seen` has the features of the
    pictures after each step, if the environment has a witness (`ArmEnv`).
    """

    observations: Float[Tensor, "n t o"]
    actions: Float[Tensor, "n t a"]
    next_observations: Float[Tensor, "n t o"]
    dense: Float[Tensor, "n t"]
    terminated: Bool[Tensor, "n t"]
    truncated: Bool[Tensor, "n t"]
    infos: Mapping[str, Float[Tensor, "n t"]]
    seen: Float[Tensor, "n t f"] | None = None

    @property
    def outcomes(self) -> Float[Tensor, "n t _"]:
        """What a reward model is told of each step: what was seen after it, or else the state."""
        return self.next_observations if self.seen is None else self.seen

    @property
    def num_steps(self) -> int:
        """Number of environment steps."""
        return self.dense.numel()

    def rows(self, rows: Int[Tensor, " m"]) -> "Episodes":
        """Select environments."""
        infos = {name: values[rows] for name, values in self.infos.items()}
        seen = None if self.seen is None else self.seen[rows]
        return Episodes(**{name: getattr(self, name)[rows] for name in _COLUMNS}, infos=infos, seen=seen)

    @classmethod
    def joined(cls, parts: Sequence["Episodes"]) -> "Episodes":
        """Concatenate the rows of several, all played over the same horizon."""
        if len(parts) == 1:
            return parts[0]
        infos = {name: torch.cat([part.infos[name] for part in parts]) for name in parts[0].infos}
        columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in _COLUMNS}
        seen = [part.seen for part in parts if part.seen is not None]
        return cls(**columns, infos=infos, seen=torch.cat(seen) if seen else None)

    def ends(self) -> Bool[Tensor, "n t"]:
        """True where an episode ended, terminated or truncated."""
        return self.terminated | self.truncated

    def first_ends(self) -> Tensor:
        """Column in which each row's first episode ended; the last column if none did."""
        ends = self.ends()
        last = ends.shape[1] - 1
        return torch.where(ends.any(1), ends.to(torch.uint8).argmax(1), torch.tensor(last))

    def succeeded(self) -> Bool[Tensor, " n"]:
        """True if each row's first episode was in success at its end."""
        return self.infos["success"].gather(1, self.first_ends()[:, None]).squeeze(1) > 0.5

    def until_horizon(self, values: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
        """Return the values of each row's first episode, that of its last step repeated for the steps after its end."""
        ends = self.first_ends()[:, None]
        return torch.where(torch.arange(values.shape[1]) <= ends, values, values.gather(1, ends))

    def reached(self) -> Bool[Tensor, " n"]:
        """True if each row's first episode was in success at some step."""
        inside = torch.arange(self.dense.shape[1]) <= self.first_ends()[:, None]
        return ((self.infos["success"] > 0.5) & inside).any(1)

    def returns(self) -> Float[Tensor, " n"]:
        """Sum of the environment's own reward over each row's first episode."""
        inside = torch.arange(self.dense.shape[1]) <= self.first_ends()[:, None]
        return (self.dense * inside).sum(1)


_COLUMNS = ("observations", "actions", "next_observations", "dense", "terminated", "truncated")


def play(
    env: VectorEnv, act: ActionFunction, *, horizon: int, seed: int, watch: Callable[[int], None] = lambda step: None
) -> Episodes:
    """Play `horizon` steps in every environment, from starts determined by `seed`.

    `watch(step)` is called after each step and before any reset, for example to render an image.
    """
    columns: dict[str, list[Tensor]] = {}
    states, _ = env.reset(seed=seed)
    observations = torch.from_numpy(np.array(states, np.float32))
    fresh = torch.ones(len(observations), dtype=torch.bool)
    for step in range(horizon):
        actions = act(step, observations, fresh)
        states, dense, terminated, truncated, infos = env.step(actions.numpy())
        watch(step)
        next_observations = torch.from_numpy(np.array(states, np.float32))
        row = {"observations": observations, "actions": actions, "next_observations": next_observations}
        row |= {"dense": _floats(dense), "terminated": _bools(terminated), "truncated": _bools(truncated)}
        row |= {f"info/{name}": _floats(values) for name, values in infos.items() if _is_number(values)}
        row |= {SEEN: torch.from_numpy(infos[SEEN])} if SEEN in infos else {}
        for name, values in row.items():
            columns.setdefault(name, []).append(values)
        done = np.asarray(terminated) | np.asarray(truncated)
        observations, fresh = next_observations, _bools(done)
        if done.any() and step + 1 < horizon:
            states, _ = env.reset(options={"reset_mask": done})
            observations = torch.where(fresh[:, None], torch.from_numpy(np.array(states, np.float32)), observations)
    return _stacked(columns, horizon)


def repeats(env: VectorEnv, *, seed: int) -> bool:
    """Return True if the same seed gives the same starts."""
    once, again = (np.array(env.reset(seed=seed)[0]) for _ in range(2))
    return bool(np.array_equal(once, again))


def turns(num: int, num_envs: int) -> list[slice]:
    """Split rows 0 to `num` - 1 into slices of at most `num_envs`."""
    return [slice(first, min(first + num_envs, num)) for first in range(0, num, num_envs)]


def play_turn(
    env: VectorEnv,
    act: ActionFunction,
    rows: slice,
    *,
    horizon: int,
    seed: int,
    watch: Callable[[int], None] = lambda step: None,
) -> Episodes:
    """Play these rows in the first environments of `env`; further environments are idle.

    In Gymnasium the k-th environment starts from seed + k. Row k does so here for any number of environments.
    """
    num, num_idle = rows.stop - rows.start, env.num_envs - (rows.stop - rows.start)

    def padded(step: int, observations: Tensor, fresh: Tensor) -> Tensor:
        actions = act(step, observations[:num], fresh[:num])
        return torch.cat([actions, actions.new_zeros(num_idle, actions.shape[1])])

    episodes = play(env, padded if num_idle else act, horizon=horizon, seed=seed + rows.start, watch=watch)
    return episodes.rows(torch.arange(num)) if num_idle else episodes


def play_rows(
    env: VectorEnv, agent_of: Callable[[slice], ActionFunction], num: int, *, horizon: int, seed: int
) -> Episodes:
    """Play `num` rows, in turns if there are fewer environments; `agent_of(rows)` acts in the given rows.

    The turns are dealt to the ranks, so `agent_of` must not depend on other turns.
    """

    def turn(rows: slice) -> Episodes:
        return play_turn(env, agent_of(rows), rows, horizon=horizon, seed=seed)

    return Episodes.joined(dealt(turns(num, env.num_envs), turn))


def _stacked(columns: Mapping[str, list[Tensor]], horizon: int) -> Episodes:
    complete = {name: torch.stack(values, 1) for name, values in columns.items() if len(values) == horizon}
    infos = {name.removeprefix("info/"): value for name, value in complete.items() if name.startswith("info/")}
    if "success" not in infos:
        names = ", ".join(sorted(infos)) or "nothing"
        raise InputError(f"the environment does not report success: its infos contain {names}")
    return Episodes(**{name: complete[name] for name in _COLUMNS}, infos=infos, seen=complete.get(SEEN))


def _is_number(values: object) -> bool:
    return isinstance(values, np.ndarray) and values.dtype.kind in "bif" and values.ndim == 1


def _floats(values: np.ndarray) -> Float[Tensor, " n"]:
    return torch.from_numpy(np.array(values, np.float32))


def _bools(values: np.ndarray) -> Bool[Tensor, " n"]:
    return torch.from_numpy(np.array(values, bool))
