"""An OpenVLA predicts what OpenVLA's own code predicts, and its tokens are cloned, saved and improved."""

import copy
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.arm.policies.vla.openvla import INSTRUCTION, RECORD, checkpoint, picture
from tests.second_device import DEVICES, NAME, SecondDevice
from torch import Tensor

from tercet.arm import pipeline
from tercet.arm.networks.adapters import Adapted
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.environments import EnvFactory, sizes_of
from tercet.arm.policies.action_tokens import NUM_BINS, centres_of
from tercet.arm.policies.checkpoint import adopt_scales
from tercet.arm.policies.joint import JointPolicy, JointUnits
from tercet.arm.policies.kinds import kind_of, load_policy
from tercet.arm.policies.vla.openvla import OpenVlaPolicy, start_openvla
from tercet.arm.policies.vla.openvla_files import OpenVlaFiles
from tercet.arm.robot import deploy
from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.workspace import STEPS, within_limits
from tercet.arm.stages import from_checkpoint
from tercet.config.arm import PolicyConfig
from tercet.config.load import load_arm_config, load_robot_config
from tercet.errors import InputError
from tercet.runs.folder import RunFolder

SIZES, FRONT = Sizes(23, 5), Camera("front", 28, 28)
UNITS = JointUnits.of(load_robot_config("so101", []).calibration)
FIRST = 32000 - NUM_BINS  # id of the first action token


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("openvla") / "model")


def opened(
    folder: Path, key: str = "toy", *, rank: int = 4, camera: Camera = FRONT, sizes: Sizes = SIZES
) -> OpenVlaPolicy:
    config = PolicyConfig(
        kind="openvla", cameras=["front"], sees="itself", instruction=INSTRUCTION, unnorm_key=key, lora_rank=rank
    )
    torch.manual_seed(0)
    return start_openvla(OpenVlaFiles(folder), sizes, config, camera)


@pytest.fixture
def policy(folder: Path) -> OpenVlaPolicy:
    return opened(folder)


def shown(num: int = 1) -> Tensor:
    return torch.from_numpy(picture())[None].expand(num, -1, -1, -1)


