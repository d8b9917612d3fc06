import mujoco
import numpy as np

from tercet.arm.sim import scene
from tercet.arm.sim.kinematics import inverse
from tercet.arm.sim.physics import STEP_SECONDS, Physics
from tercet.arm.sim.scene import CUBE_HALF, SUBSTEPS

COUNT = 5
POINTS = np.random.default_rng(0).uniform([0.16, -0.05, 0.012], [0.22, 0.05, 0.05], (COUNT, 3))
CUBES = np.concatenate([POINTS[:, :2], np.full((COUNT, 1), CUBE_HALF)], 1)


def placed(num_threads: int) -> Physics:
    physics = Physics([scene.build(num_cubes=1)], COUNT, num_threads)
    joints = inverse(POINTS, np.zeros(COUNT))
    physics.place(np.ones(COUNT, bool), joints, np.full(COUNT, 0.03), (CUBES,), np.linspace(-0.5, 0.5, COUNT))
    return physics


def test_a_step_is_ten_steps_of_mujoco_in_each_simulation() -> None:
    physics = placed(2)
    goal = inverse(POINTS + np.array([0.0, 0.0, 0.03]), np.full(COUNT, 0.2))
    model = scene.build(num_cubes=1)
    data = mujoco.MjData(model)
    expected = []
    for index in range(COUNT):
        mujoco.mj_resetData(model, data)
        mujoco.mj_setState(model, data, physics.state[index], mujoco.mjtState.mjSTATE_FULLPHYSICS)
        data.ctrl[:] = [*goal[index], 0.005, 0.005]
        mujoco.mj_step(model, data, SUBSTEPS)
        expected.append(np.concatenate([[data.time], data.qpos, data.qvel]))
    outcome = physics.step(goal, np.full(COUNT, 0.005))
    np.testing.assert_allclose(physics.state, np.array(expected), atol=1e-12)
    np.testing.assert_allclose(physics.state[:, 0], STEP_SECONDS)
    assert not outcome.broke.any()


def test_threads_change_no_bit() -> None:
    states = []
    for num_threads in (1, 3):
        physics = placed(num_threads)
        for _ in range(8):
            physics.step(inverse(POINTS, np.zeros(COUNT)), np.zeros(COUNT))
        states.append(physics.state.copy())
        physics.close()
    np.testing.assert_array_equal(*states)


def test_closing_on_a_cube_presses_it_and_open_fingers_feel_nothing() -> None:
    physics = placed(1)
    low = CUBES.copy()
    joints = inverse(low, np.zeros(COUNT))
    physics.place(np.ones(COUNT, bool), joints, np.full(COUNT, 0.03), (CUBES,), np.zeros(COUNT))
    assert (physics.step(joints, np.full(COUNT, 0.03)).force == 0).all()
    for _ in range(10):
        outcome = physics.step(joints, np.zeros(COUNT))
    # each finger is pulled by 200 N/m over the 15 mm that the cube leaves it from closing
    np.testing.assert_allclose(outcome.force, 3.0, rtol=0.15)


def test_a_state_that_is_no_number_or_far_too_fast_broke_and_the_others_did_not() -> None:
    physics = placed(2)
    physics.velocities[1, 0] = np.inf
    physics.positions[3, 7] = np.nan
    physics.velocities[4, 7] = 500.0  # m/s of the cube
    outcome = physics.step(inverse(POINTS, np.zeros(COUNT)), np.full(COUNT, 0.03))
    assert outcome.broke.tolist() == [False, True, False, True, True]
