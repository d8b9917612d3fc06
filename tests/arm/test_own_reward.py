"""PPO on an environment's own reward, which reports no success: measured by its return, with running scales."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.arm.conftest import values
from tests.arm.test_kill_and_resume import Moment, killed

from tercet.api import compare_arm
from tercet.arm import pipeline
from tercet.arm.kept import Retraced
from tercet.arm.networks.critic import load_critic
from tercet.arm.play.environments import EnvFactory, sizes_of
from tercet.arm.policies.kinds import load_policy
from tercet.config.arm import ArmConfig
from tercet.config.load import load_arm_config
from tercet.errors import InputError
from tercet.runs.folder import RunFolder
from tercet.train.ppo.kept import KeptRollout

# a point that drifts away and is pushed back: observations of thousands, rewards of about minus ten thousand a step
PUSHED = """
import gymnasium, numpy as np
from gymnasium.spaces import Box

class Pushed(gymnasium.Env):
    observation_space, action_space = Box(-np.inf, np.inf, (2,)), Box(-3.0, 5.0, (1,), np.float32)
    can_end = False

    def seen(self):
        return np.array([1000 + 100 * self.place, self.place], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = float(self.np_random.uniform(-2, 2)), 0
        return self.seen(), {}

    def step(self, action):
        self.place += 0.3 * (float(action[0]) - 1) / 4
        self.steps += 1
        return self.seen(), -1e4 * abs(self.place), self.can_end and self.steps == 5, False, {}

class Ends(Pushed):
    can_end = True
"""

PPO_ALONE = [
    "measure=return",
    "bc.demonstrations=none",
    "policy.observation_scale=running",
    "policy.log_std=-0.5",
    "ppo.reward={dense: 1.0}",
    "ppo.scale_rewards=true",
    "threads=1",
]


@pytest.fixture(autouse=True)
def pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pushed_env.py").write_text(PUSHED)
    monkeypatch.chdir(tmp_path)


def trained(tmp_path: Path, small: list[str], *more: str) -> tuple[RunFolder, ArmConfig]:
    config = load_arm_config("reach", [*small, "env=pushed_env:Pushed", *PPO_ALONE, *more])
    with RunFolder.open(tmp_path / "run", config, preset="reach") as folder:
        pipeline.run(folder, config)
    return folder, config


def test_ppo_learns_from_rewards_and_observations_of_any_size(small: list[str], tmp_path: Path) -> None:
    more = ["ppo.num_updates=12", "ppo.num_envs=8", "ppo.epochs=8", "ppo.num_minibatches=4", "ppo.micro_batch_size=8"]
    folder, _ = trained(tmp_path, small, *more, "ppo.lr=0.01", "ppo.critic_lr=0.01", "ppo.critic_warmup_updates=0")
    results = folder.results()
    assert results["return_gained"]["low"] > 0 and not {"success", "paired"} & set(results)
    assert results["best_checkpoint"]["score"] == pytest.approx(max(values(folder, "ppo/validation_score")))
    text = (folder.path / "report.md").read_text()
    assert "PPO improved the policy: a return of" in text and "success" not in text.split("## ")[0]
    assert json.loads((folder.path / "eval" / "starts.json").read_text())[0].keys() == {"start", "start_noise", "ppo"}


def test_the_kept_policy_has_the_scale_that_it_was_validated_with(small: list[str], tmp_path: Path) -> None:
    """The last policy has seen more: where another one is kept, its scale must be kept too."""
    folder, config = trained(tmp_path, small, "ppo.lr=1e-9", "ppo.eval_every=1")  # no update changes the actions
    best = int(folder.results()["best_checkpoint"]["update"])
    assert best < config.ppo.num_updates
    with EnvFactory.of(config).open(1) as env:
        sizes = sizes_of(env)
    actor = load_policy(folder.path / "ppo" / "model", sizes).scaled
    critic = load_critic(folder.path / "ppo" / "critic", sizes).scaled
    assert not torch.equal(actor.mean, critic.mean)  # the critic is that of the last update
    files = sorted((folder.path / "ppo").glob("**/rollout*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
    assert files, "no rollout is kept"
    seen = torch.cat([KeptRollout.load(file.parent).own["observations"] for file in files])
    assert len(seen) == config.ppo.num_updates * config.ppo.num_envs  # all are kept, so the critic has seen these
    torch.testing.assert_close(critic.mean, seen.flatten(0, 1).mean(0))
    torch.testing.assert_close(critic.std, seen.flatten(0, 1).std(0, unbiased=False), rtol=1e-3, atol=0)


def test_rewards_are_divided_by_the_deviation_of_their_discounted_sums(small: list[str], tmp_path: Path) -> None:
    folder, config = trained(tmp_path, small)
    scales = values(folder, "ppo/reward_scale")
    assert len(scales) == config.ppo.num_updates and min(scales) > 1000
    for update in (1, 4):
        kept = KeptRollout.load(next((folder.path / "ppo").glob(f"**/*{update}")))
        dense = kept.own["dense"]
        torch.testing.assert_close(kept.rollout.rewards, (dense / scales[update - 1]).float())
        again, _ = Retraced.of(kept).with_settings(config.ppo, 0.0)
        torch.testing.assert_close(again.rollout.rewards, kept.rollout.rewards)


def test_episodes_that_end_early_are_measured_by_the_first_of_each_row(small: list[str], tmp_path: Path) -> None:
    folder, _ = trained(tmp_path, small, "env=pushed_env:Ends")
    first, rows = values(folder, "ppo/episode_return"), values(folder, "ppo/dense")
    assert all(row < one < 0 for one, row in zip(first, rows, strict=True))


@pytest.mark.slow
def test_running_scales_go_on_to_the_same_bits_after_a_kill(small: list[str], tmp_path: Path) -> None:
    moments: list[Moment] = [("row", "ppo", 2), ("checkpoint", "ppo", 2), ("row", "ppo", 4)]
    more = ["env=pushed_env:Pushed", *PPO_ALONE, "ppo.eval_every=1", "ppo.checkpoint_every=2", "ppo.ema_decay=0.5"]
    assert killed(tmp_path, "reach", [moments], [*small, *more, "ppo.noise_exponent=1"]) == 3


def test_without_success_an_environment_is_refused_unless_its_return_is_what_counts(small: list[str]) -> None:
    given = [*small, "env=pushed_env:Pushed", "bc.demonstrations=none", "ppo.reward={dense: 1.0}"]
    with pytest.raises(InputError, match="if its own reward is what counts, set measure=return"):
        pipeline.check(load_arm_config("reach", given))
    paid = [*given[:-1], "measure=return", "ppo.reward={success: 1.0}"]
    with pytest.raises(InputError, match="did not report success"):
        pipeline.check(load_arm_config("reach", paid))
    pipeline.check(load_arm_config("reach", [*given, "measure=return"]))


def test_a_running_scale_is_refused_for_a_clone(small: list[str]) -> None:
    with pytest.raises(InputError, match="would change the policy of bc"):
        load_arm_config("lift", [*small, "policy.observation_scale=running"])


def test_a_comparison_by_success_refuses_a_run_by_return(small: list[str]) -> None:
    config = load_arm_config("reach", [*small, "measure=return", "ppo.reward={dense: 1.0}", "bc.demonstrations=none"])
    with pytest.raises(InputError, match="a comparison is by success"):
        compare_arm.check(config, ["ppo"])


@pytest.mark.parametrize("preset", ["pendulum", "mountain-car", "half-cheetah"])
def test_presets_of_other_environments_pass_the_check(
    preset: str, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio", ModuleType("imageio"))  # Gymnasium needs it only for its window
    keys = ("policy.hidden_size", "ppo.num", "eval.")
    pipeline.check(load_arm_config(preset, ["threads=1", *(one for one in small if one.startswith(keys))]))
