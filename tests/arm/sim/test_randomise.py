import numpy as np
import pytest

from tercet.arm.sim.env import make_env
from tercet.arm.sim.randomise import Randomisation, draw
from tercet.errors import InputError

REST = np.zeros((6, 5), np.float32)


def test_off_by_default_all_environments_share_one_model() -> None:
    env = make_env("lift", 6)
    assert len({id(model) for model in env._physics.models}) == 1


def test_masses_and_frictions_differ_and_change_with_each_episode() -> None:
    env = make_env("lift", 6, randomisation=Randomisation(mass=(0.5, 2.0), friction=(0.8, 1.2)))
    masses = [env._physics.models[k].body("cube").mass[0] for k in range(6)]
    assert len(set(masses)) == 6 and min(masses) >= 0.008 and max(masses) <= 0.032
    env.reset(options={"reset_mask": np.arange(6) < 2})
    changed = [env._physics.models[k].body("cube").mass[0] != masses[k] for k in range(6)]
    assert changed == [True, True, False, False, False, False]


def test_a_slippery_cube_cannot_be_lifted() -> None:
    done = []
    for friction in (1.0, 0.01):
        env = make_env("lift", 6, seed=1, randomisation=Randomisation(friction=(friction, friction)), horizon=40)
        for _ in range(40):
            infos = env.step(env.expert_actions())[-1]
        done.append(infos["success"].mean())
    assert done == [1.0, 0.0]


def test_starts_stay_the_same() -> None:
    plain = make_env("place", 6).reset(seed=4)[0]
    varied = make_env("place", 6, randomisation=Randomisation(mass=(0.5, 2.0), latency=(0, 2))).reset(seed=4)[0]
    np.testing.assert_array_equal(plain, varied)


def test_latency_lets_actions_come_late() -> None:
    env = make_env("reach", 6, randomisation=Randomisation(latency=(2, 2)))
    before = env.readings().target.copy()
    env.step(REST + 1)
    env.step(REST)
    np.testing.assert_array_equal(env.readings().target, before)
    env.step(REST)
    assert (env.readings().target[:, 0] > before[:, 0]).all()


def test_sensor_noise_is_on_observations_alone() -> None:
    plain, noisy = make_env("reach", 6), make_env("reach", 6, randomisation=Randomisation(sensor_noise=0.1))
    seen, blurred = plain.step(REST), noisy.step(REST)
    assert 0.05 < (blurred[0] - seen[0]).std() < 0.15
    np.testing.assert_array_equal(blurred[1], seen[1])


def test_draws_keep_to_their_ranges() -> None:
    ranges = Randomisation((0.5, 2.0), (0.9, 1.1), (1, 3), 0.02)
    drawn = draw(ranges, np.random.default_rng(0), 500)
    assert set(drawn.latency) == {1, 2, 3}
    assert np.abs(drawn.camera).max() <= 0.02
    assert drawn.mass.min() < 0.6 and drawn.mass.max() > 1.9


@pytest.mark.parametrize(
    "given",
    [
        {"mass": (2.0, 1.0)},
        {"friction": (0.0, 1.0)},
        {"latency": (-1, 0)},
        {"sensor_noise": -0.1},
        {"light": 1.5},
        {"texture": -0.1},
    ],
)
def test_ranges_that_make_no_sense_are_refused(given: dict) -> None:
    with pytest.raises(InputError, match=f"randomisation.{next(iter(given))}"):
        Randomisation(**given)
