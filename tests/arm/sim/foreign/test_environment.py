"""Other people's environments look like our own arm, and what cannot be used is said in one message."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tercet.arm.bc import load_demonstrations
from tercet.arm.pipeline import check, run, run_step
from tercet.arm.play.environments import EnvFactory
from tercet.arm.play.episodes import ActionFunction, play, play_rows
from tercet.arm.preferences.pairs import segment_questions
from tercet.arm.scoring import scorer
from tercet.arm.sim.env import make_env
from tercet.arm.sim.foreign.environment import ForeignEnv
from tercet.arm.sim.randomise import Randomisation
from tercet.arm.stages import start_policy
from tercet.config.arm import ArmConfig
from tercet.config.load import load_arm_config
from tercet.core.advantages import gae
from tercet.errors import FailedError, InputError
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

class Told(Line):
    # gives what a function makes of a step or a reset
    def __init__(self, step=lambda *given: given, reset=lambda *given: given):
        self.of_step, self.of_reset = step, reset
    def reset(self, *, seed=None, options=None): return self.of_reset(*super().reset(seed=seed))
    def step(self, action): return self.of_step(*super().step(action))

def told(**infos): return Told(step=lambda *given: (*given[:4], infos))
class Seedless(Line):
    def reset(self): return super().reset()
class IgnoresSeed(Line):
    def reset(self, *, seed=None, options=None): return super().reset()
class Whole(Line):
    action_space = Box(-5, 5, (1,), np.int64)
class Still(Line):
    action_space = Box(np.array([0, 1], np.float32), np.array([4, 1], np.float32))
class Camera(Line):
    observation_space = Dict({"place": Box(-9, 9, (1,)), "pixels": Box(0, 255, (8, 8, 3), np.uint8)})
class Phase(Line):
    observation_space = Dict({"place": Box(-9, 9, (1,)), "phase": Discrete(3)})
class Nested(Line):
    observation_space = Dict({"place": Box(-9, 9, (1,)), "arm": Dict({"joints": Box(-9, 9, (3,))})})
class HalfBound(Line):
    action_space = Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, np.inf], np.float32))
class Narrow(Line):
    action_space = Box(np.array([0.1], np.float32), np.array([0.9], np.float32))

def without(key, observation): return {k: v for k, v in observation.items() if k != key}
def longer(observation): return {**observation, "observation": np.zeros(3)}
def nan(observation): return {**observation, "observation": np.full(2, np.nan)}
def lost(*given): raise RuntimeError("the motor is lost")
def only_at_the_end(*given):
    over = given[0]["observation"][1] >= 5
    return *given[:3], over, {"success": True} if over else {}

def share(): return told(success=0.3)
def text(): return told(is_success="False")
def parts(): return told(success={"task": True, "grasp": True})
def two(): return told(success=np.array([True, True]))
def unknown(): return told(is_success=None)
def one(): return told(success=np.array([True]), energy=1.5, collision=True, progress=5.0, name="a")
def silent(): return told(energy=1.5, task_success=True)
def late(): return Told(step=only_at_the_end)
def seedless(): return Seedless()
def ignores_seed(): return IgnoresSeed()
def old_reset(): return Told(reset=lambda seen, infos: seen)
def old_step(): return Told(step=lambda seen, earned, ended, cut, infos: (seen, earned, ended, infos))
def wrong_reset(): return Told(reset=lambda seen, infos: (longer(seen), infos))
def wrong_step(): return Told(step=lambda seen, *rest: (longer(seen), *rest))
def lacks(): return Told(step=lambda seen, *rest: (without("desired_goal", seen), *rest))
def nan_reset(): return Told(reset=lambda seen, infos: (nan(seen), infos))
def no_reward(): return Told(step=lambda seen, earned, *rest: (seen, None, *rest))
def breaks(): return Told(step=lost)
def nan_step(): return Told(step=lambda seen, *rest: (nan(seen), *rest))
def leaves(*given): raise SystemExit(0)
def leaves_in_step(): return Told(step=leaves)
def wide(observation): return [0.0, 0.0]
def whole(): return Whole()
def still(): return Still()
def camera(): return Camera()
def phase(): return Phase()
def narrow(): return Narrow()
def nested(): return Nested()
def half_bound(): return HalfBound()
def nested_flat(): return gymnasium.wrappers.FlattenObservation(NestedPlaces())
class NestedPlaces(Nested):
    def seen(self): return {"place": np.array([self.place], np.float32), "arm": {"joints": np.ones(3, np.float32)}}
def limited(): return gymnasium.wrappers.TimeLimit(Line(), 3)
def ends_at_its_limit():  # both ends at once, and both are true
    def step(seen, earned, ended, *rest): return seen, earned, bool(seen["observation"][1] >= 3), *rest
    return gymnasium.wrappers.TimeLimit(Told(step=step), 3)
def succeed(): return told(succeed=True)
def inf_reward(): return Told(step=lambda seen, earned, *rest: (seen, np.inf, *rest))
gymnasium.register("Line-v0", entry_point=Line)

class Watched(Line):
    # succeeds where somebody looks, and only there
    render_mode, looked = "rgb_array", False
    def render(self):
        self.looked = True
        return np.zeros((8, 8, 3), np.uint8)
    def step(self, action): return *super().step(action)[:4], {"success": self.looked}
def watched(): return Watched()
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


def test_user_function_makes_an_environment() -> None:
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


def test_terminated_truncated_and_blown_up_are_distinguished() -> None:
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


def test_processes_give_the_same_bits() -> None:
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


def test_row_does_not_depend_on_the_number_of_copies() -> None:
    push = torch.randn(25, 5, 1, generator=torch.Generator().manual_seed(0)) + 0.9

    def agent_of(rows: slice) -> ActionFunction:
        return lambda step, seen, fresh: (push[step, rows] - 0.1 * seen[:, :1]).clamp(-1, 1)

    found = []
    for num_envs in (5, 2, 1):
        env = ForeignEnv("their_env:line", num_envs, horizon=15)
        found.append(play_rows(env, agent_of, 5, horizon=25, seed=3))
    assert found[0].terminated.any() and found[0].observations[:, 0, 2].unique().numel() == 5
    for other in found[1:]:
        for name in ("observations", "actions", "next_observations", "dense", "terminated", "truncated"):
            assert torch.equal(getattr(found[0], name), getattr(other, name)), name
        assert all(torch.equal(values, other.infos[name]) for name, values in found[0].infos.items())


@pytest.mark.parametrize(("env", "is_measured"), [("reach", False), ("their_env:line", True)])
def test_new_policy_normalises_only_foreign_observations(env: str, is_measured: bool, tmp_path: Path) -> None:
    config = load_arm_config("reach", [f"env={env}", "horizon=20", "threads=1"])
    with RunFolder.open(tmp_path / "run", config, preset="reach") as folder:
        envs = EnvFactory.of(config)
        scaled = start_policy(folder, envs, config.policy, bc=config.bc, seed=config.seed).scaled
    assert (not torch.equal(scaled.std, torch.ones_like(scaled.std))) == is_measured


def test_number_of_copies_is_limited() -> None:
    config = load_arm_config("reach", ["env=their_env:line", "threads=1"])
    with EnvFactory.of(config).open(256) as env:
        assert env.num_envs == 16
    with EnvFactory.of(config).open(3) as env:
        assert env.num_envs == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("their_env:picture", "must be a vector"),
        ("their_env:buttons", "Discrete"),
        ("their_env:boundless", "must have finite bounds"),
        ("their_env:nothing", "returned int, not a gymnasium.Env"),
        ("their_env:broken", "ValueError: no such port"),
        ("their_env:leaves", "the function raised SystemExit: 0"),
        ("their_env:lines", "has no function lines; it has line"),
        ("their_env:Nope", "has no class Nope; it has"),
        ("no_such_module:line", "no module no_such_module"),
        ("no_such_module:Line-v0", "no module no_such_module in the working directory"),
        ("their_env:Lime-v0", "their_env does not register this environment; did you mean Line-v0"),
        ("their_env:whole", "its actions are integers, .*int64.*must be a Box of float32 or float64"),
        ("their_env:still", r"entries \[1\] of its actions are constant \(low equals high\)"),
        ("their_env:half_bound", "must have finite bounds"),
        ("their_env:nested", r"arm is Dict.*it must be a vector .*; gymnasium.wrappers.FlattenObservation\(env\)"),
        ("their_env:camera", r"pixels is Box.*a picture.*leave it out: .*FilterObservation\(env, \['place'\]\)"),
        (
            "their_env:phase",
            r"phase is Discrete\(3\); it must be a vector .*; gymnasium.wrappers.FlattenObservation\(env\)",
        ),
        ("their_env:seedless", r"reset\(\) must accept seed .*: \(observation, info\) from reset"),
        ("their_env:old_reset", r"reset\(\) returned one dict; it must return \(observation, info\)"),
        (
            "their_env:wrong_reset",
            r"reset\(\) returned observation of shape \(3,\); it must have the shape of its space, \(2,\)",
        ),
        ("their_env:nan_reset", r"reset\(\) returned \[nan, nan, .*; it must return finite numbers"),
        ("CartPole-v1", "Discrete"),
        ("Pendulun-v1", "did you mean Pendulum-v1"),
        ("Fetchreach", "unknown environment"),
        ("metaworld/nothing-v3", "Meta-World has no such task|needs metaworld"),
    ],
)
def test_unusable_environment_is_one_error(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_env(name, 2)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("share", None),
        ("one", None),
        ("text", r"step\(\) returned is_success='False'; it must be a boolean or a number"),
        ("parts", r"step\(\) returned success=\{'task': True, 'grasp': True\}; it must be a boolean"),
        ("two", r"step\(\) returned success=array\(\[ True,  True\]\); it must be a boolean"),
        ("unknown", r"step\(\) returned is_success=None; it must be a boolean"),
        ("old_step", r"step\(\) returned 4 values \(dict, float, bool, dict\); it must return \(observation, reward"),
        ("wrong_step", r"step\(\) returned observation of shape \(3,\); it must have the shape of its space, \(2,\)"),
        ("lacks", r"step\(\) returned an observation with \['achieved_goal', 'observation'\]; it must have \['obs"),
        ("no_reward", r"step\(\) returned the reward None; it must be one number"),
        ("breaks", r"step\(\) raised RuntimeError: the motor is lost"),
        ("leaves_in_step", r"step\(\) raised SystemExit: 0"),
    ],
)
def test_return_values_of_step_are_checked(name: str, message: str | None) -> None:
    env = make_env(f"their_env:{name}", 2)
    if message is None:
        assert env.step(np.zeros((2, 1)))[-1]["success"].tolist() == [name == "one"] * 2
        return
    with pytest.raises((InputError, FailedError), match=message) as caught:
        env.step(np.zeros((2, 1)))
    assert f"env=their_env:{name}: " in str(caught.value) and "\n" not in str(caught.value)


def test_a_flattened_nested_dictionary_is_a_vector() -> None:
    assert make_env("their_env:nested_flat", 2).step(np.zeros((2, 1)))[0].shape == (2, 4)


def test_success_may_be_called_succeed() -> None:
    assert make_env("their_env:succeed", 1, horizon=1).step(np.zeros((1, 1)))[-1]["success"].tolist() == [True]


@pytest.mark.parametrize(("name", "terminated"), [("limited", False), ("ends_at_its_limit", True)])
def test_a_time_limit_inside_is_a_truncation_and_an_end_at_the_limit_is_both(name: str, terminated: bool) -> None:
    env = make_env(f"their_env:{name}", 2, horizon=9)
    episodes = play(env, lambda step, seen, fresh: torch.zeros(2, 1), horizon=7, seed=0)
    assert episodes.truncated[0].tolist() == [False, False, True] * 2 + [False]
    assert episodes.terminated[0].tolist() == [False, False, terminated] * 2 + [False]
    assert episodes.first_ends().tolist() == [2, 2]
    ones = torch.ones(2, 7)
    ends = (episodes.terminated, episodes.truncated, torch.ones(2, 7, dtype=torch.bool))
    found = gae(torch.zeros(2, 7), 0 * ones, ones, ones.double(), *ends, lam=0.0)
    # the state after the limit is worth 1, unless the episode also ended there
    assert found.advantages[0].tolist() == [1, 1, 1 - terminated] * 2 + [1]


def test_an_infinite_reward_ends_the_episode_as_blown_up() -> None:
    _, rewards, terminated, _, infos = make_env("their_env:inf_reward", 1).step(np.zeros((1, 1)))
    assert (rewards.tolist(), terminated.tolist(), infos["blown_up"].tolist()) == ([0.0], [True], [True])


def test_error_in_a_process_is_one_message(recwarn: pytest.WarningsRecorder) -> None:
    env = ForeignEnv("their_env:breaks", 3, num_threads=2)
    with pytest.raises(FailedError, match=r"^env=their_env:breaks: step\(\) raised RuntimeError: the motor is lost$"):
        env.step(np.zeros((3, 1)))
    env.close()
    assert not [one for one in recwarn if "Traceback" in str(one.message)]


def test_success_is_false_until_it_is_reported() -> None:
    env = make_env("their_env:late", 2, horizon=9)
    told = [env.step(np.zeros((2, 1)))[-1]["success"].tolist() for _ in range(5)]
    assert told == [[False, False]] * 4 + [[True, True]]
    env = make_env("their_env:late", 2, horizon=3)  # cut before anything was said
    with pytest.raises(
        InputError, match=r"in an episode of 3 steps: its infos contain nothing; they must contain is_success"
    ):
        for _ in range(3):
            env.step(np.zeros((2, 1)))


def test_environment_that_never_reports_success_is_refused_before_training() -> None:
    with pytest.raises(
        InputError, match="its infos contain energy, task_success; they must contain is_success or success"
    ):
        check(load_arm_config("reach", ["env=their_env:silent", "horizon=20", "threads=1"]))


def test_numbers_in_infos_can_be_rewards() -> None:
    env = make_env("their_env:one", 2, horizon=4)
    episodes = play(env, lambda step, seen, fresh: torch.zeros(2, 1), horizon=4, seed=0)
    assert episodes.infos.keys() == {"success", "progress", "blown_up", "energy", "collision"}
    assert (episodes.infos["progress"] <= 0).all()  # ours: minus the distance to the goal
    pay = scorer({"dense": 1.0, "energy": -0.1, "collision": -2.0}, None)(episodes).steps
    torch.testing.assert_close(pay, torch.full((2, 4), -1 - 0.15 - 2.0))
    episodes.infos["energy"][0, 1] = float("nan")
    with pytest.raises(FailedError, match=r"ppo\.reward\.energy: the environment returned nan"):
        scorer({"energy": -0.1}, None)(episodes)


def test_rounding_keeps_actions_inside_the_bounds() -> None:
    env = make_env("their_env:narrow", 3)  # it asserts that its space contains the action, 0.9 in float32
    env.step(np.array([[1.0], [0.999999], [-1.0]], np.float32))


def test_ignored_seed_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ignores_seed", "line"):
        check(load_arm_config("reach", [f"env=their_env:{name}", "horizon=20", "threads=1"]))
        assert (
            "gives a different start each time, so stages are not evaluated on the same starts"
            in capsys.readouterr().out
        ) == (name == "ignores_seed")


def test_non_finite_numbers_are_reported_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    config = load_arm_config("reach", ["env=their_env:nan_step", "horizon=20", "threads=1"])
    check(config)
    assert "env=their_env:nan_step: step() returned numbers that are not finite" in capsys.readouterr().out
    with EnvFactory.of(config).open(1) as env:
        episodes = play(env, lambda step, seen, fresh: torch.zeros(1, 1), horizon=20, seed=0)
    with pytest.raises(FailedError, match=r"segments of 15 steps \(20 episodes ended because the environment gave"):
        segment_questions(episodes, 15, 4, torch.Generator())


def test_id_registered_by_a_module_in_the_working_directory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(Path.cwd())
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in (here, "")])
    assert make_env("their_env:Line-v0", 2).reset(seed=0)[0].shape == (2, 4)


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArmConfig:
    """The environment of the docs' example, as a user would save it, and the run of its command, made small."""
    page = (Path(__file__).parents[4] / "docs" / "arm-environment.md").read_text(encoding="utf-8")
    section = page.split("## Your own environment in twenty minutes")[1]
    source, command = (re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL)[0] for kind in ("python", "sh"))
    (tmp_path / "my_arm.py").write_text(source)
    monkeypatch.delitem(sys.modules, "my_arm", raising=False)
    keys = [word for word in shlex.split(command.replace("\\\n", " ")) if "=" in word]
    return load_arm_config("lift", [*keys, "threads=1"])


