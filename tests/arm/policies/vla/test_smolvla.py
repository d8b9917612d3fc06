"""A SmolVLA of LeRobot acts as LeRobot runs it, has exact probabilities, is cloned, saved and improved.

The checkpoints are small and random, of SmolVLA's architecture; these tests need LeRobot (`pip install
'tercet[smolvla]'` under Python 3.12) and are skipped without it.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tercet.arm import pipeline
from tercet.arm.play.environments import EnvFactory, sizes_of
from tercet.arm.policies.joint import JointPolicy
from tercet.arm.policies.kinds import load_policy
from tercet.arm.policies.vla import smolvla_files
from tercet.arm.policies.vla.smolvla import SmolVlaPolicy, start_smolvla
from tercet.arm.robot import deploy
from tercet.arm.robot.control import SimulatedClock
from tercet.arm.sim.cameras import Camera
from tercet.arm.stages import from_checkpoint, start_policy
from tercet.config.load import load_arm_config, load_robot_config
from tercet.errors import InputError
from tercet.runs.folder import RunFolder

pytest.importorskip("lerobot.policies.smolvla", reason="needs LeRobot with SmolVLA (tercet[smolvla], Python 3.12)")
pytest.importorskip("num2words", reason="needs LeRobot with SmolVLA (tercet[smolvla], Python 3.12)")

from tests.arm.policies.vla.smolvla import SENTENCE, joints, lerobots
from tests.second_device import DEVICES, NAME, SecondDevice

FRONT, WRIST = Camera("front", 48, 64), Camera("wrist", 48, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lerobots(tmp_path_factory.mktemp("smolvla"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with two cameras that executes its whole chunk."""
    return lerobots(tmp_path_factory.mktemp("whole"), cameras=("front", "wrist"), n_action_steps=4)


@pytest.fixture
def policy(folder: Path) -> SmolVlaPolicy:
    return loaded(folder, FRONT)


def loaded(folder: Path, *cameras: Camera, **names: str) -> SmolVlaPolicy:
    return start_smolvla(folder, cameras, instruction=SENTENCE, names=names)


def pictures(num: int, camera: Camera, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (num, camera.height, camera.width, 3)
    return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)


def lerobots_own(folder: Path) -> tuple[Any, Any, Any]:
    """LeRobot's policy and processors, as its tools load them."""
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    own = SmolVLAPolicy.from_pretrained(folder)
    return own, *make_pre_post_processors(own.config, str(folder))


def batch_of(states: Tensor, **images: Tensor) -> dict[str, Any]:
    named = {f"observation.images.{name}": one.permute(0, 3, 1, 2).float() / 255 for name, one in images.items()}
    return {"observation.state": states.clone(), "task": [SENTENCE] * len(states), **named}


def with_start(policy: SmolVlaPolicy, start: Tensor) -> Tensor:
    """Noise of a decision that starts from this and adds nothing in its steps."""
    return torch.cat([start.flatten(1), torch.zeros(len(start), policy.num_steps * policy.width)], 1)


def test_actions_are_those_of_lerobot(whole: Path) -> None:
    own, before, after = lerobots_own(whole)
    states, front, wrist = joints(3, seed=1), pictures(3, FRONT), pictures(3, WRIST, seed=1)
    start = torch.randn(3, 4, 8)
    chunk = after(own.predict_action_chunk(before(batch_of(states, front=front, wrist=wrist)), noise=start))
    policy = loaded(whole, WRIST, FRONT)  # in another order than the checkpoint has
    decided = policy.decide(states, with_start(policy, start), *policy.look(wrist, front))
    torch.testing.assert_close(policy.actions(decided), chunk, atol=1e-4, rtol=0)
    swapped = policy.decide(states, with_start(policy, start), *policy.look(front, wrist))
    assert (policy.actions(swapped) - chunk).abs().max() > 1e-3


def test_a_chunk_is_executed_as_far_as_lerobot_does(folder: Path, policy: SmolVlaPolicy) -> None:
    own, before, after = lerobots_own(folder)
    states, front, start = joints(2, seed=1), pictures(2, FRONT), torch.randn(2, 4, 8)
    done = policy.actions(policy.decide(states, with_start(policy, start), *policy.look(front)))
    assert done.shape == (2, 3, 6)
    batch = before(batch_of(states, front=front))
    for step in range(3):
        one = after(own.select_action(dict(batch), noise=start))
        torch.testing.assert_close(done[:, step], one, atol=1e-4, rtol=0)


