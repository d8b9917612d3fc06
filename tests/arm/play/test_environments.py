"""The environment of a run, opened in as many copies as a step needs."""

from tercet.arm.play.environments import EnvFactory, bounds_of, sizes_of
from tercet.config.load import load_arm_config


def test_the_factory_follows_the_config() -> None:
    config = load_arm_config("reach", ["horizon=20", "threads=1", "randomisation.sensor_noise=0.5"])
    envs = EnvFactory.of(config)
    assert (envs.name, envs.horizon, envs.num_threads, envs.randomisation.sensor_noise) == ("reach", 20, 1, 0.5)
    with envs.open(3) as env:
        assert env.num_envs == 3
        assert (sizes_of(env).action, sizes_of(env).observation) == (5, len(sizes_of(env).robot))
        assert bounds_of(env).shape == (5,)
