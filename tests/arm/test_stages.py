"""The policy from which reward and PPO start."""

import pytest

from tercet.arm import ppo, reward
from tercet.config.arm import ArmConfig
from tercet.errors import InputError
from tercet.runs.folder import RunFolder


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (reward.run, "run `tercet arm bc` with the same --out first"),
        (ppo.run, "run `tercet arm bc` with the same --out"),
    ],
)
def test_a_missing_clone_is_reported(step, said: str, folder: RunFolder, config: ArmConfig) -> None:  # type: ignore[no-untyped-def]  # both have the steps' own signature
    with pytest.raises(InputError, match=said):
        step(folder, config)