def test_statistics_of_every_kind_are_read(tmp_path: Path) -> None:
    modes = {"VISUAL": "IDENTITY", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"}
    from lerobot.configs import NormalizationMode

    mapping = {name: NormalizationMode(mode) for name, mode in modes.items()}
    folder = lerobots(tmp_path, normalization_mapping=mapping)
    own, before, after = lerobots_own(folder)
    states, front, start = joints(2, seed=1), pictures(2, FRONT), torch.randn(2, 4, 8)
    chunk = after(own.predict_action_chunk(before(batch_of(states, front=front)), noise=start))
    policy = loaded(folder, FRONT)
    done = policy.actions(policy.decide(states, with_start(policy, start), *policy.look(front)))
    torch.testing.assert_close(done, chunk[:, :3], atol=1e-4, rtol=0)


def test_the_loss_of_cloning_is_that_of_lerobot(whole: Path) -> None:
    own, before, _ = lerobots_own(whole)
    states, front, wrist = joints(3, seed=1), pictures(3, FRONT), pictures(3, WRIST, seed=1)
    actions = joints(12, seed=2).view(3, 4, 6)
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2, [True] * 3 + [False]])
    batch = before(batch_of(states, front=front, wrist=wrist) | {"action": actions, "action_is_pad": ~mask})
    torch.manual_seed(3)
    expected, _ = own.forward(batch, reduction="none")
    torch.manual_seed(3)
    policy = loaded(whole, FRONT, WRIST)
    torch.testing.assert_close(policy.imitation_loss(states, actions, mask, front, wrist), expected.sum())
    changed = torch.where(mask[..., None], actions, 77.0)
    torch.manual_seed(3)
    late = policy.imitation_loss(states, changed, mask, front, wrist)
    assert late.isfinite()


def test_learning_evaluates_what_was_sampled(policy: SmolVlaPolicy) -> None:
    policy.explore_each(torch.linspace(-1.0, 1.5, 6))
    states, seen = joints(3, seed=1), policy.look(pictures(3, FRONT))
    noise = torch.randn(3, policy.noise_size)
    decisions = policy.decide(states, noise, *seen)
    distribution = policy.distribution(states, decisions, *seen)
    start = policy.noise_size - policy.num_steps * policy.width
    standardised = (distribution.chosen - distribution.mean) / distribution.log_std.exp()
    torch.testing.assert_close(standardised, noise[:, start:], atol=1e-4, rtol=1e-4)
    density = torch.distributions.Normal(distribution.mean, distribution.log_std.exp())
    torch.testing.assert_close(distribution.logprobs(), density.log_prob(decisions[:, start:]).sum(-1))
    inner = distribution.inner_logprobs()
    assert inner is not None and inner.shape == (3, policy.num_steps)
    torch.testing.assert_close(inner.sum(-1), distribution.logprobs())
    # the deviation of a joint in degrees is what was asked for
    assert policy.log_std.shape == (6,)
    torch.testing.assert_close(policy.log_std + policy.scaled_actions.std.log(), torch.linspace(-1.0, 1.5, 6))


def test_probabilities_of_a_changed_policy_are_those_with_which_it_draws(policy: SmolVlaPolicy) -> None:
    """The numbers that pad an action, and joints that are not executed, follow from the policy that is asked."""
    policy.explore(-1.0)
    states, seen = joints(2, seed=1), policy.look(pictures(2, FRONT))
    decisions = policy.decide(states, torch.randn(2, policy.noise_size), *seen)
    changed = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in changed.parameters():
            if parameter.requires_grad or parameter.shape == changed.model.action_out_proj.weight.shape:
                parameter.add_(0.3 * torch.randn_like(parameter))
    distribution = changed.distribution(states, decisions, *seen)
    assert (distribution.mean - policy.distribution(states, decisions, *seen).mean).abs().max() > 0.05
    num_start = policy.noise_size - policy.num_steps * policy.width
    added = (distribution.chosen - distribution.mean) / distribution.log_std.exp()
    drawn = changed.decide(states, torch.cat([decisions[:, :num_start], added], 1), *seen)
    torch.testing.assert_close(drawn, decisions, atol=1e-4, rtol=1e-4)


def learned(policy: SmolVlaPolicy) -> set[str]:
    return {name.split(".")[3] for name, one in policy.named_parameters() if one.requires_grad and "network" in name}