def test_the_documented_environment_is_sound_and_its_expert_succeeds(documented: ArmConfig) -> None:
    check(documented)
    with EnvFactory.of(documented).open(10) as env:
        shown = load_demonstrations(documented, env)
        assert shown.success is not None and shown.success.all()
        assert shown.mask.sum(1).max() < 30  # it ends at success
        # the expert's action in the units of the environment is the policy's in [-1, 1]
        meant = (shown.observations[..., -2:] / 50).clamp(-1, 1)[shown.mask]
        torch.testing.assert_close(shown.actions[shown.mask], meant, rtol=0, atol=1e-5)
        episodes = play(env, lambda step, seen, fresh: torch.ones(10, 2), horizon=4, seed=0)
    torch.testing.assert_close(scorer({"energy": -0.01}, None)(episodes).steps, torch.full((10, 4), -0.02))


@pytest.mark.parametrize(
    ("expert", "message"),
    [
        ("lost", "the expert their_env:lost raised RuntimeError: the motor is lost"),
        ("leaves", "the expert their_env:leaves raised SystemExit: 0"),
        ("wide", r"the expert their_env:wide gave an action \[0.0, 0.0\]; it must return one of shape \(1,\), finite"),
    ],
)
def test_failing_user_expert_is_named(expert: str, message: str) -> None:
    settings = ["env=their_env:line", "horizon=20", "threads=1", f"bc.demonstrations=their_env:{expert}"]
    config = load_arm_config("lift", settings)
    with EnvFactory.of(config).open(2) as env, pytest.raises(FailedError, match=message):
        load_demonstrations(config, env)


