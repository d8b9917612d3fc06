"""The environment of a run, opened in as many copies as a step needs."""

import numpy as np

from tercet.arm.play.environments import EnvFactory, bounds_of, sizes_of
from tercet.arm.sim import kinematics
from tercet.config.load import load_arm_config


def test_the_factory_follows_the_config() -> None:
    config = load_arm_config("reach", ["horizon=20", "threads=1", "randomisation.sensor_noise=0.5"])
    envs = EnvFactory.of(config)
    assert (envs.name, envs.horizon, envs.num_threads, envs.randomisation.sensor_noise) == ("reach", 20, 1, 0.5)
    with envs.open(3) as env:
        assert env.num_envs == 3
        assert (sizes_of(env).action, sizes_of(env).observation) == (5, len(sizes_of(env).robot))
        assert bounds_of(env).shape == (5,)


def test_the_factory_has_the_arm_of_the_config_and_its_joint_limits() -> None:
    plain, other = (
        EnvFactory.of(load_arm_config("reach", ["safety.in_training=true", f"robot.model={name}"]))
        for name in ("primitive", "so101")
    )
    assert (plain.arm.name, other.arm.name) == ("primitive", "so101")
    assert plain.limits is not None and other.limits is not None
    np.testing.assert_array_equal(plain.limits.low[:5], kinematics.LIMITS[:, 0])
    np.testing.assert_array_equal(other.limits.low[:5], other.arm.limits[:, 0])
    assert np.abs(plain.limits.low - other.limits.low).max() > 0.1