def test_only_the_expert_learns(policy: SmolVlaPolicy) -> None:
    assert not any(one.requires_grad for one in policy.parameters())
    policy.requires_grad_(True)
    frozen = [name for name, one in policy.named_parameters() if ".vlm." in name and one.requires_grad]
    assert not frozen and policy.model.state_proj.weight.requires_grad and policy.log_std.requires_grad
    policy.explore(-1.0)
    states, seen = joints(2, seed=1), policy.look(pictures(2, FRONT))
    decisions = policy.decide(states, torch.randn(2, policy.noise_size), *seen)
    policy.distribution(states, decisions.detach(), *seen).logprobs().sum().backward()
    moved = {name for name, one in policy.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}
    assert any("lm_expert" in name for name in moved) and "log_std" in moved
    assert not any("state_proj" in name or ".vlm." in name for name in moved)


def test_cloning_learns(policy: SmolVlaPolicy) -> None:
    policy.requires_grad_(True)
    states, images, actions = joints(4, seed=1), pictures(4, FRONT), joints(12, seed=2).view(4, 3, 6)
    optimizer = torch.optim.Adam([one for one in policy.parameters() if one.requires_grad], lr=3e-3)
    torch.manual_seed(0)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = policy.imitation_loss(states, actions, torch.ones(4, 3, dtype=torch.bool), images)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])


def config_of(folder: Path, small: list[str], *overrides: str) -> Any:
    given = [f"bc.policy={folder}", "policy.kind=smolvla", "policy.sees=itself", f"policy.instruction={SENTENCE}"]
    given += ["policy.cameras=[front]", "policy.image_size=[48,64]"]
    return load_arm_config("lift", [*small, *given, *overrides])


@pytest.fixture
def tight(small: list[str]) -> Iterator[list[str]]:
    yield [*small, "horizon=4", "bc.epochs=1", "bc.max_steps=2", "bc.num_eval=1", "bc.num_demonstrations=1"]


def test_a_saved_policy_is_read_by_tercet_and_by_lerobot(folder: Path, tight: list[str], tmp_path: Path) -> None:
    config = config_of(folder, tight)
    with EnvFactory.of(config).open(2) as env:
        sizes = sizes_of(env)
        policy = from_checkpoint(config.bc, sizes, config.policy)
        observations = torch.from_numpy(env.reset(seed=0)[0]).float()
    assert isinstance(policy, JointPolicy)
    policy.explore(-1.5)
    policy.measure(observations, torch.zeros(2, 5))
    with torch.no_grad():
        policy.inner.model.action_out_proj.weight.add_(0.1)
    policy.save(tmp_path)
    again = load_policy(tmp_path, sizes)
    assert isinstance(again, JointPolicy) and again.cameras == (FRONT,) and again.inner.instruction == SENTENCE
    images, noise = pictures(2, FRONT), torch.randn(2, policy.noise_size)
    one, other = (kind.decide(observations, noise, *kind.look(images)) for kind in (again, policy))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(again.actions(one), policy.actions(other))
    torch.testing.assert_close(again.scaled.mean, policy.scaled.mean)
    assert not any(parameter.requires_grad for parameter in again.parameters())
    own, before, after = lerobots_own(tmp_path)
    start = torch.randn(2, 4, 8)
    states = policy.states(observations)
    chunk = after(own.predict_action_chunk(before(batch_of(states, front=images)), noise=start))
    decided = policy.inner.decide(states, with_start(policy.inner, start), *policy.look(images))
    torch.testing.assert_close(policy.inner.actions(decided), chunk[:, :3], atol=1e-4, rtol=0)


def test_a_checkpoint_without_statistics_gets_those_of_the_demonstrations(tight: list[str], tmp_path: Path) -> None:
    """As `lerobot-train` does with smolvla_base, whose cameras also have names of their own."""
    base = lerobots(tmp_path / "base", cameras=("camera1", "camera2"), measured=False)
    overrides = ["policy.cameras=[wrist]", "bc.policy_cameras={wrist: camera2}"]
    with pytest.raises(
        InputError, match=r"no camera wrist; it has camera1, camera2; .*policy_cameras=\{wrist: camera1"
    ):
        pipeline_bc(config_of(base, tight, overrides[0]), tmp_path / "failed")
    config = config_of(base, tight, *overrides)
    folder = pipeline_bc(config, tmp_path / "run")
    with EnvFactory.of(config).open(2) as env:
        policy = load_policy(folder / "bc" / "model", sizes_of(env))
    assert isinstance(policy, JointPolicy) and policy.inner.has_scales
    assert (policy.inner.scaled.std > 0.009).all() and policy.inner.scaled.mean.abs().max() > 10
    averages = policy.inner.averages()  # in degrees, where the arm is and where its next move leads
    assert (averages["action"] - averages["state"]).abs().max() < 20 and averages["action"].abs().max() > 10
    own, before, after = lerobots_own(folder / "bc" / "model")
    states, images, start = joints(2, seed=1), pictures(2, WRIST), torch.randn(2, 4, 8)
    chunk = after(own.predict_action_chunk(before(batch_of(states, wrist=images)), noise=start))
    decided = policy.inner.decide(states, with_start(policy.inner, start), *policy.look(images))
    torch.testing.assert_close(policy.inner.actions(decided), chunk[:, :3], atol=1e-4, rtol=0)
    with (
        RunFolder.open(
            tmp_path / "only", config_of(base, tight, *overrides, "bc.demonstrations=none"), preset="lift"
        ) as run,
        pytest.raises(InputError, match="has no statistics of joints; clone first"),
    ):
        start_policy(
            run,
            EnvFactory.of(config),
            config.policy,
            bc=config.bc.model_copy(update={"demonstrations": "none"}),
            seed=0,
        )