def test_recordings_in_both_units_give_the_same_policy(small: list[str], tmp_path: Path) -> None:
    env = make_env("their_env:line", 4, horizon=12)
    shown = play(env, lambda step, seen, fresh: (5 * seen[:, 3:]).clamp(-1, 1), horizon=12, seed=0)
    observations, scaled = shown.observations.numpy(), shown.actions.numpy()
    weights = []
    for units, actions, do in (("scaled", scaled, [run_step, "bc"]), ("environment", 2 * scaled + 2, [run])):
        file = tmp_path / f"{units}.npz"  # their box goes from 0 to 4; in the second file nothing says so
        np.savez(file, observations=observations, actions=actions, lengths=np.full(4, 12))
        keys = ["env=their_env:line", f"bc.demonstrations={file}", "bc.num_demonstrations=4", "bc.lr=0.01"]
        keys += ["bc.epochs=20", "ppo.reward={dense: 1.0}", "ppo.num_updates=1", "ppo.epochs=1"]
        keys += ["bc.action_units=scaled"] if units == "scaled" else []
        config = load_arm_config("lift", [*small, *keys])
        with RunFolder.open(tmp_path / units, config, preset="lift") as folder:
            do[0](folder, config, *do[1:])
            assert float(folder.results()["clone_success"]) > 0.5
        weights.append(load_file(tmp_path / units / "bc/model/model.safetensors"))
    for name, values in weights[0].items():
        torch.testing.assert_close(values, weights[1][name], rtol=1e-3, atol=1e-4)