def changed_adapters(policy: OpenVlaPolicy, size: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def test_the_patches_are_those_of_its_own_code(policy: OpenVlaPolicy) -> None:
    torch.testing.assert_close(policy.patches(shown())[0, :, :4], torch.tensor(RECORD["patches"]), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("key", ["toy", "other"])
def test_the_tokens_are_those_of_its_own_code(key: str, folder: Path) -> None:
    policy = opened(folder, key)
    decided = policy.decide(torch.zeros(1, 23), None, shown())
    assert (decided + FIRST).tolist() == [RECORD[f"{key}_tokens"]]


def test_the_logits_are_those_of_its_own_code(policy: OpenVlaPolicy) -> None:
    tokens = torch.tensor([RECORD["toy_tokens"]]) - FIRST
    distribution = policy.distribution(torch.zeros(1, 23), tokens, shown())
    expected = torch.tensor(RECORD["logits"])  # of every 32nd token
    torch.testing.assert_close(distribution.logits[0, :, ::32], expected, atol=1e-3, rtol=1e-3)


def test_actions_are_those_of_its_own_code(folder: Path) -> None:
    as_environment, of_hand = opened(folder, "other"), opened(folder, "toy")
    tokens = {key: torch.tensor([RECORD[f"{key}_tokens"]]) - FIRST for key in ("toy", "other")}
    done = as_environment.actions(tokens["other"])
    torch.testing.assert_close(done, torch.tensor([[RECORD["other"]]]), atol=1e-5, rtol=1e-5)
    x, y, z, _, _, yaw, gripper = RECORD["toy"]
    moves = [x / STEPS[0], y / STEPS[1], z / STEPS[2], yaw / STEPS[3], 2 * gripper - 1]
    torch.testing.assert_close(
        of_hand.actions(tokens["toy"]), torch.tensor([[moves]], dtype=torch.float32), atol=1e-5, rtol=1e-5
    )


def test_demonstrated_actions_become_the_tokens_that_stand_for_them(policy: OpenVlaPolicy) -> None:
    actions = torch.rand(200, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    actions[:, 3] *= 0.5
    numbers = policy.encoded(actions)
    inside = (numbers.abs() <= 1).all(-1)
    assert inside.sum() > 20
    torch.testing.assert_close(policy.decoded(numbers), actions)
    fine = policy.decoded(
        centres_of(NUM_BINS - torch.bucketize(numbers, torch.linspace(-1, 1, 256), right=True), NUM_BINS)
    )
    assert (fine - actions)[inside].abs().max() < 0.02
    assert (
        policy.encoded(actions)[:, 3:5] == policy.encoded(torch.zeros(1, 5))[:, 3:5]
    ).all()  # turns that we have not


def test_learning_evaluates_what_was_sampled(policy: OpenVlaPolicy) -> None:
    changed_adapters(policy)
    noise = torch.randn(500, 7, generator=torch.Generator().manual_seed(0))
    images, nothing = shown(500), torch.zeros(500, 23)
    decisions = policy.decide(nothing, noise, images)
    distribution = policy.distribution(nothing, decisions, images)
    first = torch.log_softmax(distribution.logits[0, 0], -1).exp()
    seen = torch.bincount(decisions[:, 0], minlength=NUM_BINS) / 500
    assert (first - seen).abs().max() < 0.08 and first.max() > 0.1
    uniform = torch.special.ndtr(noise[:, 3])  # a token is where its cumulative probability passes the uniform number
    cumulative = torch.softmax(distribution.logits[:, 3].double(), -1).cumsum(-1)
    above = cumulative.gather(1, decisions[:, 3:4])[:, 0]
    below = above - torch.softmax(distribution.logits[:, 3].double(), -1).gather(1, decisions[:, 3:4])[:, 0]
    assert ((below - 1e-4 <= uniform) & (uniform <= above + 1e-4)).all()
    assert policy.decide(nothing.view(5, 100, 23), noise.view(5, 100, 7), images.view(5, 100, 28, 28, 3)).shape == (
        5,
        100,
        7,
    )


def test_only_adapters_learn_and_cloning_teaches_them(policy: OpenVlaPolicy) -> None:
    policy.requires_grad_(True)
    names = {name for name, _ in policy.named_parameters()}
    assert names and all(name.startswith("model.layers.") and name.endswith(("down", "up")) for name in names)
    actions = torch.tensor([[[0.5, -0.5, 0.2, 0.1, 1.0]], [[-0.5, 0.5, -0.2, -0.1, -1.0]]])
    images = torch.stack([shown()[0], 255 - shown()[0]])
    optimizer, losses = torch.optim.Adam(policy.parameters(), lr=2e-2), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = policy.imitation_loss(torch.zeros(2, 23), actions, torch.ones(2, 1, dtype=torch.bool), images)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.25 * losses[0]
    done = policy.actions(policy.decide(torch.zeros(2, 23), None, images))
    torch.testing.assert_close(done, actions, atol=0.05, rtol=0)


def test_its_scale_is_that_of_the_critic_whatever_it_was_trained_on(policy: OpenVlaPolicy) -> None:
    observations = 100 + torch.randn(50, 23, generator=torch.Generator().manual_seed(0))
    adopt_scales("here", policy, observations, torch.zeros(50, 1, 5))
    torch.testing.assert_close(policy.scaled.mean, observations.mean(0))


def test_pictures_of_another_size_are_squeezed(policy: OpenVlaPolicy, folder: Path) -> None:
    smooth = torch.linspace(0, 255, 28)[None, :, None].expand(28, 28, 3)
    wide = torch.linspace(0, 255, 112)[None, :, None].expand(56, 112, 3)
    pair = [policy.patches(one.round().to(torch.uint8)[None]) for one in (smooth, wide)]
    assert (pair[0] - pair[1]).abs().max() < 0.1 * pair[0].abs().max()


def test_a_saved_policy_holds_what_was_learned(policy: OpenVlaPolicy, folder: Path, tmp_path: Path) -> None:
    changed_adapters(policy)
    policy.scaled.mean.fill_(0.25)
    policy.save(tmp_path)
    assert kind_of(tmp_path) == "openvla"
    assert (tmp_path / "model.safetensors").stat().st_size < 0.05 * sum(
        one.stat().st_size for one in folder.glob("*.safetensors")
    )
    again = load_policy(tmp_path, SIZES)
    assert isinstance(again, OpenVlaPolicy) and again.cameras == (FRONT,) and again.sees_itself
    noise = torch.randn(6, 7)
    one, other = (kind.decide(torch.zeros(6, 23), noise, shown(6)) for kind in (policy, again))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(again.scaled.mean, policy.scaled.mean)
    assert not any(parameter.requires_grad for parameter in again.parameters())
    with pytest.raises(InputError, match="made for 23 numbers in each observation"):
        load_policy(tmp_path, Sizes(12, 5))


def test_adapters_are_refused_over_another_checkpoint(policy: OpenVlaPolicy, folder: Path, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other")
    drawn = load_file(other / "model-00002-of-00002.safetensors")
    drawn["projector.fc1.bias"] += 1e-3
    save_file(drawn, other / "model-00002-of-00002.safetensors")
    (tmp_path / "saved").mkdir()
    policy.save(tmp_path / "saved")
    file = tmp_path / "saved" / "config.json"
    for base, message in (
        (str(other), "its weights differ"),
        (str(tmp_path / "none"), "which is not there; correct `base`"),
    ):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base": base}))
        with pytest.raises(InputError, match=message):
            load_policy(tmp_path / "saved", SIZES)


def test_a_copy_shares_the_frozen_weights(policy: OpenVlaPolicy) -> None:
    reference = copy.deepcopy(policy)
    assert reference.head is policy.head and reference.eyes[0].pos_embed is policy.eyes[0].pos_embed
    before = reference.decide(torch.zeros(1, 23), None, shown())
    changed_adapters(policy, 1.0)
    torch.testing.assert_close(reference.decide(torch.zeros(1, 23), None, shown()), before)
    assert (policy.decide(torch.zeros(1, 23), None, shown()) != before).any()


def test_weights_of_16_bits_stay_so(folder: Path, tmp_path: Path) -> None:
    policy, exact = opened(checkpoint(tmp_path / "half", dtype=torch.bfloat16)), opened(folder)
    adapted = [module for module in policy.model.modules() if isinstance(module, Adapted)]
    assert adapted and all(one.weight.dtype == torch.bfloat16 and one.up.dtype == torch.float32 for one in adapted)
    tokens = torch.tensor([RECORD["toy_tokens"]]) - FIRST
    one, other = (kind.distribution(torch.zeros(1, 23), tokens, shown()) for kind in (policy, exact))
    assert one.logits.dtype == torch.float32
    assert (one.logits - other.logits).abs().max() < 0.1 * other.logits.abs().max()
    policy.requires_grad_(True)
    policy.distribution(torch.zeros(1, 23), tokens, shown()).logprobs().sum().backward()
    assert all(one.up.grad is not None and one.up.grad.abs().sum() > 0 for one in adapted)


@pytest.mark.parametrize("device", DEVICES)
def test_it_computes_on_the_device_what_it_does_on_the_cpu(device: str, folder: Path) -> None:
    camera, generator = Camera("front", 32, 40), torch.Generator().manual_seed(2)
    noise, images = torch.randn(2, 7, generator=generator), torch.randint(0, 256, (2, 32, 40, 3), generator=generator)
    actions = torch.rand(2, 1, 5, generator=generator) - 0.5

    def outputs(name: str) -> list[Tensor]:
        policy = opened(folder, camera=camera)
        changed_adapters(policy)
        policy = policy.to(name)
        pictures = policy.look(images.to(torch.uint8).to(name))
        decisions = policy.decide(torch.zeros(2, 23).to(name), noise.to(name), *pictures)
        distribution = policy.distribution(torch.zeros(2, 23).to(name), decisions, *pictures)
        mask = torch.ones(2, 1, dtype=torch.bool).to(name)
        loss = policy.imitation_loss(torch.zeros(2, 23).to(name), actions.to(name), mask, *pictures)
        loss.backward()
        gradient = next(iter(policy.parameters())).grad
        assert gradient is not None and gradient.device == policy.device
        return [one.detach().cpu() for one in (policy.actions(decisions), distribution.logprobs(), loss, gradient)]

    expected = outputs("cpu")
    with SecondDevice() if device == NAME else nullcontext():
        found = outputs(device)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"use_fused_vision_backbone": False}, "use_fused_vision_backbone=False is not supported"),
        ({"timm_model_ids": ["vit_so400m_patch14_siglip_224"]}, "timm_model_ids=.* is not supported"),
        ({"n_action_bins": 128}, "n_action_bins=128 is not supported, only 256"),
        ({"text_config": {"model_type": "phi"}}, "its language model is no plain Llama"),
        ({"text_config": RECORD["text_config"] | {"hidden_size": 64}}, "do not have the sizes of config.json"),
        ({"image_sizes": [28, 56]}, "must be one size, twice"),
        ({"image_sizes": [42, 42]}, "do not have the sizes of config.json"),
        ({"norm_stats": {}}, "has the statistics of none; name the data set"),
        ({"norm_stats": {"toy": {"action": {"q01": [0.0]}}}}, "need q01 and q99 of actions"),
        (
            {"norm_stats": {"toy": {"action": {"q01": [0.0] * 6, "q99": [1.0] * 6}}}},
            r"has 6 numbers; it must have 7, .* 6, as joints of an SO-101",
        ),
        ({"norm_stats": {"toy": {"action": {"q01": [0.0] * 7, "q99": [1.0] * 5}}}}, "of different lengths"),
    ],
)
def test_what_cannot_be_run_is_refused(entries: dict[str, Any], message: str, folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | entries))
    with pytest.raises(InputError, match=message):
        opened(tmp_path)


