"""Recording the steps that a person controls."""

from pathlib import Path

import numpy as np
import pytest
from tests.arm.robot.conftest import CONFIG, Rehearsal, keys_at

from tercet.arm.demonstrations.recordings import TERCET_ACTION, TERCET_OBSERVATION
from tercet.arm.lerobot.layout import ACTION, IMAGES, STATE
from tercet.arm.lerobot.read import open_recording
from tercet.arm.robot.control import Operators, Tick
from tercet.arm.robot.devices import Observation, Teacher
from tercet.arm.robot.pilot import action_between, joints_for, start_joints
from tercet.arm.robot.simulated import SimulatedArm, SimulatedTeacher
from tercet.arm.robot.takeover import DemonstrationRecorder
from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.arm.sim.workspace import STEPS
from tercet.errors import InputError


class Expert(SimulatedTeacher):
    """The leader arm of the expert, with what the expert did, and whether the workspace let it."""

    def __init__(self, robot: SimulatedArm) -> None:
        super().__init__(robot)
        self.actions, self.inside = list[Array](), list[bool]()

    def get_action(self) -> dict[str, float]:
        env = self._robot.env
        now, action = env.readings(), env.expert_actions().astype(np.float64)
        hand = np.column_stack([now.target, now.target_turn, now.target_opening]) + STEPS * action
        self.actions.append(action[0])
        self.inside.append(bool((env.arm.within(hand) == hand)[0, :4].all()))
        return super().get_action()


def test_steps_that_a_person_controls_are_recorded(lift: Rehearsal, tmp_path: Path) -> None:
    class Lost:
        def wanted(self, observation: Array, sent: Array, seen: Observation, *, fresh: bool) -> Array:
            return joints_for(sent, np.array([[0.2, 0.2, 0.1, 0.0, 1.0]]))

    recorder = DemonstrationRecorder(
        tmp_path / "kept",
        TASKS["lift"],
        CONFIG.calibration,
        robot_type="simulated",
        features=lift.robot.observation_features,
        say=lambda text: None,
    )
    said: list[str] = []
    recorder._say = said.append
    expert = Expert(lift.robot)
    operators = Operators(Lost(), Teacher(expert, CONFIG), keys_at({12: "t", 72: "t"}))

    def watch(tick: Tick) -> None:
        lift.ticks.append(tick)
        recorder.watch(tick)

    ticks = lift.drive(operators, seconds=4.0, watch=watch)
    assert [tick.who for tick in ticks[11:13]] == ["policy", "person"]
    assert [tick.who for tick in ticks[71:73]] == ["person", "policy"]
    assert not (tmp_path / "kept").exists()  # encoding pictures would hold up the loop
    recorder.finish(good=True)
    assert ticks[71].success and said == [f"saved: 60 steps steered by a person, in {tmp_path / 'kept'}"]
    assert recorder.summary().startswith(f"{tmp_path / 'kept'} contains 1 demonstration;")
    (kept,) = open_recording(tmp_path / "kept").episodes([STATE, ACTION, TERCET_OBSERVATION, TERCET_ACTION])
    assert (len(kept), kept.task) == (60, "lift")
    np.testing.assert_allclose(kept.columns[TERCET_OBSERVATION][0], ticks[12].observation, rtol=1e-5)
    np.testing.assert_allclose(kept.columns[STATE][:, 0], np.degrees([t.measured[0] for t in ticks[12:72]]), atol=1e-4)
    # the recorded actions are what the person asked for, and not what the guard made of it
    actions, done = kept.columns[TERCET_ACTION], np.stack(expert.actions)
    inside = np.array(expert.inside)
    assert inside.sum() > 30
    np.testing.assert_allclose(actions[inside], done[inside], atol=1e-4)
    limited = np.stack([action_between(tick.before, tick.sent) for tick in ticks[12:72]])
    assert (np.abs(limited - actions)[inside, :4].max(1) > 0.2).mean() > 0.3
    # a hand that holds the cube closes, though the command of its fingers cannot fall further
    closed = np.array([tick.before[-1] == 0 for tick in ticks[12:72]])
    assert closed.sum() > 10 and (actions[closed, -1] == -1).all() and (limited[closed, -1] == 0).all()


def test_steps_with_an_unreadable_leader_arm_are_not_recorded(tmp_path: Path) -> None:
    said: list[str] = []
    recorder = DemonstrationRecorder(
        tmp_path / "kept", TASKS["reach"], CONFIG.calibration, robot_type="simulated", features={}, say=said.append
    )
    home = start_joints(CONFIG.start, 0.03)
    for step in range(20):
        wanted = home * np.nan if step == 8 else home
        looks = np.zeros(len(TASKS["reach"].observation))
        recorder.watch(Tick(step / 20, "person", home, wanted, home, home, (), looks, False, {}))
    recorder.finish(good=True)
    episodes = [*open_recording(tmp_path / "kept").episodes([TERCET_ACTION])]
    assert [len(one) for one in episodes] == [8, 11]
    assert all(np.isfinite(one.columns[TERCET_ACTION]).all() for one in episodes)


def test_a_recording_in_which_closed_fingers_say_stay_is_not_mixed_with_a_new_one(
    lift: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recorder(folder: Path) -> DemonstrationRecorder:
        features = lift.robot.observation_features
        return DemonstrationRecorder(
            folder, TASKS["lift"], CONFIG.calibration, robot_type="simulated", features=features, say=lambda text: None
        )

    operators = Operators(None, Teacher(SimulatedTeacher(lift.robot), CONFIG))
    ticks = lift.drive(operators, seconds=3.0, person=True)
    for name in ("old", "new"):
        with monkeypatch.context() as patched:
            if name == "old":
                patched.setattr("tercet.arm.robot.pilot._END", -1.0)
            one = recorder(tmp_path / name)
            for tick in ticks:
                one.watch(tick)
            one.finish(good=True)
    recorder(tmp_path / "new")
    with pytest.raises(InputError, match="recorded 0 where closed fingers were kept closed"):
        recorder(tmp_path / "old")


def test_images_of_a_takeover_are_recorded_as_video(tmp_path: Path) -> None:
    pytest.importorskip("av")
    robot = SimulatedArm("reach", CONFIG.calibration, cameras={"front": "front"})
    features = robot.observation_features
    recorder = DemonstrationRecorder(
        tmp_path / "kept",
        TASKS["reach"],
        CONFIG.calibration,
        robot_type="simulated",
        features=features,
        say=lambda text: None,
    )
    home = start_joints(CONFIG.start, 0.03)
    for step in range(6):
        seen = {"front": np.full((240, 320, 3), 40 * step, np.uint8)}
        looks = np.zeros(len(robot.env.layout.names))
        recorder.watch(Tick(step / 20, "person", home, home, home, home, (), looks, False, seen))
    recorder.finish(good=True)
    pictures = open_recording(tmp_path / "kept").pictures(0, f"{IMAGES}.front", range(6))
    assert [round(float(picture.mean()) / 40) for picture in pictures] == [*range(6)]
    robot.disconnect()
