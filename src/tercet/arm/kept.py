"""What an arm's run keeps of a rollout, and the rollout that it makes again, also with other settings.

In `rollout.safetensors` (`train/ppo/kept.py`) these tensors are called `own.*`: those of the episodes, `info.*` for
each number that the environment gives, the decisions, the rewards of single steps, the number that divides them if
`ppo.scale_rewards`, and the seed of the starts.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from tercet.arm.play.agent import PolicyEpisodes, decisions_of
from tercet.arm.play.episodes import Episodes
from tercet.arm.rollout import Assessed, build, describe
from tercet.arm.scoring import StepRewards
from tercet.config.arm import PpoConfig
from tercet.train.ppo.kept import KeptRollout

_INFO = "info."  # prefix of the environment's numbers
_LEFT_OUT = ("infos", "seen")  # of the columns of episodes


def tensors_of(
    played: PolicyEpisodes,
    assessed: Assessed,
    rewards: StepRewards,
    *,
    kl_coef: float,
    seed: int,
    reward_scale: float = 1.0,
) -> dict[str, Tensor]:
    """Return the tensors from which `Retraced` makes the rollout again. Pictures that a policy sees are left out."""
    episodes = played.episodes
    columns = {field.name: getattr(episodes, field.name) for field in fields(Episodes) if field.name not in _LEFT_OUT}
    return {
        **columns,
        **{_INFO + name: values for name, values in episodes.infos.items()},
        "starts": played.starts,
        "decisions": played.decisions,
        "step_rewards": rewards.steps,
        "absorbing": rewards.absorbing,
        "exact_kl": assessed.kl,
        "kl_coef": torch.tensor(kl_coef, dtype=torch.float64),
        "seed": torch.tensor(seed),
        **({} if reward_scale == 1.0 else {"reward_scale": torch.tensor(reward_scale, dtype=torch.float64)}),
    }


@dataclass(frozen=True)
class Retraced:
    """The episodes of a kept rollout, with what the networks and the reward gave."""

    kept: KeptRollout
    played: PolicyEpisodes
    assessed: Assessed
    rewards: StepRewards

    @classmethod
    def of(cls, kept: KeptRollout) -> "Retraced":
        """Read them from the file's tensors."""
        own, rollout = kept.own, kept.rollout
        infos = {name.removeprefix(_INFO): values for name, values in own.items() if name.startswith(_INFO)}
        columns = {field.name: own[field.name] for field in fields(Episodes) if field.name not in _LEFT_OUT}
        episodes = Episodes(**columns, infos=infos)
        played = PolicyEpisodes(episodes, own["starts"], own["decisions"])
        assert rollout.ref_logprobs is not None  # every rollout of an arm has them
        assessed = Assessed(
            decisions_of(played),
            rollout.logprobs,
            rollout.ref_logprobs,
            rollout.values,
            rollout.next_values,
            own["exact_kl"],
            rollout.inner_logprobs,
        )
        return cls(kept, played, assessed, StepRewards(episodes, own["step_rewards"], own["absorbing"]))

    @property
    def kl_coef(self) -> float:
        """The coefficient of that update."""
        return float(self.kept.own["kl_coef"])

    def with_settings(self, config: PpoConfig, kl_coef: float) -> tuple[KeptRollout, dict[str, float]]:
        """Return the rollout with the rewards and discounts that these settings give, and its metrics."""
        rewards = self.rewards.for_learning(config.gamma) / float(self.kept.own.get("reward_scale", 1.0))
        rollout = build(self.played, self.assessed, rewards, gamma=config.gamma, kl_coef=kl_coef, config=config)
        metrics = describe(self.played, self.assessed, self.rewards, rollout, kl_coef=kl_coef, config=config)
        return replace(self.kept, rollout=rollout), metrics