def test_video_caption_reports_the_success_of_the_filmed_episode(small: list[str], tmp_path: Path) -> None:
    """Where the environment does not begin alike from the same seed, what was measured says nothing of the video."""
    keys = ["env=their_env:watched", "bc.demonstrations=none", "ppo.reward={dense: 1.0}", "ppo.num_updates=1"]
    config = load_arm_config("reach", [*small, *keys, "ppo.epochs=1", "eval.num_states=2", "eval.num_videos=1"])
    with RunFolder.open(tmp_path / "run", config, preset="reach") as folder:
        run(folder, config)
        found = folder.results()
    assert found["success"]["ppo"]["mean"] == 0.0
    assert [one["shows"] for one in found["videos"]] == ["both succeed"]


def test_invalid_actions_and_built_in_only_options_are_refused() -> None:
    env = make_env("their_env:line", 2)
    with pytest.raises(InputError, match=r"must have shape \(2, 1\)"):
        env.step(np.zeros((2, 3)))
    with pytest.raises(InputError, match="must be finite; the first others are in environment 1"):
        env.step(np.array([[0.0], [np.nan]]))
    with pytest.raises(InputError, match="no scripted expert"):
        env.expert_actions()
    with pytest.raises(InputError, match="only for tasks of the built-in arm"):
        make_env("their_env:line", 2, randomisation=Randomisation(sensor_noise=0.1))


