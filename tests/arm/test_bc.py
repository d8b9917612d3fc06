"""Behaviour cloning learns from demonstrations."""

from pathlib import Path

import pytest
from tests.arm.conftest import run_of, values

from tercet.arm import bc
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.gaussian import GaussianPolicy
from tercet.arm.policies.kinds import load_policy
from tercet.errors import InputError


def test_cloning_lowers_the_loss_on_the_demonstrations(small: list[str], tmp_path: Path) -> None:
    folder, config = run_of(tmp_path, "lift", [*small, "bc.epochs=60"])
    with folder:
        bc.run(folder, config)
        losses = values(folder, "bc/loss")
    assert sum(losses[-5:]) < 0.4 * sum(losses[:5])
    assert folder.results()["demonstrations"] == {"num": 2, "num_rows": 24, "num_steps": 24, "success": 0.0}
    policy = load_policy(folder.path / "bc" / "model", Sizes(23, 5))
    assert isinstance(policy, GaussianPolicy)
    assert policy.log_std.unique().tolist() == [pytest.approx(-1.2)]  # cloning leaves it alone


def test_without_demonstrations_there_is_nothing_to_clone(small: list[str], tmp_path: Path) -> None:
    folder, config = run_of(tmp_path, "lift", [*small, "bc.demonstrations=none"])
    with folder, pytest.raises(InputError, match=r"bc.demonstrations=none: there is nothing to clone; give"):
        bc.run(folder, config)
