"""Light, colours and patterns that differ per episode: they change pictures, and nothing else."""

from collections.abc import Iterator

import numpy as np
import pytest
from tests.arm.conftest import drawable

from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.env import ArmEnv
from tercet.arm.sim.randomise import Randomisation, draw
from tercet.arm.sim.scene import TABLES

FRONT = Camera("front", 64, 64)
REST = np.zeros((4, 5), np.float32)


@pytest.fixture
def env() -> Iterator[ArmEnv]:
    yield from drawable("lift", 4)


def pictures(env: ArmEnv) -> np.ndarray:
    return env.pictures((FRONT,), np.ones(4, bool))[0].astype(float)


def varied(*, light: float = 0.0, texture: float = 0.0) -> ArmEnv:
    return ArmEnv("lift", 4, seed=0, randomisation=Randomisation(light=light, texture=texture))


def test_light_makes_whole_pictures_darker_or_brighter_in_every_episode_otherwise(env: ArmEnv) -> None:
    lit = varied(light=0.5)
    change = (pictures(lit) - pictures(env)).mean((1, 2, 3))
    assert np.abs(change).max() > 5 and len(set(change.round(1))) == 4
    again = (pictures(lit) - pictures(env)).mean((1, 2, 3))
    np.testing.assert_array_equal(again, change)  # it stays for the whole episode
    lit.reset(options={"reset_mask": np.array([True, False, False, False])})
    env.reset(options={"reset_mask": np.array([True, False, False, False])})
    later = (pictures(lit) - pictures(env)).mean((1, 2, 3))
    assert abs(later[0] - change[0]) > 0.5
    np.testing.assert_array_equal(later[1:], change[1:])
    lit.close()


def test_texture_changes_table_cube_and_arm_but_not_the_goal(env: ArmEnv) -> None:
    painted = varied(texture=1.0)
    for one in (env, painted):
        pictures(one)  # opens its renderer
    before, after = (one._studio.appearance._model for one in (env, painted))  # type: ignore[union-attr]
    names = [before.geom(index).name for index in range(before.ngeom)]
    changed = (before.geom_rgba != after.geom_rgba).any(1)
    goal = before.geom_bodyid == before.body("goal").id
    assert changed[[names.index("table"), names.index("cube")]].all() and changed[~goal].all()
    assert not changed[goal].any()
    assert len({tuple(one) for one in after.geom_rgba[~goal, :3].round(6).tolist()}) == 3  # table, cube and arm
    np.testing.assert_array_equal(before.geom_rgba[:, 3], after.geom_rgba[:, 3])
    assert np.abs(pictures(painted) - pictures(env)).mean((1, 2, 3)).min() > 5
    half = varied(texture=0.5)
    assert np.abs(pictures(half) - pictures(env)).mean() < np.abs(pictures(painted) - pictures(env)).mean()
    half.close()
    painted.close()


def test_the_table_has_each_of_its_patterns() -> None:
    drawn = draw(Randomisation(texture=0.3), np.random.default_rng(0), 200).texture
    assert set(drawn[:, 1].astype(int)) == set(range(len(TABLES)))
    assert (drawn[:, 0] == 0.3).all() and drawn[:, 2:].min() >= 0 and drawn[:, 2:].max() <= 1


def test_physics_starts_and_other_draws_stay_the_same(env: ArmEnv) -> None:
    both = varied(light=1.0, texture=1.0)
    for one in (env, both):
        one.reset(seed=3)
    pictures(both)
    for _ in range(3):
        np.testing.assert_array_equal(env.step(env.expert_actions())[0], both.step(both.expert_actions())[0])
    both.close()
    mass = Randomisation(mass=(0.5, 2.0))
    masses, same = (
        draw(ranges, np.random.default_rng(0), 5).mass for ranges in (mass, Randomisation((0.5, 2.0), light=0.5))
    )
    np.testing.assert_array_equal(masses, same)


def test_a_snapshot_keeps_the_appearance() -> None:
    painted = varied(texture=1.0, light=0.5)
    snapshot, before = painted.snapshot(), painted._domain
    painted.reset(seed=9)
    assert (painted._domain.texture != before.texture).any()
    painted.restore(snapshot)
    np.testing.assert_array_equal(painted._domain.texture, before.texture)
    np.testing.assert_array_equal(painted._domain.light, before.light)
