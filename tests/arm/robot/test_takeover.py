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
from tercet.arm.robot.pilot import joints_for, start_joints
from tercet.arm.robot.simulated import SimulatedArm, SimulatedTeacher
from tercet.arm.robot.takeover import DemonstrationRecorder
from tercet.arm.sim import kinematics
from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.tasks.builtin import TASKS


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
    teacher = Teacher(SimulatedTeacher(lift.robot), CONFIG)
    operators = Operators(Lost(), teacher, keys_at({12: "t", 72: "t"}))

    def watch(tick: Tick) -> None:
        lift.ticks.append(tick)
        recorder.watch(tick)

    ticks = lift.drive(operators, seconds=4.0, watch=watch)
    assert [tick.who for tick in ticks[11:13]] == ["policy", "person"]
    assert [tick.who for tick in ticks[71:73]] == ["person", "policy"]
    assert not (tmp_path / "kept").exists()  # encoding pictures would hold up the loop
    recorder.finish(good=True)
    assert ticks[71].success and said == [f"saved: 60 steps steered by a person, in {tmp_path / 'kept'}"]
    assert recorder.summary().startswith(f"{tmp_path / 'kept'} contains 1 demonstrations")
    (kept,) = open_recording(tmp_path / "kept").episodes([STATE, ACTION, TERCET_OBSERVATION, TERCET_ACTION])
    assert (len(kept), kept.task) == (60, "lift")
    np.testing.assert_allclose(kept.columns[TERCET_OBSERVATION][0], ticks[12].observation, rtol=1e-5)
    np.testing.assert_allclose(kept.columns[STATE][:, 0], np.degrees([t.measured[0] for t in ticks[12:72]]), atol=1e-4)
    # the recorded actions, played from the same targets, go where the person went
    for tick, action in zip(ticks[12:72], kept.columns[TERCET_ACTION], strict=True):
        again = joints_for(tick.before, action[None].astype(np.float64))
        tips = kinematics.forward(np.stack([again, tick.sent])[:, :5]).tip
        assert np.linalg.norm(tips[0] - tips[1]) < 5e-4  # the guard's floor lies below the task's


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
