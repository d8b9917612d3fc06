"""Play a policy of an arm's run."""

from pathlib import Path

import numpy as np
import pytest

import tercet
from tercet.runs.folder import RunFolder


def test_the_seed_determines_the_starts_that_a_policy_plays(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", tercet.load_arm_config("reach", {"horizon": 20}), preset="reach"):
        run = tercet.Run(tmp_path / "run")
    first, again, other = (tercet.play(run, stage="start", num_starts=3, seed=seed) for seed in (5, 5, 6))
    assert [episode.dense_return for episode in first] == [episode.dense_return for episode in again]
    assert not np.array_equal(first[0].observations[0], other[0].observations[0])
    assert all(len(one.actions) == len(one.observations) == 20 and one.success is False for one in first)
    with pytest.raises(tercet.InputError, match=r"stage='ppo': .* has start"):
        tercet.play(run)
    with pytest.raises(tercet.InputError, match="num_starts=0: must be at least 1"):
        tercet.play(run, num_starts=0)
    with pytest.raises(tercet.InputError, match="is a run of a robot arm"):
        tercet.sample(run, ["Hi"])