def test_other_forms_of_openvla_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"policy.unnorm_key=: the checkpoint has the statistics of other, toy; name"):
        opened(folder, "")
    with pytest.raises(InputError, match=r"start a run from it with bc.policy="):
        load_policy(folder, SIZES)
    new = checkpoint(tmp_path / "oft")
    (new / "action_head--150000_checkpoint.pt").touch()
    with pytest.raises(InputError, match="OpenVLA-OFT's action heads are not supported"):
        opened(new)


def config_of(folder: Path, small: list[str], *overrides: str) -> Any:
    given = [f"bc.policy={folder}", "policy.kind=openvla", "policy.sees=itself", f"policy.instruction={INSTRUCTION}"]
    given += ["policy.cameras=[front]", "policy.image_size=[32,32]", "policy.unnorm_key=toy", "policy.lora_rank=2"]
    return load_arm_config("lift", [*small, *given, *overrides])


def test_a_config_names_what_it_needs(folder: Path, small: list[str]) -> None:
    for overrides, message in (
        (["policy.cameras=[front,wrist]"], "kind=openvla sees one camera; name one"),
        (["ppo.keep_success=0.5"], "explores by its own probabilities"),
        (["bc.policy="], "policy.kind=openvla starts from a checkpoint"),
        (["policy.kind=conv", "policy.instruction="], "unnorm_key is for kind=openvla, not conv"),
    ):
        with pytest.raises(InputError, match=message):
            config_of(folder, small, *overrides)
    config = config_of(folder, small, "env=lift-two")
    with EnvFactory.of(config).open(1) as env, pytest.raises(InputError, match="one sentence for the whole run"):
        from_checkpoint(config.bc, sizes_of(env), config.policy)
    with pytest.raises(InputError, match="reads a sentence; give it"):
        start_openvla(
            OpenVlaFiles(folder), SIZES, PolicyConfig(kind="openvla", cameras=["front"], sees="itself"), FRONT
        )