def pipeline_bc(config: Any, path: Path) -> Path:
    with RunFolder.open(path, config, preset="lift") as folder:
        pipeline.STEPS["bc"](folder, config)
    return path


def test_a_run_clones_improves_and_deploys_it(folder: Path, tight: list[str], tmp_path: Path) -> None:
    overrides = ["ppo.num_updates=1", "ppo.num_envs=2", "ppo.num_eval_states=1", "eval.num_states=2", "ppo.epochs=1"]
    overrides += ["ppo.num_minibatches=1", "ppo.reward={dense: 1.0}", "ppo.clip_of=step", "ppo.critic_warmup_updates=0"]
    config = config_of(folder, tight, *overrides)
    with RunFolder.open(tmp_path / "run", config, preset="lift") as run:
        pipeline.check(config)
        pipeline.run(run, config)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("ppo/kl" in row for row in rows) and (tmp_path / "run" / "report.html").exists()
    task, pilot = deploy.policy_of(tmp_path / "run", "bc", speed=1.0)
    assert isinstance(pilot.policy, JointPolicy) and pilot.policy.chunk == 3
    before = dict(loaded(folder, FRONT).network.named_parameters())
    after = pilot.policy.inner.network.named_parameters()
    moved = {name for name, one in after if not torch.equal(one, before[name])}
    assert any("lm_expert" in name for name in moved) and any("state_proj" in name for name in moved)
    assert not any(".vlm." in name for name in moved)
    assert deploy.policy_of(tmp_path / "run", "ppo", speed=1.0)
    session = deploy.Session(task, pilot, 1, 0.25, True)
    robot = load_robot_config("simulated", ["cameras={front: front}"])
    (one,) = deploy.run(robot, session, keys=lambda: "", clock=SimulatedClock(), say=lambda text: None)
    assert len(one.ticks) == 5


def test_a_checkpoint_is_evaluated_as_it_is(folder: Path, tight: list[str], tmp_path: Path) -> None:
    config = config_of(folder, tight, "bc.demonstrations=none", "eval.num_states=2", "eval.num_videos=1")
    with RunFolder.open(tmp_path / "run", config, preset="lift") as run:
        pipeline.run_step(run, config, "eval")
        assert set(run.results()["return"]) == {"start", "start_noise"}


def test_the_gradient_of_its_probabilities_improves_it(policy: SmolVlaPolicy) -> None:
    policy.requires_grad_(True)
    policy.explore(-1.0)
    states = joints(1, seed=1).expand(64, -1)
    seen = [one.expand(64, -1, -1) for one in policy.look(pictures(1, FRONT))]
    optimizer = torch.optim.Adam([one for one in policy.parameters() if one.requires_grad], lr=3e-3)
    generator, pans = torch.Generator().manual_seed(0), []
    for _ in range(25):
        with torch.no_grad():
            decisions = policy.decide(states, torch.randn(64, policy.noise_size, generator=generator), *seen)
            pan = policy.actions(decisions)[..., 0].mean(1)
        pans.append(float(pan.mean()))
        optimizer.zero_grad()
        advantages = (pan - pan.mean()) / pan.std()
        (-(advantages * policy.distribution(states, decisions, *seen).logprobs()).mean() / policy.width).backward()
        optimizer.step()
    assert np.mean(pans[-5:]) > np.mean(pans[:5]) + 0.3 * float(policy.scaled_actions.std[0])


