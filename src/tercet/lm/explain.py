"""`tercet inspect DIR`: the kept rollouts of a language run, token by token, recomputed with any settings."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tercet.config.lm import LmConfig, PpoConfig
from tercet.config.load import recorded_config
from tercet.core.kl import k1, kl_penalties, penalised_rewards
from tercet.errors import InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.rollout import coefficient_in_reward, rewarded, rollout_means
from tercet.lm.text.encoder import Encoder
from tercet.lm.text.token_view import text_of_each
from tercet.runs.folder import RunFolder
from tercet.runs.rounds import in_round
from tercet.runs.rows import Row
from tercet.runs.step import ROLLOUTS
from tercet.train.explain import Explained, explain
from tercet.train.kept import KeptRollout
from tercet.types import Rollout

Tree = dict[str, Any]  # Any: JSON for the page
MOST_ROWS = 64  # responses that the page shows; numbers over the whole rollout are of all
SETTINGS = ("gamma", "lam", "kl_coef", "clip_range", "value_clip_range")  # that the page may change
_WORD = "qz0zq"  # occurs in no template
_NO_ROLLOUTS = "no kept rollouts; run PPO with ppo.keep_rollouts above 0 (versions before it kept none)"


class Inspection:
    """The kept rollouts of a run."""

    def __init__(self, folder: RunFolder) -> None:
        """Find the rollouts; raise InputError if there are none."""
        self.config = recorded_config(LmConfig, folder.config_dict, folder.path)
        self._folder = folder
        steps = [in_round("ppo", number) for number in range(self.config.reward.num_rounds + 1)]
        paths = [path for step in steps for path in (folder.path / step / ROLLOUTS).glob("[0-9]*")]
        self._paths = {f"{path.parents[1].name} {path.name}": path for path in sorted(paths, key=_order)}
        if not self._paths:
            raise InputError(f"{folder.path}: {_NO_ROLLOUTS}")
        self._encoder = Encoder.of(self.config)
        question = Example((Message("user", _WORD),), "", None, "", "")
        written = str(self._encoder.tokenizer.decode(self._encoder.prompt(question), skip_special_tokens=True)).strip()
        self._before, _, self._behind = written.partition(_WORD)
        self._load = lru_cache(maxsize=4)(KeptRollout.load)

    def about(self) -> Tree:
        """Return what the page needs once: the updates, and the settings of the run."""
        ppo = self.config.ppo
        return {
            "run": self._folder.path.resolve().name,
            "updates": list(self._paths),
            "epochs": ppo.epochs,
            "settings": {name: getattr(ppo, name) for name in SETTINGS},
            "critic_warmup_updates": ppo.critic_warmup_updates,
        }

    def update(self, name: str, epoch: int | None, settings: Mapping[str, float]) -> Tree:
        """Return all about an update; `settings` replace those of the run. InputError if there is no such update."""
        if name not in self._paths or (epoch is not None and not 0 <= epoch < self.config.ppo.epochs):
            raise InputError(f"update {name!r}, epoch {epoch}: this run has kept {', '.join(self._paths)}")
        path = self._paths[name]
        kept, number = self._load(path), int(path.name)
        ppo = self.config.ppo.model_copy(update={n: v for n, v in settings.items() if n in SETTINGS})
        kl_coef = settings.get("kl_coef", float(kept.own["kl_coef"]))  # it changes from update to update with kl_target
        kept = what_if(kept, ppo, kl_coef)
        trains_actor = number > ppo.critic_warmup_updates or not ppo.has_critic
        found = explain(kept, ppo, epoch=epoch, trains_actor=trains_actor)
        logged = self._logged(path.parents[1].name, number)
        metrics = found.metrics | rollout_means(kept.rollout, kept.own["scores"], kept.own["ended"], ppo)
        return {
            "name": name,
            "kl_coef": kl_coef,
            "trains_actor": trains_actor,
            "num_rows": len(kept.rollout.mask),
            "metrics": {key: [_short(value), logged.get(f"ppo/{key}")] for key, value in metrics.items()},
            "rows": self._rows(kept, found, kl_coef),
        }

    def _logged(self, step: str, number: int) -> Row:
        rows = [row for row in self._folder.metrics() if row["step"] == step and row["index"] == number]
        return rows[-1] if rows else {}

    def _rows(self, kept: KeptRollout, found: Explained, kl_coef: float) -> list[Tree]:
        """Return the responses with the numbers of each of their tokens."""
        rollout, in_reward = kept.rollout, coefficient_in_reward(self.config.ppo, kl_coef)
        columns = {
            "logprob": rollout.logprobs,
            "ref": ref_logprobs_of(rollout),
            "kl": k1(rollout.logprobs, ref_logprobs_of(rollout)),
            "penalty": kl_penalties(rollout.logprobs, ref_logprobs_of(rollout), rollout.mask, kl_coef=in_reward),
            "reward": rollout.rewards,
            "value": rollout.values,
            "next": None if rollout.next_values is None else rollout.next_values.masked_fill(rollout.terminated, 0.0),
            "delta": found.deltas,
            "plain": found.plain_advantages,
            "advantage": found.advantages,
            "return": found.returns,
            "now": found.logprobs,
            "ratio": found.ratio,
            "outside": found.is_outside.float(),
            "loss": found.policy_loss,
            "gradient": found.gradient,
            "value_now": found.values,
            "value_loss": found.value_loss,
        }
        return [
            {
                **self._texts(kept, row),
                **{
                    name: _shorts(column[row], rollout.mask[row])
                    for name, column in columns.items()
                    if column is not None
                },
            }
            for row in range(min(len(rollout.mask), MOST_ROWS))
        ]

    def _texts(self, kept: KeptRollout, row: int) -> Tree:
        ids, start = kept.own["ids"][row].tolist(), int(kept.own["prompt_lengths"][row])
        end = start + int(kept.rollout.mask[row].sum())
        tokenizer = self._encoder.tokenizer
        prompt = str(tokenizer.decode(ids[:start], skip_special_tokens=True)).strip()
        if prompt.startswith(self._before) and prompt.endswith(self._behind):  # what the style writes around a question
            prompt = prompt[len(self._before) : len(prompt) - len(self._behind)].strip()
        return {
            "prompt": prompt,
            "tokens": text_of_each(tokenizer, ids[start:end]),
            "ended": bool(kept.own["ended"][row]),
            "score": _short(float(kept.own["scores"][row])),
        }


def what_if(kept: KeptRollout, ppo: PpoConfig, kl_coef: float) -> KeptRollout:
    """Return the rollout with the rewards and discounts that these settings give."""
    rollout, own = kept.rollout, kept.own
    scores, in_reward = rewarded(own["scores"], own["ended"], ppo), coefficient_in_reward(ppo, kl_coef)
    rewards = penalised_rewards(scores, rollout.logprobs, ref_logprobs_of(rollout), rollout.mask, kl_coef=in_reward)
    changed = replace(
        rollout,
        rewards=rewards,
        discounts=torch.full_like(rollout.discounts, ppo.gamma),
        kl_coef=kl_coef if ppo.is_kl_in_loss else 0.0,
        max_length=ppo.max_response_tokens,
    )
    return replace(kept, rollout=changed)


def ref_logprobs_of(rollout: Rollout) -> Tensor:
    """Return the log-probabilities under the reference, which every rollout of a language model has."""
    assert rollout.ref_logprobs is not None
    return rollout.ref_logprobs


def _order(path: Path) -> tuple[int, str, int]:
    step = path.parents[1].name
    return len(step), step, int(path.name)


def _shorts(values: Tensor, mask: Tensor) -> list[float]:
    return [_short(value) for value in values[mask].tolist()]


def _short(value: float) -> float:
    return float(f"{value:.6g}")
