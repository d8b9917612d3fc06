"""The checks of the arm config across several keys."""

import pytest
from pydantic import ValidationError

from tercet.config.arm import ArmConfig
from tercet.config.robot import RobotConfig


def test_episodes_that_do_not_fit_into_memory_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"eval.num_states=10000000 \* horizon=60 must be at most"):
        ArmConfig.model_validate({"eval": {"num_states": 10**7}})
    with pytest.raises(ValidationError, match="from 0 to 100"):
        ArmConfig.model_validate({"reward": {"noises": [-1.0]}})
    with pytest.raises(ValidationError, match=r"both from -1\.0 to 1\.0"):
        RobotConfig.model_validate({"safety": {"workspace_x": [-1e9, 1e9]}})


def test_what_needs_responses_or_whole_groups_is_refused() -> None:
    for setting, what in (
        ({"algorithm": "gspo"}, "ratio_of=response_mean is for responses"),
        ({"algorithm": "dapo"}, "max_redraws=4 is for prompts"),
        ({"algorithm": "grpo", "num_envs": 12}, "num_envs=12 episodes are not groups of group_size=8"),
    ):
        with pytest.raises(ValidationError, match=what):
            ArmConfig.model_validate({"ppo": setting})
    assert ArmConfig.model_validate({"ppo": {"algorithm": "dapo", "max_redraws": 0}}).ppo.clip_range_high == 0.28


@pytest.mark.parametrize("kind", ["gaussian", "act", "tokens", "conv"])
def test_denoising_steps_of_a_policy_without_any_cannot_be_clipped(kind: str) -> None:
    policy = {"kind": kind, "hidden_size": 64, "cameras": ["wrist"] if kind == "conv" else []}
    with pytest.raises(ValidationError, match=f"policy.kind={kind} has none; set ppo.clip_of=chain"):
        ArmConfig.model_validate({"policy": policy, "ppo": {"clip_of": "step"}})
    ArmConfig.model_validate({"policy": policy})
