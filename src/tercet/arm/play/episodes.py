"""Playing: what was seen and done in several environments over one horizon, and what came of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tercet.errors import InputError

# step, observations, and where an episode begins, to actions
Act = Callable[[int, Float[Tensor, "n o"], Bool[Tensor, " n"]], Float[Tensor, "n a"]]


@dataclass(frozen=True)
class Episodes:
    """One row an environment, one column a step. A row goes on with another episode where one ends before the last.

    `next_observations` are the states that the actions led to, the last of an episode included; `infos` are those of
    the environment after each step, as numbers: `success`, `progress`, penalties.
    """

    observations: Float[Tensor, "n t o"]
    actions: Float[Tensor, "n t a"]
    next_observations: Float[Tensor, "n t o"]
    dense: Float[Tensor, "n t"]
    terminated: Bool[Tensor, "n t"]
    truncated: Bool[Tensor, "n t"]
    infos: Mapping[str, Float[Tensor, "n t"]]

    @property
    def num_steps(self) -> int:
        """Environment steps that were taken."""
        return self.dense.numel()

    def rows(self, rows: Int[Tensor, " m"]) -> "Episodes":
        """Some of the environments."""
        infos = {name: values[rows] for name, values in self.infos.items()}
        return Episodes(**{name: getattr(self, name)[rows] for name in _COLUMNS}, infos=infos)

    @classmethod
    def joined(cls, parts: Sequence["Episodes"]) -> "Episodes":
        """All rows of several, played over the same horizon, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        infos = {name: torch.cat([part.infos[name] for part in parts]) for name in parts[0].infos}
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in _COLUMNS}, infos=infos)

    def ends(self) -> Bool[Tensor, "n t"]:
        """Where an episode ended, either way."""
        return self.terminated | self.truncated

    def first_ends(self) -> Tensor:
        """The column in which each row's first episode ended; the last where none did."""
        ends = self.ends()
        last = ends.shape[1] - 1
        return torch.where(ends.any(1), ends.to(torch.uint8).argmax(1), torch.tensor(last))

    def succeeded(self) -> Bool[Tensor, " n"]:
        """Whether each row's first episode was in success at its end."""
        return self.infos["success"].gather(1, self.first_ends()[:, None]).squeeze(1) > 0.5


_COLUMNS = ("observations", "actions", "next_observations", "dense", "terminated", "truncated")


def play(
    env: VectorEnv, act: Act, *, horizon: int, seed: int, watch: Callable[[int], None] = lambda step: None
) -> Episodes:
    """`horizon` steps in every environment, from starts that follow from `seed`.

    `watch(step)` is called after each step, before anything is reset, such as to take a picture.
    """
    columns: dict[str, list[Tensor]] = {}
    seen, _ = env.reset(seed=seed)
    observations = torch.from_numpy(np.array(seen, np.float32))
    fresh = torch.ones(len(observations), dtype=torch.bool)
    for step in range(horizon):
        actions = act(step, observations, fresh)
        seen, dense, terminated, truncated, infos = env.step(actions.numpy())
        watch(step)
        following = torch.from_numpy(np.array(seen, np.float32))
        row = {"observations": observations, "actions": actions, "next_observations": following}
        row |= {"dense": _floats(dense), "terminated": _bools(terminated), "truncated": _bools(truncated)}
        row |= {f"info/{name}": _floats(values) for name, values in infos.items() if _is_number(values)}
        for name, values in row.items():
            columns.setdefault(name, []).append(values)
        done = np.asarray(terminated) | np.asarray(truncated)
        observations, fresh = following, _bools(done)
        if done.any() and step + 1 < horizon:
            seen, _ = env.reset(options={"reset_mask": done})
            observations = torch.where(_bools(done)[:, None], torch.from_numpy(np.array(seen, np.float32)), following)
    return _stacked(columns, horizon)


def repeats(env: VectorEnv, *, seed: int) -> bool:
    """Whether the same seed gives the same starts."""
    once, again = (np.array(env.reset(seed=seed)[0]) for _ in range(2))
    return bool(np.array_equal(once, again))


def turns(num: int, num_envs: int) -> list[slice]:
    """Rows 0 to `num` - 1, as many at a time as there are environments."""
    return [slice(first, min(first + num_envs, num)) for first in range(0, num, num_envs)]


def play_turn(
    env: VectorEnv,
    act: Act,
    rows: slice,
    *,
    horizon: int,
    seed: int,
    watch: Callable[[int], None] = lambda step: None,
) -> Episodes:
    """Those rows, in the first environments of `env`; where it has more, the others stand idle.

    Gymnasium's rule is that the k-th environment begins from seed + k. So does row k here, however many there are.
    """
    num, num_idle = rows.stop - rows.start, env.num_envs - (rows.stop - rows.start)

    def some(step: int, seen: Tensor, fresh: Tensor) -> Tensor:
        actions = act(step, seen[:num], fresh[:num])
        return torch.cat([actions, actions.new_zeros(num_idle, actions.shape[1])])

    episodes = play(env, some if num_idle else act, horizon=horizon, seed=seed + rows.start, watch=watch)
    return episodes.rows(torch.arange(num)) if num_idle else episodes


def play_rows(env: VectorEnv, act_of: Callable[[slice], Act], num: int, *, horizon: int, seed: int) -> Episodes:
    """`num` rows, in turns where there are fewer environments; `act_of(rows)` acts in some of them."""
    found = [play_turn(env, act_of(rows), rows, horizon=horizon, seed=seed) for rows in turns(num, env.num_envs)]
    return Episodes.joined(found)


def _stacked(columns: Mapping[str, list[Tensor]], horizon: int) -> Episodes:
    whole = {name: torch.stack(values, 1) for name, values in columns.items() if len(values) == horizon}
    infos = {name.removeprefix("info/"): value for name, value in whole.items() if name.startswith("info/")}
    if "success" not in infos:
        held = ", ".join(sorted(infos)) or "nothing"
        raise InputError(f"the environment says nothing of success: its infos hold {held}")
    return Episodes(**{name: whole[name] for name in _COLUMNS}, infos=infos)


def _is_number(values: object) -> bool:
    return isinstance(values, np.ndarray) and values.dtype.kind in "bif" and values.ndim == 1


def _floats(values: np.ndarray) -> Float[Tensor, " n"]:
    return torch.from_numpy(np.array(values, np.float32))


def _bools(values: np.ndarray) -> Bool[Tensor, " n"]:
    return torch.from_numpy(np.array(values, bool))
