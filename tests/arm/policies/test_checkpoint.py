"""A run starts from a saved policy: one that fits is learned on, and one that does not is refused with a remedy."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.arm.policies.test_joint import SHAPE, UNITS, lerobots

from tercet.arm import pipeline
from tercet.arm.demonstrations.digests import digests
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.environments import EnvFactory, sizes_of
from tercet.arm.policies.act import ActPolicy
from tercet.arm.policies.checkpoint import adopt_scales
from tercet.arm.policies.joint import JointPolicy
from tercet.arm.policies.kinds import load_policy, new_policy
from tercet.arm.policies.policy import Policy
from tercet.arm.robot import deploy
from tercet.arm.robot.control import SimulatedClock
from tercet.arm.sim.cameras import Camera
from tercet.arm.stages import from_checkpoint, start_policy
from tercet.config.load import load_arm_config, load_robot_config
from tercet.errors import FailedError, InputError
from tercet.runs.folder import RunFolder

OVER_JOINTS = ["policy.kind=act", "policy.sees=itself"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An ACT as LeRobot saves it: without our file of exploration."""
    return saved(tmp_path / "act", lerobots())


def saved(folder: Path, act: ActPolicy) -> Path:
    folder.mkdir()
    act.save(folder)
    (folder / "exploration.safetensors").unlink()
    return folder


def started(folder: Path, *overrides: str) -> Policy:
    config = load_arm_config("lift", [f"bc.policy={folder}", *overrides])
    with EnvFactory.of(config).open(1) as env:
        return from_checkpoint(config.bc, sizes_of(env), config.policy)


def test_an_act_of_lerobot_over_joints_is_cloned_on_and_deployed(
    checkpoint: Path, small: list[str], tmp_path: Path
) -> None:
    config = load_arm_config("lift", [*small, *OVER_JOINTS, f"bc.policy={checkpoint}", "bc.demonstrations=expert"])
    with RunFolder.open(tmp_path / "run", config, preset="lift") as folder:
        pipeline.check(config)
        pipeline.STEPS["bc"](folder, config)
    model = tmp_path / "run" / "bc" / "model"
    assert json.loads((model / "config.json").read_text())["output_features"]["action"]["shape"] == [6]
    task, pilot = deploy.policy_of(tmp_path / "run", "bc", speed=1.0)
    assert isinstance(pilot.policy, JointPolicy) and pilot.policy.chunk == 3
    before, after = lerobots().model.state_dict(), pilot.policy.inner.model.state_dict()
    changes = [float((before[name] - after[name]).abs().max()) for name in before]
    assert 0 < max(changes) < 0.5  # it was learned on, not started anew
    torch.testing.assert_close(pilot.policy.inner.scaled_actions.mean, lerobots().scaled_actions.mean)
    session = deploy.Session(task, pilot, 1, 0.5, True)
    (one,) = deploy.run(
        load_robot_config("simulated", []), session, keys=lambda: "", clock=SimulatedClock(), say=lambda text: None
    )
    assert len(one.ticks) == 10


def test_without_demonstrations_ppo_starts_from_it(checkpoint: Path, small: list[str], tmp_path: Path) -> None:
    config = load_arm_config("lift", [*small, *OVER_JOINTS, f"bc.policy={checkpoint}", "bc.demonstrations=none"])
    with RunFolder.open(tmp_path / "run", config, preset="lift") as folder:
        policy = start_policy(folder, EnvFactory.of(config), config.policy, bc=config.bc, seed=0)
    assert isinstance(policy, JointPolicy) and all(one.requires_grad for one in policy.inner.model.parameters())
    torch.testing.assert_close(policy.inner.model.state_dict(), lerobots().model.state_dict())