def over_joints(folder: Path, low: list[float], high: list[float]) -> Path:
    stats = {"mine": {"action": {"q01": low, "q99": high}}}
    return checkpoint(folder, norm_stats=stats)


def test_joints_as_actions_are_followed_by_moves(small: list[str], tmp_path: Path) -> None:
    hands = np.array([[0.16, -0.1, 0.03, -1, 0], [0.22, 0.1, 0.12, 1, 0.03]])
    ends = UNITS.values(hands)
    folder = over_joints(tmp_path / "joints", ends.min(0).tolist(), ends.max(0).tolist())
    config = config_of(folder, small, "policy.unnorm_key=mine")
    with EnvFactory.of(config).open(2) as env:
        sizes = sizes_of(env)
        policy = from_checkpoint(config.bc, sizes, config.policy)
        observations = torch.from_numpy(env.reset(seed=0)[0]).float()
    assert isinstance(policy, JointPolicy) and policy.blind and policy.chunk == 1
    np.testing.assert_allclose(policy.inner.averages()["action"].numpy(), ends.mean(0), atol=1e-4)
    images, noise = shown(2), torch.randn(2, 6)
    decisions = policy.decide(observations, noise, *policy.look(images))
    joints = policy.inner.actions(decisions[:, :6].long())[:, 0]
    assert (joints >= torch.tensor(ends.min(0)) - 1e-3).all() and (joints <= torch.tensor(ends.max(0)) + 1e-3).all()
    hand, target = UNITS.hands(joints.double().numpy()), decisions[:, 6:].double().numpy()
    expected = np.clip((within_limits(hand) - target) / STEPS, -1, 1)
    np.testing.assert_allclose(policy.actions(decisions)[:, 0].numpy(), expected, atol=1e-4)
    logprobs = policy.distribution(observations, decisions, *policy.look(images)).logprobs()
    inner = policy.inner.distribution(torch.zeros(2, 6), decisions[:, :6].long(), images)
    torch.testing.assert_close(logprobs, inner.logprobs())
    policy.requires_grad_(True)
    policy.imitation_loss(observations, torch.zeros(2, 1, 5), torch.ones(2, 1, dtype=torch.bool), images).backward()
    changed_adapters(policy.inner)
    (tmp_path / "saved").mkdir()
    policy.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved", sizes)
    assert isinstance(again, JointPolicy)
    torch.testing.assert_close(again.decide(observations, noise, images), policy.decide(observations, noise, images))
    torch.testing.assert_close(again.units.scale, policy.units.scale)


