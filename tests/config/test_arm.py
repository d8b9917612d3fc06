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
