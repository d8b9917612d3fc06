"""Two cubes, of which a sentence names one: starts, what is told, success with either cube, the expert, pictures."""

from pathlib import Path

import numpy as np
import pytest

from tercet.arm.robot import convert, deploy
from tercet.arm.robot.control import SimulatedClock
from tercet.arm.sim import caption
from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.env import ArmEnv
from tercet.arm.sim.observations import numbers_of
from tercet.arm.sim.randomise import Randomisation
from tercet.arm.sim.scene import COLOURS
from tercet.arm.sim.tasks.builtin import TASKS, arm_task
from tercet.arm.sim.tasks.lift_two import APART
from tercet.arm.sim.tasks.task import NUM_DRAWS
from tercet.config.robot import RobotConfig
from tercet.errors import InputError

TASK = TASKS["lift-two"]
BEGIN = TASK.start(np.random.default_rng(0).random((4000, NUM_DRAWS)))


def asked_of(number: np.ndarray) -> np.ndarray:
    return np.array([one.cube for one in TASK.instructions[:8]])[number]


def test_the_hand_fits_between_the_cubes_and_no_place_tells_which_is_asked_for() -> None:
    assert BEGIN.other is not None and BEGIN.instruction is not None
    assert np.abs(BEGIN.cube - BEGIN.other)[:, 1].min() >= APART - 1e-9
    for low, high, column in ((0.16, 0.22, 0), (-0.09, 0.09, 1)):
        both = np.concatenate([BEGIN.cube, BEGIN.other])[:, column]
        assert both.min() > low - 1e-9 and both.max() < high + 1e-9
    # the cubes have the same distribution: asked for or not, and whatever the colour
    red = np.where((asked_of(BEGIN.instruction) == 1)[:, None], BEGIN.cube, BEGIN.other)
    for one, other in ((BEGIN.cube, BEGIN.other), (red, BEGIN.cube + BEGIN.other - red)):
        assert np.abs(np.abs(one[:, 1]).mean() - np.abs(other[:, 1]).mean()) < 0.002
        assert np.abs(one.mean(0) - other.mean(0)).max() < 0.003
    counts = np.bincount(BEGIN.instruction)
    assert len(counts) == 8 and counts.min() > 0.8 * 500


def test_the_observation_has_both_cubes_and_what_follows_from_the_sentence_is_marked() -> None:
    env = ArmEnv("lift-two", 64, seed=3, num_threads=1)
    seen, names, told = env.reset(seed=3)[0], list(env.layout.names), np.array(env.layout.told)
    numbers = numbers_of(seen[:, names.index("instruction")])
    np.testing.assert_array_equal(numbers, env.readings().instruction)
    places = {colour: seen[:, [names.index(f"{colour}_cube-tip.{axis}") for axis in "xyz"]] for colour in COLOURS}
    asked = seen[:, [names.index(f"cube-tip.{axis}") for axis in "xyz"]]
    expected = np.where(asked_of(numbers)[:, None] == 1, places["red"], places["blue"])
    np.testing.assert_array_equal(asked, expected)
    # with another sentence nothing else changes
    env._instruction[:] = numbers ^ 1
    changed = (env.layout.build(env.readings()) != seen).any(0)
    assert changed[names.index("instruction")] and not changed[~told].any()
    assert set(env.layout.of) == {"", "blue cube", "red cube"}
    env.close()


def test_the_expert_lifts_the_cube_that_is_asked_for_and_a_snapshot_keeps_the_sentence() -> None:
    env = ArmEnv("lift-two", 32, seed=1, horizon=30, num_threads=1)
    start = env.snapshot()
    for _ in range(20):
        infos = env.step(env.expert_actions())[-1]
    assert infos["success"].all() and not infos["other"].any()
    heights = [cube.place[:, 2] for cube in env.readings().cubes]
    red = asked_of(env.readings().instruction) == 1
    assert (np.where(red, heights[1], heights[0]) > 0.06).all() and (np.where(red, heights[0], heights[1]) < 0.02).all()
    numbers = env.readings().instruction.copy()
    env.reset(seed=5)
    assert (env.readings().instruction != numbers).any()
    env.restore(start)
    np.testing.assert_array_equal(env.readings().instruction, numbers)
    # the same lift is a success with the wrong cube for the other sentence
    for _ in range(20):
        actions = env.expert_actions()
        env._instruction[:] = numbers ^ 1
        infos = env.step(actions)[-1]
        env._instruction[:] = numbers
    assert infos["other"].all() and not infos["success"].any()
    env.close()


def test_noise_on_the_observation_does_not_change_the_sentence() -> None:
    env = ArmEnv("lift-two", 8, randomisation=Randomisation(sensor_noise=1.0), num_threads=1)
    seen = env.reset(seed=2)[0]
    np.testing.assert_array_equal(numbers_of(seen[:, -1]), env.readings().instruction)
    env.close()


def test_pictures_show_both_cubes_and_those_of_policies_do_not_tell_which_is_asked_for() -> None:
    env = ArmEnv("lift-two", 2, seed=4, randomisation=Randomisation(texture=1.0), num_threads=1)
    only, camera = np.array([True, False]), Camera("top", 96, 128)
    before, numbers = env.pictures([camera], only)[0][0].astype(int), env.readings().instruction.copy()
    red = (before[..., 0] > before[..., 2] + 60).sum()
    blue = (before[..., 2] > before[..., 0] + 60).sum()
    assert red > 20 and blue > 20  # also where colours are random, the cubes keep theirs
    env._instruction[:] = numbers ^ 1
    env._goal[:] += 0.02
    np.testing.assert_array_equal(env.pictures([camera], only)[0][0], before)
    env.close()


def test_the_picture_for_people_has_the_sentence() -> None:
    env = ArmEnv("lift-two", 1, seed=4, num_threads=1)
    shown, sentence = env.render(0, 160, 120), TASK.instructions[int(env.readings().instruction[0])].sentence
    np.testing.assert_array_equal(shown, caption.captioned(shown, sentence))
    assert (shown != caption.captioned(shown, "lift another cube")).any()
    env.close()


def test_it_is_refused_on_an_arm(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lift-two: only in simulation"):
        arm_task("lift-two")
    session = deploy.Session(TASK, None, 1, 1.0, True, tmp_path / "demos")
    with pytest.raises(InputError, match="only in simulation"):
        deploy.run(RobotConfig(), session, keys=lambda: "", clock=SimulatedClock(), say=print)
    with pytest.raises(InputError, match="only in simulation"):
        convert.run("demos", tmp_path / "new", TASK, RobotConfig(), say=print)