def test_gymnasium_environment_works_by_its_id() -> None:
    env = make_env("Pendulum-v1", 2, horizon=3)
    seen, _ = env.reset(seed=0)
    _, rewards, _, _, infos = env.step(np.ones((2, 1), np.float32))
    assert seen.shape == (2, 3) and not infos["success"].any()
    np.testing.assert_array_equal(infos["progress"], rewards)


@pytest.mark.parametrize(
    ("package", "name", "horizon", "observed"),
    [
        ("gymnasium_robotics", "FetchReachDense-v4", 20, 16),
        ("gymnasium_robotics", "FetchPickAndPlace-v4", 40, 31),
        ("metaworld", "metaworld/pick-place-v3", 100, 45),
    ],
)
def test_scripted_experts_succeed_on_other_arms(package: str, name: str, horizon: int, observed: int) -> None:
    pytest.importorskip(package)
    env = make_env(name, 3, horizon=horizon)
    first, _ = env.reset(seed=7)
    assert first.shape == (3, observed) and len({tuple(row) for row in first}) == 3
    done, progress, own = np.zeros(3, bool), [], []
    for _ in range(horizon):
        _, rewards, _, _, infos = env.step(env.expert_actions())
        done |= infos["success"]
        progress.append(infos["progress"])
        own.append(rewards)
    assert done.all()
    # the expert makes progress from the start, also before the thing has moved
    assert (progress[15] > progress[0] + 0.01).all() and (np.max(progress, 0) > -0.2).all()
    assert np.array_equal(progress, own) == (package == "metaworld")  # it names no goal, and its own reward is dense
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