def test_a_policy_of_another_run_is_started_from_with_its_scales(small: list[str], tmp_path: Path) -> None:
    config = load_arm_config("lift", small)
    with EnvFactory.of(config).open(1) as env:
        policy = new_policy(sizes_of(env), config.policy, seed=3)
    policy.scaled.mean.fill_(0.25)
    (tmp_path / "model").mkdir()
    policy.save(tmp_path / "model")
    config = load_arm_config("lift", [*small, f"bc.policy={tmp_path / 'model'}", "bc.epochs=1"])
    with RunFolder.open(tmp_path / "run", config, preset="lift") as folder:
        pipeline.STEPS["bc"](folder, config)
    learned = load_policy(tmp_path / "run" / "bc" / "model", policy.sizes)
    torch.testing.assert_close(learned.scaled.mean, policy.scaled.mean)  # the weights were made for these scales
    with torch.no_grad():
        near = [(one - other).abs().max() for one, other in zip(learned.parameters(), policy.parameters(), strict=True)]
    assert 0 < max(near) < 0.1


@pytest.mark.slow
def test_a_run_without_cloning_stops_if_its_start_has_changed(small: list[str], tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    only_ppo = [*small, "bc.demonstrations=none", f"bc.policy={start}", "horizon=4", "ppo.num_updates=1"]
    only_ppo += ["ppo.reward={dense: 1.0}", "ppo.num_envs=2", "ppo.num_eval_states=1", "eval.num_states=2"]
    config = load_arm_config("reach", only_ppo)
    with EnvFactory.of(config).open(1) as env:
        new_policy(sizes_of(env), config.policy, seed=3).save(start)
    with RunFolder.open(tmp_path / "run", config, preset="reach") as folder:
        pipeline.run(folder, config)
        (start / "config.json").write_text((start / "config.json").read_text() + " ")
        with pytest.raises(InputError, match=r"data has changed[\s\S]*/ppo: policy\n.*/eval: policy"):
            pipeline.run(folder, config)


def test_a_checkpoint_that_changed_is_noticed(checkpoint: Path) -> None:
    config = load_arm_config("lift", [*OVER_JOINTS, f"bc.policy={checkpoint}"])
    before = digests(config, "bc")
    (checkpoint / "config.json").write_text((checkpoint / "config.json").read_text() + " ")
    assert before["policy"] != digests(config, "bc")["policy"]


def degrees_of_another_arm(act: ActPolicy) -> None:
    act.scaled_actions.mean.copy_(torch.tensor([0.0, 90.0, -90.0, -80.0, 0.0, 20.0]))


def radians(act: ActPolicy) -> None:
    act.scaled.mean.mul_(np.pi / 180)


def gripper_in_thousands(act: ActPolicy) -> None:
    act.scaled.mean[-1] *= 100


@pytest.mark.parametrize("change", [degrees_of_another_arm, radians, gripper_in_thousands])
def test_joints_in_other_units_are_refused(change: object, tmp_path: Path) -> None:
    act = lerobots()
    change(act)  # type: ignore[operator]
    with pytest.raises(InputError, match=r"far from the workspace; its joints must be .* in degrees"):
        started(saved(tmp_path / "act", act), *OVER_JOINTS)


def test_the_zeros_are_those_of_the_robot_that_is_named(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: so101\ncalibration: {elbow_flex: {zero: -60}}\n")
    with pytest.raises(InputError, match="far from the workspace"):
        started(checkpoint, *OVER_JOINTS, f"bc.policy_robot={tmp_path / 'mine.yaml'}")
    policy = started(checkpoint, *OVER_JOINTS)
    assert isinstance(policy, JointPolicy)
    np.testing.assert_array_equal(policy.units.zero, UNITS.zero)


def test_what_a_checkpoint_sees_must_be_what_the_run_shows(checkpoint: Path, tmp_path: Path) -> None:
    for overrides, message in (
        (["policy.kind=gaussian"], r"of kind act, not policy.kind=gaussian; set policy.kind=act"),
        (["policy.kind=act"], r"policy.sees=everything, but it sees itself; set policy.sees=itself"),
        (
            [*OVER_JOINTS, "policy.cameras=[front]"],
            r"sees no camera, this run the cameras front \(96 x 96\); set policy.cameras=\[\]",
        ),
    ):
        with pytest.raises(InputError, match=message):
            started(checkpoint, *overrides)
    cameras = (Camera("laptop", 64, 48), Camera("wrist", 64, 48))
    act = lerobots(shape=replace(SHAPE, cameras=cameras))
    folder = saved(tmp_path / "pictures", act)
    with pytest.raises(InputError, match=r"set policy.cameras=\[laptop,wrist\] policy.image_size=\[64,48\]"):
        started(folder, *OVER_JOINTS)
    policy = started(folder, *OVER_JOINTS, "policy.cameras=[laptop,wrist]", "policy.image_size=[64,48]")
    assert policy.cameras == cameras
    with pytest.raises(InputError, match=r"sees the cameras laptop \(64 x 48\), .* this run the cameras laptop \(32"):
        started(folder, *OVER_JOINTS, "policy.cameras=[laptop,wrist]", "policy.image_size=[32,48]")
    with pytest.raises(InputError, match=r"this run the cameras wrist \(64 x 48\), laptop"):  # each has its own inputs
        started(folder, *OVER_JOINTS, "policy.cameras=[wrist,laptop]", "policy.image_size=[64,48]")
    mixed = saved(tmp_path / "mixed", lerobots(shape=replace(SHAPE, cameras=(cameras[0], Camera("wrist", 32, 48)))))
    with pytest.raises(InputError, match="cameras of one size, which a run cannot set apart"):
        started(mixed, *OVER_JOINTS, "policy.cameras=[laptop,wrist]", "policy.image_size=[64,48]")


def test_scales_that_do_not_fit_the_demonstrations_are_refused() -> None:
    policy = new_policy(Sizes(4, 2), load_arm_config("lift", []).policy, seed=0)
    policy.scaled.measure(torch.randn(50, 4))
    adopt_scales("here", policy, 2 * torch.randn(50, 4), torch.zeros(50, 1, 2))
    for away in (100, -100):
        rows = torch.randn(50, 4)
        rows[:, 2] += away
        with pytest.raises(InputError, match=r"here: number 2 of what it observes was .* and is -?(1\d\d?|99.\d?) in"):
            adopt_scales("here", policy, rows, torch.zeros(50, 1, 2))


def test_joints_far_from_those_of_the_demonstrations_are_refused(checkpoint: Path) -> None:
    policy = started(checkpoint, *OVER_JOINTS)
    assert isinstance(policy, JointPolicy)
    with EnvFactory.of(load_arm_config("lift", OVER_JOINTS)).open(8) as env:
        observations = torch.from_numpy(env.reset(seed=0)[0]).float()
    adopt_scales("here", policy, observations, torch.zeros(8, 1, 5))
    torch.testing.assert_close(policy.scaled.mean, observations.mean(0))  # the critic's, of whole observations
    policy.inner.scaled.mean[1] -= 1000
    with pytest.raises(InputError, match=r"bc.policy=here: number 1 of what it observes"):
        adopt_scales("here", policy, observations, torch.zeros(8, 1, 5))


def test_a_damaged_model_of_a_run_is_not_started_from(small: list[str], tmp_path: Path) -> None:
    config = load_arm_config("lift", [*small, "bc.epochs=1"])
    with RunFolder.open(tmp_path / "run", config, preset="lift") as folder:
        pipeline.STEPS["bc"](folder, config)
    model = tmp_path / "run" / "bc" / "model"
    assert started(model).noise_size
    file = max(model.iterdir(), key=lambda one: one.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(FailedError, match=r"repeat this step"):
        started(model)


@pytest.mark.parametrize("kind", ["pi0", "diffusion"])
def test_other_policies_of_lerobot_are_named(kind: str, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text()) | {"type": kind}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=f"of LeRobot's policies only ACT and SmolVLA are read, and this one is {kind}"
    ):
        started(checkpoint, *OVER_JOINTS)


def test_a_chunk_that_is_executed_in_part_is_learned_as_far(checkpoint: Path) -> None:
    policy = lerobots(chunk=2)  # of four that the network predicts
    observations, actions = torch.randn(3, 6), torch.randn(3, 2, 6)
    torch.manual_seed(0)
    short = policy.imitation_loss(observations, actions, torch.ones(3, 2, dtype=torch.bool))
    longer = torch.cat([actions, torch.full((3, 2, 6), 9.0)], 1)
    mask = torch.tensor([True, True, False, False]).expand(3, 4)
    torch.manual_seed(0)
    torch.testing.assert_close(short, policy.imitation_loss(observations, longer, mask), atol=1e-4, rtol=1e-4)
