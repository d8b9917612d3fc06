"""The kept rollouts of a run for `tercet inspect DIR`, and the numbers of each action beside what training logged."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import isnan
from typing import Any

from torch import Tensor

from tercet.config.ppo import LoopConfig, UpdateConfig
from tercet.core.chain import clip_ranges, discounts
from tercet.core.kl import k1, kl_penalties
from tercet.errors import InputError
from tercet.runs.folder import RunFolder
from tercet.runs.rows import Row
from tercet.runs.step import ROLLOUTS
from tercet.train.ppo.explain import Explained
from tercet.train.ppo.kept import KeptRollout
from tercet.types import Rollout

Tree = dict[str, Any]  # Any: JSON for the page
SETTINGS = ("gamma", "lam", "kl_coef", "clip_range", "value_clip_range")  # that the page may change
# what the formulas of the page depend on besides
CHOICES = ("algorithm", "ratio_of", "clip_range_high", "kl_penalty", "whiten_advantages", "lam_alpha", "value_lam")
MOST_ROWS = 64  # responses or episodes that the page shows; means are over all
_NO_ROLLOUTS = "no kept rollouts; run PPO with ppo.keep_rollouts above 0 (versions before it kept none)"


class KeptUpdates:
    """The kept rollouts of a run by their names, such as `ppo 12`."""

    def __init__(self, folder: RunFolder, steps: Sequence[str], config: LoopConfig) -> None:
        """Find those of these steps; raise InputError if there are none."""
        self.folder, self.config = folder, config
        paths = [path for step in steps for path in (folder.path / step / ROLLOUTS).glob("[0-9]*")]
        order = sorted(paths, key=lambda path: (steps.index(path.parents[1].name), int(path.name)))
        self._paths = {f"{path.parents[1].name} {path.name}": path for path in order}
        if not self._paths:
            raise InputError(f"{folder.path}: {_NO_ROLLOUTS}")
        self._load = lru_cache(maxsize=4)(KeptRollout.load)

    def about(self) -> Tree:
        """Return what the page needs once: the updates, and the settings of the run."""
        return {
            "run": self.folder.path.resolve().name,
            "updates": list(self._paths),
            "epochs": self.config.epochs,
            "settings": {name: getattr(self.config, name) for name in SETTINGS},
            "choices": {name: getattr(self.config, name) for name in CHOICES},
            "critic_warmup_updates": self.config.critic_warmup_updates,
            "group_size": self.config.group_size if self.config.compares_groups else 1,
        }

    def load(self, name: str, epoch: int | None = None) -> KeptRollout:
        """Read a rollout; InputError if the run has kept none of that name, or has no such epoch."""
        if name not in self._paths or (epoch is not None and not 0 <= epoch < self.config.epochs):
            raise InputError(f"update {name!r}, epoch {epoch}: this run has kept {', '.join(self._paths)}")
        return self._load(self._paths[name])

    def trains_actor(self, name: str) -> bool:
        """Return False if the update trains the critic alone."""
        return int(self._paths[name].name) > self.config.critic_warmup_updates or not self.config.has_critic

    def beside_log(self, name: str, metrics: Mapping[str, float]) -> Tree:
        """Return each recomputed metric of an update with the one that training logged, or None."""
        path = self._paths[name]
        step, index = path.parents[1].name, int(path.name)
        rows: list[Row] = [row for row in self.folder.metrics() if row["step"] == step and row["index"] == index]
        logged = rows[-1] if rows else {}
        return {key: [short(value), logged.get(f"ppo/{key}")] for key, value in metrics.items()}


def numbers(rollout: Rollout, found: Explained, *, kl_coef: float) -> list[Tree]:
    """Return the numbers of each action of the rows that are shown; `kl_coef` is the coefficient in the reward.

    A number is None where the epoch did not use the action.
    """
    ref_logprobs = ref_logprobs_of(rollout)
    columns: dict[str, Tensor | None] = {
        "logprob": rollout.logprobs,
        "ref": ref_logprobs,
        "kl": k1(rollout.logprobs, ref_logprobs),
        "penalty": kl_penalties(rollout.logprobs, ref_logprobs, rollout.mask, kl_coef=kl_coef),
        "reward": rollout.rewards,
        "value": rollout.values,
        "next": None if rollout.next_values is None else rollout.next_values.masked_fill(rollout.terminated, 0.0),
        "end": (rollout.terminated | rollout.truncated).float(),  # of an episode: no advantage follows
        "delta": found.deltas,
        "plain": found.plain_advantages,
        "weight": rollout.weights,
        "advantage": found.advantages,
        "return": found.returns,
        "now": found.logprobs,
        "ratio": found.ratio,
        "outside": found.is_outside.float(),
        "loss": found.policy_loss,
        "gradient": found.gradient,
        "value_now": found.values,
        "value_loss": found.value_loss,
        "inner_ratio": found.inner_ratio,
    }
    return [
        {
            name: [_shown(value) for value in column[row][rollout.mask[row]].tolist()]
            for name, column in columns.items()
            if column is not None
        }
        for row in range(min(len(rollout.mask), MOST_ROWS))
    ]


def inner_clips(rollout: Rollout, config: UpdateConfig) -> Tree:
    """Return what the loss of inner steps takes besides their ratios, for each step; nothing if they have none."""
    if rollout.inner_logprobs is None:
        return {}
    num = rollout.inner_logprobs.shape[-1]
    return {
        "discounts": discounts(num).tolist(),
        "low": clip_ranges(num, clip_range=config.clip_range).tolist(),
        "high": clip_ranges(num, clip_range=config.upper_clip_range).tolist(),
    }


def _shown(value: float | list[float]) -> Any:  # Any: JSON
    """Return a number, or the numbers of the inner steps, as the page shows them; None where there are none."""
    if isinstance(value, list):
        return None if any(map(isnan, value)) else [short(number) for number in value]
    return None if isnan(value) else short(value)


def ref_logprobs_of(rollout: Rollout) -> Tensor:
    """Return the log-probabilities under the reference, which every kept rollout has."""
    assert rollout.ref_logprobs is not None
    return rollout.ref_logprobs


def short(value: float) -> float:
    """Return a number with the digits that the page shows."""
    return float(f"{value:.6g}")
