import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from tercet.arm.sim.env import ArmEnv, make_env
from tercet.arm.sim.randomise import Randomisation
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.arm.sim.tasks.task import NUM_DRAWS
from tercet.arm.sim.workspace import WORKSPACE
from tercet.errors import InputError

REST = np.zeros((4, 5), np.float32)


def random_actions(env: ArmEnv, steps: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(-1, 1, (steps, env.num_envs, 5)).astype(np.float32)


@pytest.mark.parametrize("task", TASKS)
def test_env_has_the_vector_interface(task: str) -> None:
    env = make_env(task, 4, horizon=3)
    observations, infos = env.reset(seed=1)
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert observations.dtype == np.float32 and observations in env.observation_space
    assert REST in env.action_space
    assert np.abs(observations).max() < 3
    observations, rewards, terminated, truncated, infos = env.step(REST)
    assert observations.shape == (4, len(TASKS[task].observation))
    assert rewards.shape == terminated.shape == truncated.shape == (4,)
    numbers = {"success", "progress", "blown_up", "force", "jerk", "outside"}
    assert infos.keys() == numbers | ({"other"} if TASKS[task].instructions else set())
    assert all(value.shape == (4,) and np.isfinite(value).all() for value in infos.values())
    env.close()


def test_time_limit_truncates_and_does_not_terminate() -> None:
    env = make_env("reach", 4, horizon=3)
    limits = [env.step(REST)[2:4] for _ in range(3)]
    assert [truncated.tolist() for _, truncated in limits] == [[False] * 4, [False] * 4, [True] * 4]
    assert not any(terminated.any() for terminated, _ in limits)


def test_partial_reset_changes_only_the_masked_environments() -> None:
    env = make_env("place", 4, horizon=9)
    for actions in random_actions(env, 5):
        before = env.step(actions)[0]
    mask = np.array([False, True, False, True])
    after, _ = env.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert (after[mask] != before[mask]).any(1).all()
    for _ in range(4):
        truncated = env.step(REST)[3]
    assert truncated.tolist() == [True, False, True, False]


def test_start_k_depends_on_the_seed_and_not_on_the_number_of_environments() -> None:
    few, many = make_env("push", 3), make_env("push", 7)
    seen, same = few.reset(seed=5)[0], many.reset(seed=5)[0]
    np.testing.assert_array_equal(seen, same[:3])
    assert (many.reset(seed=6)[0] != same).any()


def test_episode_starts_as_the_task_defines() -> None:
    begin = TASKS["place"].start(np.random.default_rng([3, 0]).random((20, NUM_DRAWS)))
    now = make_env("place", 20, seed=3).readings()
    for name in ("tip", "cube", "cube_turn", "goal", "opening"):
        np.testing.assert_allclose(getattr(now, name), getattr(begin, name), atol=1e-12, err_msg=name)


def test_seeded_reset_does_not_depend_on_earlier_episodes() -> None:
    env = make_env("lift", 4)
    runs = []
    for _ in range(2):
        env.reset(seed=9)
        runs.append(np.stack([env.step(actions)[0] for actions in random_actions(env, 20)]))
        env.reset()
        env.step(REST)
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("ranges", [Randomisation(), Randomisation((0.5, 2.0), (0.5, 2.0), (0, 2), 0.01, 0.1)])
def test_env_resumes_from_a_snapshot_to_the_bit(ranges: Randomisation) -> None:
    env, other = (make_env("lift", 4, seed=seed, randomisation=ranges, horizon=25) for seed in (0, 1))
    for _ in range(6):
        env.step(env.expert_actions())
    other.restore(env.snapshot())
    for _ in range(30):  # the cube is gripped, lifted, and begins anew
        actions = env.expert_actions()
        mine, theirs = env.step(actions), other.step(actions)
        for one, two in zip(mine[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(one, two)
        if mine[3].any():
            env.reset(options={"reset_mask": mine[3]})
            other.reset(options={"reset_mask": theirs[3]})


def test_actions_move_the_hand_as_documented() -> None:
    env = make_env("reach", 1)
    before = env.readings()
    for _ in range(2):
        env.step(np.array([[0.0, 1.0, -0.5, 0.5, -1.0]], np.float32))
    for _ in range(10):
        env.step(np.zeros((1, 5), np.float32))
    after = env.readings()
    # 2 cm and 1 cm a step, 0.15 rad, and 12 mm of each finger
    np.testing.assert_allclose(after.tip - before.tip, [[0.0, 0.04, -0.02]], atol=1e-4)
    assert after.turn[0] - before.turn[0] == pytest.approx(0.3, abs=1e-3)
    assert before.opening[0] - after.opening[0] == pytest.approx(0.024, abs=1e-4)
    np.testing.assert_allclose(env.joints(), env.commanded_joints(), atol=1e-3)


def test_commands_outside_the_workspace_are_clipped_and_reported() -> None:
    env = make_env("reach", 4)
    down = np.tile(np.array([0, 0, -1, 0, 0], np.float32), (4, 1))
    told = np.stack([env.step(down)[-1]["outside"] for _ in range(10)])
    assert (told[0] == 0).all() and np.allclose(told[-1], 0.02)
    assert (env.readings().target[:, 2] == WORKSPACE[2, 0]).all()


def test_jerk_and_force_are_zero_at_rest() -> None:
    env = make_env("lift", 4)
    for _ in range(20):
        infos = env.step(REST)[-1]
    assert (infos["force"] == 0).all() and infos["jerk"].max() < 1e-2
    assert env.step(REST + 1)[-1]["jerk"].min() > 10
    env.reset()
    assert env.step(REST)[-1]["jerk"].max() < 1  # what was before the reset is forgotten


def test_actions_are_clipped_to_1() -> None:
    one, other = make_env("reach", 4), make_env("reach", 4)
    one.step(REST - 1)
    other.step(REST - 7)
    np.testing.assert_array_equal(one.readings().target, other.readings().target)


def test_diverged_simulation_ends_its_episode_and_restarts() -> None:
    env = make_env("lift", 4, seed=2)
    snapshot = env.snapshot()
    snapshot["physics"][2, 3] = np.nan
    env.restore(snapshot)
    observations, rewards, terminated, truncated, infos = env.step(REST)
    assert terminated.tolist() == infos["blown_up"].tolist() == [False, False, True, False]
    assert not truncated.any() and rewards[2] == 0 and not infos["success"][2]
    assert np.isfinite(observations).all() and np.isfinite(rewards).all()
    again = env.step(REST)
    assert not again[2].any() and np.isfinite(again[0]).all()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((4, 4)), r"actions of shape \(4, 4\): must have shape \(4, 5\)"),
        (np.zeros((3, 5)), r"must have shape \(4, 5\)"),
        (
            np.where(np.arange(20).reshape(4, 5) == 11, np.nan, 0),
            "must be finite; the first others are in environment 2",
        ),
    ],
)
def test_invalid_actions_are_one_error(actions: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_env("lift", 4).step(actions)


def test_other_invalid_input_is_an_error() -> None:
    with pytest.raises(InputError, match="num_envs=0"):
        make_env("lift", 0)
    with pytest.raises(InputError, match="did you mean lift"):
        make_env("lfit", 1)
    env = make_env("lift", 2)
    with pytest.raises(InputError, match="reset_mask"):
        env.reset(options={"reset_mask": np.array([1, 0])})
    with pytest.raises(InputError, match="seed must be one number"):
        env.reset(seed=[1, 2])


def test_expert_noise_leaves_the_clean_actions_unchanged() -> None:
    env = make_env("lift", 4)
    clean = env.expert_actions()
    noisy = env.expert_actions(noise=0.2, chance=np.random.default_rng(0))
    np.testing.assert_array_equal(clean, env.expert_actions())
    assert (noisy != clean).any() and np.abs(noisy).max() <= 1


def test_sent_joints_move_the_arm_like_the_equivalent_actions() -> None:
    acting, servoed = make_env("lift", 3, seed=5), make_env("lift", 3, seed=5)
    for _ in range(25):
        acting.step(acting.expert_actions())
        servoed.servo(acting.commanded_joints())
        np.testing.assert_allclose(servoed.joints(), acting.joints(), atol=1e-9)
        np.testing.assert_allclose(servoed.readings().target, acting.readings().target, atol=1e-9)
    acting.close()
    servoed.close()