def test_names_of_cameras_from_training_and_from_the_run_both_count(tmp_path: Path) -> None:
    """A checkpoint of `lerobot-train --rename_map` knows the names of its data set."""
    folder = lerobots(tmp_path, cameras=("camera1", "camera2"))
    file = folder / "policy_preprocessor.json"
    tree = json.loads(file.read_text())
    assert tree["steps"][0]["registry_name"] == "rename_observations_processor"
    tree["steps"][0]["config"]["rename_map"] = {"observation.images.front": "observation.images.camera1"}
    file.write_text(json.dumps(tree))
    policy = loaded(folder, WRIST, FRONT, wrist="camera2")
    own, before, after = lerobots_own(folder)
    states, front, wrist = joints(2, seed=1), pictures(2, FRONT), pictures(2, WRIST, seed=1)
    start = torch.randn(2, 4, 8)
    chunk = after(own.predict_action_chunk(before(batch_of(states, front=front, camera2=wrist)), noise=start))
    done = policy.actions(policy.decide(states, with_start(policy, start), *policy.look(wrist, front)))
    torch.testing.assert_close(done, chunk[:, :3], atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="two cameras cannot be the same camera"):
        loaded(folder, FRONT, WRIST, wrist="camera1")
    with pytest.raises(InputError, match=r"top is none of policy.cameras"):
        loaded(folder, FRONT, top="camera2")


@pytest.mark.parametrize("device", DEVICES)
def test_it_computes_on_the_device_what_it_does_on_the_cpu(device: str, folder: Path) -> None:
    states, images = joints(2, seed=1), pictures(2, FRONT)
    noise = torch.randn(2, loaded(folder, FRONT).noise_size)

    def outputs(name: str) -> list[Tensor]:
        policy = loaded(folder, FRONT)
        policy.requires_grad_(True)
        policy = policy.to(name)
        policy.explore(-1.0)
        seen = policy.look(images.to(name))
        decisions = policy.decide(states.to(name), noise.to(name), *seen)
        logprobs = policy.distribution(states.to(name), decisions.detach(), *seen).logprobs()
        logprobs.sum().backward()
        gradient = policy.model.action_out_proj.weight.grad
        assert gradient.device == policy.device
        return [one.detach().cpu() for one in (policy.actions(decisions), logprobs, gradient)]

    expected = outputs("cpu")
    with SecondDevice() if device == NAME else nullcontext():
        found = outputs(device)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def changed(folder: Path, tmp_path: Path, **entries: Any) -> Path:
    new = tmp_path / "changed"
    new.mkdir()
    for file in folder.iterdir():
        (new / file.name).symlink_to(file)
    (new / "config.json").unlink()
    tree = json.loads((folder / "config.json").read_text()) | entries
    (new / "config.json").write_text(json.dumps(tree))
    return new


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"chunk_size": "long"}, "LeRobot cannot load it"),
        ({"num_vlm_layers": 3}, r"lacks \d+ weights, such as model"),
        ({"normalization_mapping": {}, "vlm_model_name": "/nowhere"}, "LeRobot cannot load it"),
    ],
)
def test_what_cannot_be_run_is_refused(entries: dict[str, Any], message: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        loaded(changed(folder, tmp_path, **entries), FRONT)


def test_processors_that_are_not_lerobots_usual_ones_are_refused(folder: Path, tmp_path: Path) -> None:
    new = changed(folder, tmp_path)
    tree = json.loads((folder / "policy_preprocessor.json").read_text())
    tree["steps"].insert(0, {"registry_name": "relative_actions_processor", "config": {}})
    (new / "policy_preprocessor.json").unlink()
    (new / "policy_preprocessor.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match=r"relative_actions_processor"):
        loaded(new, FRONT)


def test_it_must_be_told_what_to_do(folder: Path, tight: list[str]) -> None:
    with pytest.raises(InputError, match=r"reads a sentence; give it as policy.instruction"):
        start_smolvla(folder, (FRONT,), instruction="", names={})
    config = config_of(folder, tight, "env=lift-two")
    with EnvFactory.of(config).open(1) as env, pytest.raises(InputError, match="one sentence for the whole run"):
        from_checkpoint(config.bc, sizes_of(env), config.policy)


def test_the_sentence_matters(folder: Path, policy: SmolVlaPolicy) -> None:
    other = start_smolvla(folder, (FRONT,), instruction="the cube", names={})
    states, seen = joints(2), policy.look(pictures(2, FRONT))
    assert (policy.decide(states, None, *seen) - other.decide(states, None, *seen)).abs().max() > 1e-4


def test_reading_changes_no_later_draw(folder: Path) -> None:
    torch.manual_seed(5)
    first = torch.rand(3)
    torch.manual_seed(5)
    smolvla_files.read(folder)
    torch.testing.assert_close(torch.rand(3), first)
