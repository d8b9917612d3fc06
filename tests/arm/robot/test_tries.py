"""Tries on an arm: what is kept of one, and the actions that are learned."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.arm.conftest import drawable
from tests.arm.robot.conftest import CONFIG, no_keys

from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.gaussian import GaussianPolicy
from tercet.arm.robot import control
from tercet.arm.robot.control import SimulatedClock
from tercet.arm.robot.pilot import Pilot
from tercet.arm.robot.tries import MarkedTry, rig
from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.errors import InputError


def still() -> Pilot:
    torch.manual_seed(0)
    return Pilot(GaussianPolicy(Sizes(len(TASKS["reach"].observation), 5), hidden_size=4, num_layers=1, log_std=0.0))


def test_a_try_of_a_policy_that_stands_still_is_taken_over_and_stored_whole(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"person_errors": 0.0})
    with rig(config, TASKS["reach"], no_keys, SimulatedClock(), print) as arm:
        one = arm.attempt(still(), num_ticks=80, start_seed=1, person_seed=1)
        again = arm.attempt(still(), num_ticks=80, start_seed=1, person_seed=1)
        other = arm.attempt(still(), num_ticks=80, start_seed=2, person_seed=1)
    assert one is not None and again is not None and other is not None
    ((begun, ended),) = one.takeovers()
    assert 9 <= begun <= 15 and ended == len(one.by_person) and one.by_person[begun] and not one.by_person[begun - 1]
    assert one.success and one.good and one.num_takeovers == 1 and one.num_ticks == len(one.by_person) < 80
    assert not one.by_person[:9].any() and one.by_person[15:].all()
    assert one.limits["any"] >= one.limits["acceleration"] > 0
    assert torch.equal(one.observations, again.observations) and not torch.equal(
        one.observations[0], other.observations[0]
    )
    replace(one, better=0.5).save(tmp_path)
    read = MarkedTry.load(tmp_path)
    assert read.better == 0.5 and one.better is None
    assert all(
        torch.equal(getattr(one, name), getattr(read, name)) for name in ("observations", "actions", "by_person")
    )
    assert (read.good, read.success, read.num_ticks, read.limits) == (True, True, one.num_ticks, one.limits)


def test_a_try_keeps_what_the_policy_saw_in_every_step(tmp_path: Path) -> None:
    """Also while the person steers: from these pictures the policy learns what they did."""
    next(drawable("reach", 1)).close()
    config = CONFIG.model_copy(update={"person_errors": 0.0, "cameras": {"wrist": "wrist", "front": "front"}})
    policy = Blind(Sizes(len(TASKS["reach"].observation), 5), hidden_size=4, num_layers=1, log_std=0.0)
    with rig(config, TASKS["reach"], no_keys, SimulatedClock(), print) as arm:
        one = arm.attempt(Pilot(policy), num_ticks=30, start_seed=1, person_seed=1)
        assert one is not None and one.by_person.any()
        last = [camera.fitted(arm._robot.get_observation()[camera.name]) for camera in policy.cameras]
    num = len(one.by_person)
    assert [tuple(images.shape) for images in one.pictures] == [(num, 32, 32, 3), (num, 32, 48, 3)]
    for images, picture in zip(one.pictures, last, strict=True):
        near = (images[-1].float() - torch.from_numpy(picture).float()).abs().mean()
        far = (images[0].float() - torch.from_numpy(picture).float()).abs().mean()
        assert near < far  # the last is before the last step
    one.save(tmp_path)
    read = MarkedTry.load(tmp_path)
    assert all(torch.equal(*both) for both in zip(one.pictures, read.pictures, strict=True))


class Blind(GaussianPolicy):
    """A policy that is given pictures and does not look at them."""

    cameras = (Camera("front", 32, 32), Camera("wrist", 32, 48))

    def look(self, *pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert [tuple(images.shape) for images in pictures] == [(1, 32, 32, 3), (1, 32, 48, 3)]
        return ()


def test_the_own_steps_of_a_policy_are_kept_as_it_chose_them_at_any_speed() -> None:
    """Otherwise the next policy learns the slower movements, and they are slowed down once more."""
    config = CONFIG.model_copy(update={"person": "keyboard"})
    policy = still().policy
    last = [module for module in policy.modules() if isinstance(module, torch.nn.Linear)][-1]
    last.bias.data = torch.tensor([0.3, -0.2, 0.1, 0.4, 0.0])
    for speed in (1.0, 0.25):
        waiting = iter(["", "", "", "", "g"])
        with rig(config, TASKS["reach"], lambda waiting=waiting: next(waiting, ""), SimulatedClock(), print) as arm:
            one = arm.attempt(Pilot(policy, speed), num_ticks=80, start_seed=1, person_seed=1)
        assert one is not None and not one.by_person.any()
        with torch.no_grad():
            chosen = policy.actions(policy.decide(one.observations, None))[:, 0].clamp(-1, 1)
        torch.testing.assert_close(one.actions[:, :4], chosen[:, :4], atol=1e-4, rtol=0)
        assert chosen[:, :4].abs().max() > 0.1


def test_a_person_at_the_keyboard_ends_and_marks_a_try() -> None:
    config = CONFIG.model_copy(update={"person": "keyboard"})
    for key, good in (("b", False), ("g", True), ("x", None)):
        waiting = iter(["", "", "", key])
        with rig(config, TASKS["reach"], lambda waiting=waiting: next(waiting, ""), SimulatedClock(), print) as arm:
            one = arm.attempt(still(), num_ticks=80, start_seed=1, person_seed=1)
        assert (one and one.good) is good and (one is None or one.num_ticks == 4)
    quits = rig(config, TASKS["reach"], lambda: control.QUIT, SimulatedClock(), print)
    with quits as arm, pytest.raises(KeyboardInterrupt):
        arm.attempt(still(), num_ticks=80, start_seed=1, person_seed=1)


def test_a_simulated_person_needs_a_simulated_arm() -> None:
    config = CONFIG.model_copy(update={"teacher": "none"})
    with (
        pytest.raises(InputError, match="person=simulated: needs robot=simulated and teacher=simulated"),
        rig(config, TASKS["reach"], no_keys, SimulatedClock(), print),
    ):
        pass


def test_a_real_arm_is_connected_only_after_g() -> None:
    config = CONFIG.model_copy(update={"robot": "tests.arm.conftest:Other", "teacher": "none", "person": "keyboard"})
    said: list[str] = []
    never = rig(config, TASKS["reach"], lambda: control.QUIT, SimulatedClock(), said.append)
    with pytest.raises(KeyboardInterrupt), never:
        pass
    assert said == ["support the arm: connecting turns its motors off for a moment", "g connects, q ends"]
    connects = rig(config, TASKS["reach"], lambda: control.GO, SimulatedClock(), said.append)
    with pytest.raises(InputError, match="the robot is not calibrated"), connects:
        pass


@pytest.mark.slow
def test_a_takeover_at_the_first_step_never_waits_for_the_leader_arm() -> None:
    """The expert turns the hand to a cube by more than the 20 degrees within which a person may take over."""
    config = CONFIG.model_copy(update={"person_errors": 1.0})
    pilot = Pilot(GaussianPolicy(Sizes(len(TASKS["place"].observation), 5), hidden_size=4, num_layers=1, log_std=0.0))
    with rig(config, TASKS["place"], no_keys, SimulatedClock(), print) as arm:
        for seed in range(12):
            one = arm.attempt(pilot, num_ticks=60, start_seed=seed, person_seed=seed)
            assert one is not None and len(one.by_person) == one.num_ticks  # somebody steers in every step
