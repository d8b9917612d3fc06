"""A tiny real arm: a short horizon, few environments, small networks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from tercet.arm.networks.critic import new_critic
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.agent import PolicyEpisodes
from tercet.arm.play.episodes import Episodes
from tercet.arm.policies.gaussian import GaussianPolicy
from tercet.arm.policies.policy import Policy
from tercet.arm.robot.calibration import KEYS
from tercet.arm.rollout import ArmActorCritic
from tercet.arm.sim.env import ArmEnv
from tercet.config.arm import ArmConfig, PolicyConfig
from tercet.config.load import load_arm_config
from tercet.errors import FailedError
from tercet.runs.folder import RunFolder

SMALL = [
    "horizon=12",
    "threads=1",
    "policy.hidden_size=16",
    "bc.num_demonstrations=2",
    "bc.epochs=4",
    "bc.batch_size=16",
    "bc.num_eval=4",
    "reward.num_pairs=36",
    "reward.num_eval=4",
    "reward.segment_length=4",
    "reward.noises=[0.5]",
    "reward.num_episodes=10",
    "reward.hidden_size=16",
    "reward.epochs=3",
    "reward.batch_size=16",
    "reward.checkpoint_every=2",
    "ppo.num_envs=4",
    "ppo.num_minibatches=2",
    "ppo.num_updates=4",
    "ppo.epochs=2",
    "ppo.critic_warmup_updates=1",
    "ppo.eval_every=2",
    "ppo.num_eval_states=4",
    "ppo.checkpoint_every=1",
    "eval.num_states=6",
    "eval.num_videos=0",
]


@pytest.fixture
def small() -> list[str]:
    """Overrides that make a run of any preset tiny."""
    return list(SMALL)


@pytest.fixture
def config() -> ArmConfig:
    """A tiny lift."""
    return load_arm_config("lift", SMALL)


@pytest.fixture
def folder(config: ArmConfig, tmp_path: Path) -> Iterator[RunFolder]:
    """An open run folder of the tiny lift."""
    with RunFolder.open(tmp_path / "run", config, preset="lift") as opened:
        yield opened


@pytest.fixture
def policy() -> GaussianPolicy:
    """A policy with observations of three numbers and actions of two."""
    torch.manual_seed(0)
    return GaussianPolicy(Sizes(3, 2), hidden_size=8, num_layers=1, log_std=-0.5)


def make_episodes(
    num: int = 3, horizon: int = 6, *, ends: Mapping[int, int] = MappingProxyType({}), seed: int = 0
) -> Episodes:
    """Random episodes with observations of three numbers and actions of two; row i terminates after step ends[i]."""
    chance = torch.Generator().manual_seed(seed)
    states = torch.randn(num, horizon + 1, 3, generator=chance)
    terminated = torch.zeros(num, horizon, dtype=torch.bool)
    for row, step in ends.items():
        terminated[row, step] = True
    truncated = torch.zeros(num, horizon, dtype=torch.bool)
    truncated[:, -1] = True
    progress = torch.rand(num, horizon, generator=chance)
    return Episodes(
        observations=states[:, :-1],
        actions=torch.randn(num, horizon, 2, generator=chance),
        next_observations=states[:, 1:],
        dense=torch.rand(num, horizon, generator=chance),
        terminated=terminated,
        truncated=truncated,
        infos={"success": (progress > 0.5).float(), "progress": progress},
    )


def step_by_step(episodes: Episodes) -> PolicyEpisodes:
    """Episodes with one decision per step."""
    return PolicyEpisodes(episodes, torch.ones_like(episodes.terminated), episodes.actions)


def drawable(task: str, num_envs: int, **settings: int) -> Iterator[ArmEnv]:
    """An environment that can be rendered; without OpenGL the test is skipped."""
    opened = ArmEnv(task, num_envs, seed=0, **settings)
    try:
        opened.render(0, 64, 48)
    except FailedError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


class Other:
    """A robot of somebody else's."""

    observation_features = action_features = dict.fromkeys(KEYS, float)
    is_calibrated = False

    def connect(self, calibrate: bool = True) -> None:
        assert not calibrate  # which would ask questions on the terminal

    def disconnect(self) -> None:
        pass

    def get_observation(self) -> dict[str, Any]:
        return dict.fromkeys(KEYS, 0.0)

    def get_action(self) -> dict[str, float]:
        return dict.fromkeys(KEYS, 0.0)

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        return action


@pytest.fixture
def actor_critic(policy: GaussianPolicy) -> ArmActorCritic:
    return ArmActorCritic(policy, new_critic(policy.scaled, PolicyConfig(hidden_size=8), seed=0))


def other_policy(policy: Policy) -> GaussianPolicy:
    """Return a policy of the same sizes with other weights."""
    torch.manual_seed(1)
    other = GaussianPolicy(policy.sizes, hidden_size=8, num_layers=1, log_std=-0.2)
    torch.nn.init.normal_(other.net[-1].weight)
    return other


def values(folder: RunFolder, name: str) -> list[float]:
    return [row[name] for row in folder.metrics() if name in row]


def run_of(tmp_path: Path, preset: str, overrides: list[str]) -> tuple[RunFolder, ArmConfig]:
    config = load_arm_config(preset, overrides)
    return RunFolder.open(tmp_path / "run", config, preset=preset), config
