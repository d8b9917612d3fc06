"""Every tensor of the arm that meets another is made on its device: all steps on a second device."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from tests.arm.policies.test_kinds import KINDS, SIZES
from tests.second_device import DEVICES, NAME, SecondDevice, same_metrics
from torch import Tensor

from tercet.arm.pipeline import STEPS
from tercet.arm.policies.kinds import new_policy
from tercet.config.load import load_arm_config
from tercet.runs.folder import RunFolder

ARM = [
    *("horizon=10", "bc.epochs=1", "bc.num_eval=4", "reward.num_pairs=8", "reward.num_eval=4", "reward.epochs=1"),
    *(
        "reward.num_episodes=4",
        "reward.segment_length=4",
        "ppo.num_envs=4",
        "ppo.num_updates=2",
        "ppo.num_eval_states=4",
    ),
    *("ppo.micro_batch_size=2", "ppo.num_minibatches=2", "ppo.epochs=1", "ppo.critic_warmup_updates=1"),
    *("ppo.eval_every=1", "ppo.checkpoint_every=1", "eval.num_states=4", "eval.num_videos=0", "policy.hidden_size=8"),
]
PICTURES = KINDS["act"].model_copy(update={"cameras": ["front"], "image_size": [32, 32]})
CHUNKS = ["policy.kind=act", "policy.chunk_size=2", "policy.num_heads=2"]
FLOW = ["policy.kind=flow", "policy.chunk_size=2", "ppo.clip_of=step"]


@pytest.mark.slow
def test_the_steps_of_an_arm_need_no_fp64_on_the_device(tmp_path: Path) -> None:
    """As on mps. The sums that need fp64 are computed on the CPU, so the numbers stay."""
    config = load_arm_config("lift", [*ARM, *CHUNKS])
    for name in ("cpu", NAME):
        with RunFolder.open(tmp_path / name, config, preset="lift") as folder:
            for run in STEPS.values():
                with SecondDevice(without_fp64=True) if name == NAME else nullcontext():
                    run(folder, config.model_copy(update={"device": name}))
    same_metrics(tmp_path / "cpu", tmp_path / NAME)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "overrides",
    [[], pytest.param(CHUNKS, marks=pytest.mark.slow), pytest.param(FLOW, marks=pytest.mark.slow)],
    ids=["steps", "chunks", "flow"],
)
def test_the_steps_of_an_arm_compute_on_the_device_what_they_do_on_the_cpu(
    device: str, overrides: list[str], tmp_path: Path
) -> None:
    config = load_arm_config("lift", [*ARM, *overrides])
    for name in ("cpu", device):
        with RunFolder.open(tmp_path / name, config, preset="lift") as folder:
            for step, run in STEPS.items():
                with SecondDevice() if name == NAME else nullcontext() as second:
                    run(folder, config.model_copy(update={"device": name}))
                assert second is None or second.waits, f"{step}: nothing was computed on the device"
    same_metrics(tmp_path / "cpu", tmp_path / device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [*KINDS, "pictures"])
def test_every_kind_of_policy_computes_on_the_device_what_it_does_on_the_cpu(device: str, kind: str) -> None:
    def outputs(name: str) -> list[Tensor]:
        policy = new_policy(SIZES, KINDS.get(kind, PICTURES), seed=0).to(name)
        generator = torch.Generator().manual_seed(0)
        observations, actions, noise = (
            torch.randn(shape, generator=generator).to(name)
            for shape in ((4, SIZES.observation), (4, policy.chunk, SIZES.action), (4, policy.noise_size))
        )
        pictures = [torch.full((4, one.height, one.width, 3), 99, dtype=torch.uint8).to(name) for one in policy.cameras]
        decisions = policy.decide(observations, noise, *pictures)
        distribution = policy.distribution(observations, decisions, *pictures)
        torch.manual_seed(0)  # of the noise in the losses of cloning
        mask = torch.ones(4, policy.chunk, dtype=torch.bool).to(name)
        loss = policy.imitation_loss(observations, actions, mask, *pictures)
        loss.backward()
        gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
        assert gradients and all(gradient.device == policy.device for gradient in gradients)
        drawn, best = policy.actions(decisions), policy.actions(policy.decide(observations, None, *pictures))
        numbers = [drawn, best, distribution.logprobs(), distribution.entropy(), loss, gradients[0]]
        return [one.detach().cpu() for one in numbers]

    expected = outputs("cpu")
    with SecondDevice() if device == NAME else nullcontext():
        found = outputs(device)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
