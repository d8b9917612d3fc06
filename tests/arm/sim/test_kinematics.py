import mujoco
import numpy as np

from tercet.arm.sim import kinematics, scene
from tercet.arm.sim.workspace import WORKSPACE


def random_joints(count: int) -> np.ndarray:
    low, high = kinematics.LIMITS.T
    return np.random.default_rng(0).uniform(low, high, (count, 5))


def random_points(count: int) -> np.ndarray:
    low, high = WORKSPACE.T
    return np.random.default_rng(1).uniform(low, high, (count, 3))


def tips_by_mujoco(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    model = scene.build(num_cubes=0)
    data = mujoco.MjData(model)
    tips, frames = [], []
    for row in joints:
        data.qpos[:5] = row
        mujoco.mj_kinematics(model, data)
        tips.append(data.site("tip").xpos.copy())
        frames.append(data.site("tip").xmat.reshape(3, 3).copy())
    return np.array(tips), np.array(frames)


def test_all_joints_at_zero_stretch_forearm_and_hand_forwards() -> None:
    tip = kinematics.forward(np.zeros((1, 5))).tip[0]
    # 0.0304 + 0.1350 + 0.1592 ahead, 0.1166 + 0.1160 up
    np.testing.assert_allclose(tip, [0.3246, 0.0, 0.2326], atol=1e-12)


def test_forward_agrees_with_mujoco_for_any_joints() -> None:
    joints = random_joints(50)
    tips, _ = tips_by_mujoco(joints)
    np.testing.assert_allclose(kinematics.forward(joints).tip, tips, atol=1e-12)


def test_inverse_undoes_forward_all_over_the_workspace() -> None:
    points = random_points(2000)
    turns = np.random.default_rng(2).uniform(-1.2, 1.2, len(points))
    joints = kinematics.inverse(points, turns)
    pose = kinematics.forward(joints)
    np.testing.assert_allclose(pose.tip, points, atol=1e-12)
    np.testing.assert_allclose(pose.turn, turns, atol=1e-12)
    assert (joints > kinematics.LIMITS[:, 0]).all() and (joints < kinematics.LIMITS[:, 1]).all()


def test_the_hand_points_straight_down_near_the_table_and_turns_as_told() -> None:
    points = random_points(30)
    points[:, 2] = 0.02
    turns = np.linspace(-1.2, 1.2, len(points))
    _, frames = tips_by_mujoco(kinematics.inverse(points, turns))
    np.testing.assert_allclose(frames[:, :, 2], np.tile([0.0, 0.0, -1.0], (30, 1)), atol=1e-9)
    fingers = frames[:, :, 1]  # the line between the fingers
    np.testing.assert_allclose(fingers, np.stack([-np.sin(turns), np.cos(turns), 0 * turns], 1), atol=1e-9)


def test_where_it_cannot_point_down_it_leans_no_more_than_it_must() -> None:
    points = random_points(500)
    joints = kinematics.inverse(points, np.zeros(500))
    lean = np.pi / 2 - joints[:, 1:4].sum(1)  # of the hand from straight down
    leaning = np.abs(lean) > 1e-9
    assert 0.3 < leaning.mean() < 0.7 and lean.max() < np.radians(36)
    np.testing.assert_allclose(joints[leaning, 3], 1.6)  # the wrist as far as it goes
    assert (joints[~leaning, 3] <= 1.6).all()


def test_neighbouring_points_have_neighbouring_joints() -> None:
    """No jump where the hand begins to lean."""
    ways = np.linspace(0.012, 0.14, 400)
    for x, y in [(0.14, 0.0), (0.19, 0.05), (0.24, 0.12)]:
        line = np.stack([np.full(400, x), np.full(400, y), ways], 1)
        steps = np.abs(np.diff(kinematics.inverse(line, np.zeros(400)), axis=0))
        assert steps.max() < 0.02
