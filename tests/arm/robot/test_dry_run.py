"""A dry run, which sends nothing."""

from pathlib import Path

import numpy as np
from tests.arm.robot.conftest import ExpertPilot, Rehearsal

from tercet.arm.robot import dry_run
from tercet.arm.robot.control import Operators


def test_dry_run_sends_nothing_and_shows_the_commands(lift: Rehearsal, tmp_path: Path) -> None:
    before = lift.robot.env.joints().copy()
    ticks = lift.drive(Operators(ExpertPilot(lift.robot), None), seconds=2.0, arm=dry_run.DryRunArm(lift.arm))
    np.testing.assert_array_equal(lift.robot.env.joints(), before)
    assert np.abs(ticks[-1].sent - ticks[0].sent).max() > 0.1
    text = list(dry_run.lines(ticks))
    steps = [line for line in text if "limits: " not in line]
    assert len(steps) == 6  # a heading, each half second, and the end
    assert "policy" in text[1] and "limits: acceleration" in text[2]
    assert max(map(len, text)) <= 80
    dry_run.plot(tmp_path / "sent.png", ticks, lift.guard.limits)
    assert (tmp_path / "sent.png").read_bytes()[:4] == b"\x89PNG"
