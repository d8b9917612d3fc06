"""The stages of a run that can respond to prompts (base, sft, ppo) and the paths of their models."""

from dataclasses import dataclass

from tercet.runs.folder import RunFolder


@dataclass(frozen=True)
class Stage:
    """One of base, sft, ppo; `path` is the folder or hub id of its model ('' for the base: model.path)."""

    name: str
    path: str


def stages_of(folder: RunFolder, policy: str) -> list[Stage]:
    """List the base and the stages that the run has finished; `policy` is ppo.policy."""
    stages = [Stage("base", "")]
    if sft := sft_model(folder, policy):
        stages.append(Stage("sft", sft))
    if folder.has_ended("ppo"):
        stages.append(Stage("ppo", str(folder.path / "ppo" / "model")))
    return stages


def sft_model(folder: RunFolder, policy: str) -> str:
    """Return the path of the policy that PPO starts from and pairs are sampled from.

    It is `policy` (ppo.policy) if given, else the run's own SFT model; '' if that has not been trained yet.
    """
    own = str(folder.path / "sft" / "model") if folder.has_ended("sft") else ""
    return policy or own
