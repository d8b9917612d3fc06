"""Other people's environments look like our own arm, and what cannot be used is said in one message."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tercet.arm.env import make_env
from tercet.arm.environments import opened
from tercet.arm.episodes import Act, play_rows
from tercet.arm.foreign import ForeignEnv
from tercet.arm.randomise import Randomisation
from tercet.arm.stages import start_policy
from tercet.config.load import load_arm_config
from tercet.errors import InputError
from tercet.runs.folder import RunFolder

THEIRS = """
import gymnasium, numpy as np
from gymnasium.spaces import Box, Dict, Discrete

class Line(gymnasium.Env):
    \"\"\"A point on a line that actions from 0 to 4 move by (action - 2) / 10.\"\"\"
    observation_space = Dict({
        "achieved_goal": Box(-9, 9, (1,)), "observation": Box(-9, 9, (2,)), "desired_goal": Box(-9, 9, (1,)),
    })
    action_space = Box(0.0, 4.0, (1,), np.float32)

    def seen(self):
        place, goal = np.array([self.place], np.float32), np.array([self.goal], np.float32)
        rest = np.array([self.place, self.count], np.float32)
        return {"achieved_goal": place, "observation": rest, "desired_goal": goal}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal, self.count = 0.0, self.np_random.uniform(), 0
        return self.seen(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.count += 1
        self.place += (float(action[0]) - 2) / 10
        if self.place < -0.5:
            self.place = np.nan
        near = abs(self.place - self.goal) < 0.05
        return self.seen(), -1.0, bool(self.place > 1.5), False, {"is_success": near}

class Picture(Line):
    observation_space = Box(0, 255, (8, 8, 3), np.uint8)

class Buttons(Line):
    action_space = Discrete(3)

class Boundless(Line):
    action_space = Box(-np.inf, np.inf, (1,))

def line(): return Line()
def picture(): return Picture()
def buttons(): return Buttons()
def boundless(): return Boundless()
def nothing(): return 3
def broken(): raise ValueError("no such port")
"""


@pytest.fixture(autouse=True)
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_env.py").write_text(THEIRS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_env", raising=False)


def test_a_function_of_the_users_gives_an_environment() -> None:
    env = ForeignEnv("their_env:line", 3, horizon=4)
    seen, _ = env.reset(seed=1)
    assert seen.shape == (3, 4) and seen.dtype == np.float32  # observation, desired goal, and the way between
    assert len(set(seen[:, 2])) == 3  # each environment its own goal
    np.testing.assert_array_equal(seen, env.reset(seed=1)[0])
    np.testing.assert_array_equal(seen[:, 3], seen[:, 2] - seen[:, 0])
    goals = seen[:, 2]
    seen, rewards, terminated, truncated, infos = env.step(np.array([[1.0], [0.0], [-1.0]], np.float32))
    np.testing.assert_allclose(seen[:, 0], [0.2, 0.0, -0.2], atol=1e-6)  # actions 4, 2 and 0 of theirs
    np.testing.assert_allclose(infos["progress"], -np.abs(goals - seen[:, 0]), atol=1e-6)
    np.testing.assert_array_equal(infos["success"], np.abs(goals - seen[:, 0]) < 0.05)
    assert rewards.tolist() == [-1.0] * 3 and not terminated.any() and not truncated.any()


def test_terminated_truncated_and_broken_are_kept_apart() -> None:
    env = ForeignEnv("their_env:line", 3, horizon=8)
    env.reset(seed=1)
    ends = []
    for _ in range(8):
        seen, rewards, terminated, truncated, infos = env.step(np.array([[1.0], [0.0], [-1.0]], np.float32))
        ends.append((terminated.tolist(), truncated.tolist(), infos["blown_up"].tolist()))
        assert np.isfinite(seen).all() and np.isfinite(rewards).all()
        env.reset(options={"reset_mask": terminated}) if terminated.any() else None
    assert ends[2] == ([False, False, True], [False] * 3, [False, False, True])  # -0.6 is no number any more
    assert ends[7][0] == [True, False, False]  # 1.6
    assert ends[7][1][1] and not ends[6][1][1]  # the time limit


def test_processes_change_no_bit() -> None:
    envs = [ForeignEnv("their_env:line", 3, horizon=8, num_threads=threads) for threads in (1, 2)]
    chance = np.random.default_rng(0)
    for env in envs:
        env.reset(seed=1)
    for step in range(20):
        actions = chance.uniform(-1, 1, (3, 1)).astype(np.float32) - 0.5 * (step < 8)  # the first one leaves the line
        one, two = (env.step(actions) for env in envs)
        for mine, theirs in zip(one[:4], two[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert one[4].keys() == two[4].keys() == {"progress", "blown_up", "success"}
        for name, values in one[4].items():
            np.testing.assert_array_equal(values, two[4][name], err_msg=name)
        done = one[2] | one[3]
        if done.any():
            np.testing.assert_array_equal(*(env.reset(options={"reset_mask": done})[0] for env in envs))
    for env in envs:
        env.close()


def test_a_row_is_the_same_however_many_copies_play_it() -> None:
    push = torch.randn(25, 5, 1, generator=torch.Generator().manual_seed(0)) + 0.9

    def act_of(rows: slice) -> Act:
        return lambda step, seen, fresh: (push[step, rows] - 0.1 * seen[:, :1]).clamp(-1, 1)

    found = []
    for num_envs in (5, 2, 1):
        env = ForeignEnv("their_env:line", num_envs, horizon=15)
        found.append(play_rows(env, act_of, 5, horizon=25, seed=3))
    assert found[0].terminated.any() and found[0].observations[:, 0, 2].unique().numel() == 5
    for other in found[1:]:
        for name in ("observations", "actions", "next_observations", "dense", "terminated", "truncated"):
            assert torch.equal(getattr(found[0], name), getattr(other, name)), name
        assert all(torch.equal(values, other.infos[name]) for name, values in found[0].infos.items())


@pytest.mark.parametrize(("env", "is_measured"), [("reach", False), ("their_env:line", True)])
def test_a_fresh_policy_measures_others_numbers_and_takes_the_built_in_arms_as_they_are(
    env: str, is_measured: bool, tmp_path: Path
) -> None:
    config = load_arm_config("reach", [f"env={env}", "horizon=20", "threads=1"])
    with RunFolder.open(tmp_path / "run", config, preset="reach") as folder:
        scaled = start_policy(folder, config).scaled
    assert (not torch.equal(scaled.std, torch.ones_like(scaled.std))) == is_measured


def test_many_starts_need_few_copies() -> None:
    config = load_arm_config("reach", ["env=their_env:line", "threads=1"])
    with opened(config, 256) as env:
        assert env.num_envs == 16
    with opened(config, 3) as env:
        assert env.num_envs == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("their_env:picture", "only vectors"),
        ("their_env:buttons", "Discrete"),
        ("their_env:boundless", "no finite bounds"),
        ("their_env:nothing", "gave int, not a gymnasium.Env"),
        ("their_env:broken", "ValueError: no such port"),
        ("their_env:lines", "has no function lines; it has line"),
        ("no_such_module:line", "there is no module no_such_module"),
        ("CartPole-v1", "Discrete"),
        ("Pendulun-v1", "did you mean Pendulum-v1"),
        ("Fetchreach", "no such environment"),
        ("metaworld/nothing-v3", "Meta-World has no such task|needs metaworld"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_message(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_env(name, 2)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_bad_actions_and_what_is_only_for_our_arm_are_refused() -> None:
    env = make_env("their_env:line", 2)
    with pytest.raises(InputError, match=r"needs \(2, 1\)"):
        env.step(np.zeros((2, 3)))
    with pytest.raises(InputError, match="not finite, first in environment 1"):
        env.step(np.array([[0.0], [np.nan]]))
    with pytest.raises(InputError, match="no scripted expert"):
        env.expert_actions()
    with pytest.raises(InputError, match="own tasks"):
        make_env("their_env:line", 2, randomisation=Randomisation(sensor_noise=0.1))


def test_a_plain_environment_of_gymnasium_works_by_its_id() -> None:
    env = make_env("Pendulum-v1", 2, horizon=3)
    seen, _ = env.reset(seed=0)
    _, rewards, _, _, infos = env.step(np.ones((2, 1), np.float32))
    assert seen.shape == (2, 3) and "success" not in infos
    np.testing.assert_array_equal(infos["progress"], rewards)


@pytest.mark.parametrize(
    ("package", "name", "horizon", "observed"),
    [
        ("gymnasium_robotics", "FetchReachDense-v4", 20, 16),
        ("gymnasium_robotics", "FetchPickAndPlace-v4", 40, 31),
        ("metaworld", "metaworld/pick-place-v3", 100, 45),
    ],
)
def test_the_experts_succeed_on_other_arms(package: str, name: str, horizon: int, observed: int) -> None:
    pytest.importorskip(package)
    env = make_env(name, 3, horizon=horizon)
    first, _ = env.reset(seed=7)
    assert first.shape == (3, observed) and len({tuple(row) for row in first}) == 3
    done, progress = np.zeros(3, bool), []
    for _ in range(horizon):
        infos = env.step(env.expert_actions())[-1]
        done |= infos["success"]
        progress.append(infos["progress"])
    assert done.all()
    # the expert comes nearer from the start, also before the thing has moved
    assert (progress[8] > progress[0] + 0.01).all() and (np.max(progress, 0) > -0.2).all()
    np.testing.assert_array_equal(env.reset(seed=7)[0], first)
    fresh = make_env(name, 3, horizon=horizon)  # what was played before leaves nothing behind
    chance = np.random.default_rng(0)
    env.reset(seed=8)
    fresh.reset(seed=8)
    for _ in range(10):
        actions = chance.uniform(-1, 1, (3, 4)).astype(np.float32)
        np.testing.assert_array_equal(env.step(actions)[0], fresh.step(actions)[0])
    env.close()
    fresh.close()
