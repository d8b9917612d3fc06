"""Every tensor of the language side that meets another is made on its device: all steps on a second device."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from tests.lm.conftest import MakeConfig
from tests.second_device import DEVICES, NAME, SecondDevice, same_metrics

from tercet.config.load import load_lm_config
from tercet.core.advantages import length_adaptive_lambda
from tercet.core.categorical import sample
from tercet.core.masked import whiten
from tercet.core.statistics import score_gain_and_bias
from tercet.lm.models.roles import load_policy
from tercet.lm.pipeline import STEPS
from tercet.lm.sampling.generate import generate
from tercet.runs.folder import RunFolder

ADAPTERS = ["lora.rank=2", "lora.shared_backbone=true"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.slow
@pytest.mark.parametrize("overrides", [[], ADAPTERS], ids=["all", "adapters"])
def test_the_steps_of_a_language_model_compute_on_the_device_what_they_do_on_the_cpu(
    device: str, small: list[str], tmp_path: Path, overrides: list[str]
) -> None:
    _check_steps(device, small, tmp_path, overrides)


@pytest.mark.slow
def test_the_steps_need_no_fp64_on_the_device(small: list[str], tmp_path: Path) -> None:
    """As on mps. The sums that need fp64 are computed on the CPU, so the numbers stay."""
    rewards = "ppo.reward={reward_model: 1.0, 'tercet.lm.preferences.judge:polite_and_to_the_point': 0.5}"
    _check_steps(NAME, small, tmp_path, [rewards], without_fp64=True)


def _check_steps(
    device: str, small: list[str], tmp_path: Path, overrides: list[str], *, without_fp64: bool = False
) -> None:
    few = "sft.max_steps=2 sft.num_eval=4 reward.max_steps=2 reward.num_eval=4 reward.num_reference_samples=4 "
    few += "ppo.num_updates=2 ppo.batch_size=4 ppo.micro_batch_size=2 ppo.max_response_tokens=4 ppo.num_eval_prompts=2 "
    few += "eval.num_prompts=4 eval.max_response_tokens=2"
    more = [
        *few.split(),
        "ppo.ema_decay=0.5",
        "ppo.ptx_coef=0.1",
        "ppo.checkpoint_every=1",
        "ppo.kl_target=1",
        *overrides,
    ]
    config = load_lm_config("tiny", [*small, *more])
    for name in ("cpu", device):
        with RunFolder.open(tmp_path / name, config, preset="tiny") as folder:
            for run in STEPS.values():
                with nullcontext() if device == "cuda" else SecondDevice(without_fp64=without_fp64):
                    run(folder, config.model_copy(update={"device": name}))
    same_metrics(tmp_path / "cpu", tmp_path / device)


def test_the_formulas_give_the_same_bits_without_fp64_on_the_device() -> None:
    chance = torch.Generator().manual_seed(0)
    logits, uniforms = 3 * torch.randn(4, 700, generator=chance), torch.rand(4, generator=chance)
    x, mask = torch.randn(4, 9, generator=chance), torch.rand(4, 9, generator=chance) < 0.7
    here = sample(logits, uniforms, temperature=0.7)
    with SecondDevice(without_fp64=True):
        there = sample(logits.to(NAME), uniforms.to(NAME), temperature=0.7)
        assert there.actions.device.type == there.logprobs.device.type == NAME
        assert there.actions.tolist() == here.actions.tolist() and there.logprobs.tolist() == here.logprobs.tolist()
        whitened = whiten(x.to(NAME), mask.to(NAME))
        assert whitened.device.type == NAME and whitened.tolist() == whiten(x, mask).tolist()
        scale = score_gain_and_bias(x.flatten().to(NAME))
        alpha = length_adaptive_lambda(mask.to(NAME), alpha=0.5).cpu()
    assert scale == score_gain_and_bias(x.flatten())
    assert alpha[:, 0].tolist() == pytest.approx(length_adaptive_lambda(mask, alpha=0.5)[:, 0].tolist(), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_sampler_waits_once_for_each_step(make_config: MakeConfig, temperature: float) -> None:
    config = make_config("llama")
    with SecondDevice() as device:
        policy = load_policy(config.model_copy(update={"device": NAME})).eval()

        def waits(num_tokens: int) -> int:
            before = device.waits
            out = generate(
                policy.model,
                [[5, 9, 2], [6], [7, 8]],
                end_ids=[299],
                max_tokens=num_tokens,
                temperature=temperature,
                generator=torch.Generator().manual_seed(0),
            )
            assert out.mask.sum() == 3 * num_tokens
            return device.waits - before

        waits(2)  # the sampler is checked once
        # transformers waits once as well: it asks whether the batch has padding
        assert waits(12) - waits(4) == 8 * 2
