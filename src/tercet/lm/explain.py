"""`tercet inspect DIR`: the kept rollouts of a language run, token by token, recomputed with any settings."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from tercet.config.lm import LmConfig, PpoConfig
from tercet.config.load import recorded_config
from tercet.core.kl import penalised_rewards
from tercet.lm.data.examples import Example, Message
from tercet.lm.rollout import coefficient_in_reward, rewarded, rollout_means
from tercet.lm.text.encoder import Encoder
from tercet.lm.text.token_view import text_of_each
from tercet.runs.folder import RunFolder
from tercet.runs.rounds import in_round
from tercet.train.ppo.explain import explain
from tercet.train.ppo.inspection import SETTINGS, KeptUpdates, Tree, numbers, ref_logprobs_of, short
from tercet.train.ppo.kept import KeptRollout

_WORD = "qz0zq"  # occurs in no template


class Inspection:
    """The kept rollouts of a run."""

    def __init__(self, folder: RunFolder) -> None:
        """Find the rollouts; raise InputError if there are none."""
        self.config = recorded_config(LmConfig, folder.config_dict, folder.path)
        steps = [in_round("ppo", number) for number in range(self.config.reward.num_rounds + 1)]
        self.updates = KeptUpdates(folder, steps, self.config.ppo)
        self._encoder = Encoder.of(self.config)
        question = Example((Message("user", _WORD),), "", None, "", "")
        written = str(self._encoder.tokenizer.decode(self._encoder.prompt(question), skip_special_tokens=True)).strip()
        self._before, _, self._behind = written.partition(_WORD)

    def about(self) -> Tree:
        """Return what the page needs once."""
        return self.updates.about() | {"kind": "lm"}

    def update(self, name: str, epoch: int | None, settings: Mapping[str, float]) -> Tree:
        """Return all about an update; `settings` replace those of the run. InputError if there is no such update."""
        kept = self.updates.load(name, epoch)
        ppo = self.config.ppo.model_copy(update={n: v for n, v in settings.items() if n in SETTINGS})
        kl_coef = settings.get("kl_coef", float(kept.own["kl_coef"]))  # it changes from update to update with kl_target
        kept = what_if(kept, ppo, kl_coef)
        trains_actor = self.updates.trains_actor(name)
        found = explain(kept, ppo, epoch=epoch, trains_actor=trains_actor)
        metrics = found.metrics | rollout_means(kept.rollout, kept.own["scores"], kept.own["ended"], ppo)
        rows = numbers(kept.rollout, found, kl_coef=coefficient_in_reward(ppo, kl_coef))
        return {
            "name": name,
            "kl_coef": kl_coef,
            "trains_actor": trains_actor,
            "used_epochs": kept.seen.used_epochs(),
            "num_rows": len(kept.rollout.mask),
            "metrics": self.updates.beside_log(name, metrics),
            "rows": [self._texts(kept, row) | columns for row, columns in enumerate(rows)],
        }

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
            "score": short(float(kept.own["scores"][row])),
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
