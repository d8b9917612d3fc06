"""The stages of a run that can answer prompts: base, sft, ppo, and where the model of each lies."""

from dataclasses import dataclass

from tercet.config.lm import LmConfig
from tercet.runs.folder import RunFolder


@dataclass(frozen=True)
class Stage:
    """One of base, sft, ppo; `path` is its model's folder or hub id ('' for the base: model.path)."""

    name: str
    path: str


def stages_of(folder: RunFolder, config: LmConfig) -> list[Stage]:
    """Base, then what the run has made of it."""
    stages = [Stage("base", "")]
    if sft := sft_model(folder, config):
        stages.append(Stage("sft", sft))
    if folder.has_ended("ppo"):
        stages.append(Stage("ppo", str(folder.path / "ppo" / "model")))
    return stages


def sft_model(folder: RunFolder, config: LmConfig) -> str:
    """The policy that PPO starts from and pairs are sampled from: ppo.policy, or this run's own; '' before it is."""
    own = str(folder.path / "sft" / "model") if folder.has_ended("sft") else ""
    return config.ppo.policy or own
