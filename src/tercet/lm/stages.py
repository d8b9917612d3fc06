"""The stages of a run that can respond to prompts (base, sft, ppo, its rounds, dpo) and the paths of their models."""

from dataclasses import dataclass

from tercet.runs.folder import RunFolder
from tercet.runs.rounds import in_round


@dataclass(frozen=True)
class Stage:
    """One of base, sft, ppo, ppo-1, ..., dpo; `path` is the folder or hub id of its model ('' for base: model.path)."""

    name: str
    path: str


def stages_of(folder: RunFolder, policy: str, num_rounds: int) -> list[Stage]:
    """List the base and the stages that the run has finished; `policy` is ppo.policy."""
    stages = [Stage("base", "")]
    if sft := sft_model(folder, policy):
        stages.append(Stage("sft", sft))
    learned = [*(in_round("ppo", number) for number in range(num_rounds + 1)), "dpo"]
    return [*stages, *(Stage(name, model_of(folder, name)) for name in learned if folder.has_ended(name))]


def model_of(folder: RunFolder, step: str) -> str:
    """Return the path of the model that a step saves."""
    return str(folder.path / step / "model")


def last_reward_model(folder: RunFolder, num_rounds: int) -> str:
    """Return the path of the reward model of the last finished round; '' if the run has none."""
    rounds = [in_round("reward", number) for number in range(num_rounds + 1)]
    done = [name for name in rounds if folder.has_ended(name)]
    return model_of(folder, done[-1]) if done else ""


def sft_model(folder: RunFolder, policy: str) -> str:
    """Return the path of the policy that PPO starts from and pairs are sampled from.

    It is `policy` (ppo.policy) if given, else the run's own SFT model; '' if that has not been trained yet.
    """
    own = model_of(folder, "sft") if folder.has_ended("sft") else ""
    return policy or own
