"""LeRobot loads an exported policy by its own functions, and runs it in the plugin's environment and on its robot."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.skipif(
    find_spec("lerobot") is None, reason="needs LeRobot 0.6 under Python 3.12: docs/real-arm.md says how to install it"
)
SOURCE = Path(__file__).parents[2] / "plugins" / "lerobot_policy_tercet" / "src"


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy of `reach` that goes to the goal as a straight line would: nearly what its expert does."""
    from tercet.arm.networks.sizes import Sizes
    from tercet.arm.policies.gaussian import GaussianPolicy
    from tercet.arm.robot.exported import export
    from tercet.arm.sim.tasks.builtin import find_task
    from tercet.config.load import load_arm_config, load_robot_config
    from tercet.runs.folder import RunFolder

    monkeypatch.syspath_prepend(str(SOURCE))
    layout = find_task("reach").observation
    policy = GaussianPolicy(Sizes(len(layout), 5), hidden_size=8, num_layers=1, log_std=-1.0)
    with torch.no_grad():
        for weights in policy.parameters():
            weights.zero_()
        first, last = (layer for layer in policy.net if isinstance(layer, torch.nn.Linear))
        for axis, (goal, target) in enumerate(zip(layout.names[9:12], layout.names[3:6], strict=True)):
            first.weight[axis, layout.names.index(goal)] = 0.1
            first.weight[axis, layout.names.index(target)] = -0.1 / 3  # the target is ahead of the tip
            last.weight[axis, axis] = 4.0
    with RunFolder.open(tmp_path / "run", load_arm_config("lift", ["env=reach"]), preset="lift"):
        (tmp_path / "run" / "bc" / "model").mkdir(parents=True)
        policy.save(tmp_path / "run" / "bc" / "model")
    export(tmp_path / "run", "bc", tmp_path / "new", load_robot_config("simulated", []))
    return tmp_path / "new"


def test_lerobots_evaluation_solves_the_task(exported: Path) -> None:
    import lerobot_policy_tercet
    from lerobot.configs import PreTrainedConfig
    from lerobot.envs.factory import make_env, make_env_pre_post_processors
    from lerobot.policies.factory import make_policy, make_pre_post_processors
    from lerobot.scripts.lerobot_eval import eval_policy_all

    env_config = lerobot_policy_tercet.TercetEnvConfig(task="reach", episode_length=60)
    config = PreTrainedConfig.from_pretrained(exported)
    config.pretrained_path = exported
    assert config.type == "tercet" and config.task == "reach"
    policy = make_policy(cfg=config, env_cfg=env_config)
    before, after = make_pre_post_processors(config, pretrained_path=str(exported))
    env_before, env_after = make_env_pre_post_processors(env_cfg=env_config, policy_cfg=config)
    found = eval_policy_all(
        envs=make_env(env_config, n_envs=2),
        policy=policy,
        env_preprocessor=env_before,
        env_postprocessor=env_after,
        preprocessor=before,
        postprocessor=after,
        n_episodes=4,
        max_episodes_rendered=0,
        start_seed=0,
    )
    assert found["overall"]["pc_success"] == 100.0 and found["overall"]["n_episodes"] == 4


def test_a_robot_is_driven_to_the_goal_of_its_file(exported: Path) -> None:
    import lerobot_policy_tercet
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    from tercet.arm.robot.calibration import KEYS, to_joints
    from tercet.arm.sim import kinematics
    from tercet.config.load import load_robot_config

    policy = get_policy_class("tercet").from_pretrained(exported)
    before, after = make_pre_post_processors(policy.config)  # the plugin's own
    robot = lerobot_policy_tercet.TercetSimulated(lerobot_policy_tercet.TercetSimulatedConfig(task="reach"))
    assert set(robot.observation_features) == set(KEYS)
    robot.connect()
    for _ in range(60):
        state = torch.tensor([robot.get_observation()[key] for key in KEYS])
        action = after(policy.select_action(before({"observation.state": state})))
        assert action.shape == (1, 6)
        robot.send_action(dict(zip(KEYS, action[0].tolist(), strict=True)))
    config = load_robot_config("simulated", [])
    tip = kinematics.forward(to_joints(robot.get_observation(), config.calibration)[None, :5]).tip[0]
    robot.disconnect()
    assert np.linalg.norm(tip - config.goal) < 0.015


def test_a_policy_is_not_trained_there_and_needs_a_folder(exported: Path) -> None:
    import lerobot_policy_tercet
    from lerobot.policies.factory import get_policy_class

    policy = get_policy_class("tercet").from_pretrained(exported)
    with pytest.raises(NotImplementedError, match="trained by `tercet arm run`"):
        policy.forward({})
    alone = get_policy_class("tercet")(lerobot_policy_tercet.TercetConfig(task="reach", device="cpu"))
    with pytest.raises(ValueError, match=r"give --policy\.path"):
        alone.select_action({"observation.state": torch.zeros(1, 6)})