def test_joints_in_other_units_are_refused(small: list[str], tmp_path: Path) -> None:
    folder = over_joints(tmp_path / "radians", [-1.0] * 6, [1.2] * 6)
    with pytest.raises(InputError, match=r"the average action of its training is .*far from the workspace"):
        config = config_of(folder, small, "policy.unnorm_key=mine")
        with EnvFactory.of(config).open(1) as env:
            from_checkpoint(config.bc, sizes_of(env), config.policy)


@pytest.mark.slow
def test_a_run_clones_improves_and_deploys_it(folder: Path, small: list[str], tmp_path: Path) -> None:
    overrides = ["horizon=4", "bc.epochs=1", "bc.max_steps=2", "bc.num_eval=1", "bc.num_demonstrations=1"]
    overrides += ["ppo.num_updates=1", "ppo.num_envs=2", "ppo.num_eval_states=1", "eval.num_states=2", "ppo.epochs=1"]
    overrides += ["ppo.num_minibatches=1", "ppo.reward={dense: 1.0}", "ppo.critic_warmup_updates=0"]
    config = config_of(folder, small, *overrides)
    with RunFolder.open(tmp_path / "run", config, preset="lift") as run:
        pipeline.check(config)
        pipeline.run(run, config)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(np.isfinite(row["ppo/kl"]) for row in rows if "ppo/kl" in row)
    _, pilot = deploy.policy_of(tmp_path / "run", "bc", speed=1.0)
    assert isinstance(pilot.policy, OpenVlaPolicy) and pilot.policy.scaled.std.min() > 0
    learned = [module for module in pilot.policy.modules() if isinstance(module, Adapted)]
    assert all(one.up.abs().sum() > 0 for one in learned)
    again = config_of(tmp_path / "run" / "bc" / "model", small, "bc.demonstrations=none")
    with EnvFactory.of(again).open(1) as env:
        assert isinstance(from_checkpoint(again.bc, sizes_of(env), again.policy), OpenVlaPolicy)
