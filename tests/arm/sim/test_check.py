"""The arm's own self-check passes, and finds the faults that it is there for."""

import pytest
from typer.testing import CliRunner

from tercet.arm.sim import check, scene
from tercet.arm.sim.tasks import carry
from tercet.cli import app


@pytest.mark.slow
def test_every_check_holds() -> None:
    checks = check.run(num_states=128, seed=3)
    assert all(one.ok for one in checks), check.table(checks)
    assert max(map(len, check.table(checks).splitlines())) <= 80
    assert {f"{task}: success of the expert" for task in ("reach", "lift", "place", "push")} < {c.name for c in checks}


def test_fingers_too_long_by_15_mm_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene, "_FINGER_CENTRE", scene._FINGER_CENTRE + 0.015)
    failed = {one.name for one in check.settling(2) if not one.ok}
    assert {"tip: commanded and actual differ by (m)", "empty table: force on a finger (N)"} <= failed


def test_motors_too_weak_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene, "_TORQUE", 0.02)
    assert "joints: commanded and actual differ by (rad)" in {one.name for one in check.settling(2) if not one.ok}


def test_an_expert_that_fails_is_found_and_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carry, "_CARRY_SPEED", 0.0)
    lift = list(check.expert("lift", num_states=8, seed=0, num_threads=2))
    assert [one.ok for one in lift] == [False, True, True, True]
    monkeypatch.setattr(check, "run", lambda arm, seed: lift)
    done = CliRunner().invoke(app, ["arm", "check"])
    assert done.exit_code == 1
    assert "FAIL  lift: success of the expert" in done.output
    assert "1 of 4 checks of the arm failed" in done.output


def test_what_is_no_number_keeps_no_limit() -> None:
    assert not check.Check("a", float("nan"), 1.0).ok
    assert not check.Check("a", float("nan"), 1.0, least=True).ok
    assert check.Check("a", 1.0, 1.0).ok and check.Check("a", 1.0, 1.0, least=True).ok
