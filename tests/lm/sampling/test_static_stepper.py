"""A cache of fixed size gives the tokens of one that grows; on a GPU the recorded step gives those of the plain one."""

from collections.abc import Callable

import pytest
import torch
from tests.lm.sampling.test_generate import PROMPTS, drawn
from tests.lm.sampling.test_stepper import STATEFUL, made
from tests.second_device import NAME, NO_CARD, SecondDevice

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.checks import check
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.sampling import generate as module
from tercet.lm.sampling.generate import SampledTokens, generate
from tercet.lm.sampling.static_stepper import StaticStepper, can_be_static
from tercet.lm.sampling.stepper import Stepper

MakeConfig = Callable[..., LmConfig]


def static(policy: Policy, *, eos_id: int, temperature: float = 1.0) -> SampledTokens:
    """Sample as `drawn` does."""
    return generate(
        policy.model,
        PROMPTS,
        end_ids=[eos_id],
        max_tokens=8,
        temperature=temperature,
        generator=torch.Generator().manual_seed(0),
        static=True,
    )


# rows that have ended leave at once, or stay
@pytest.mark.parametrize(("temperature", "compact_below"), [(1.0, 1.0), (0.0, 0.0)])
def test_tokens_are_those_of_a_cache_that_grows(
    temperature: float, compact_below: float, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    eos_id = drawn(policy, temperature=temperature).tolist()[1][2]
    wanted = drawn(policy, eos_id=eos_id, temperature=temperature)
    sizes: list[int] = []
    step = StaticStepper.__call__

    def counted(self: StaticStepper, tokens: torch.Tensor) -> torch.Tensor:
        sizes.append(len(tokens))
        return step(self, tokens)

    monkeypatch.setattr(StaticStepper, "__call__", counted)
    monkeypatch.setattr(module, "COMPACT_BELOW_STATIC", compact_below)
    found = static(policy, eos_id=eos_id, temperature=temperature)
    assert found.tolist() == wanted.tolist() and found.ended.tolist() == wanted.ended.tolist()
    assert torch.allclose(found.logprobs, wanted.logprobs, atol=5e-5)
    assert sizes and (min(sizes) < len(PROMPTS)) == (compact_below == 1.0)


def test_every_tensor_keeps_its_place_from_step_to_step(make_config: MakeConfig) -> None:
    """What a graph has recorded reads and writes these addresses."""
    policy = load_policy(make_config("llama"))
    with torch.no_grad():
        stepper = StaticStepper(policy.model, PROMPTS, 2, 8)

        def places() -> list[int]:
            layers = [part for layer in stepper.cache.layers for part in (layer.keys, layer.values)]
            return [
                part.data_ptr() for part in (*layers, stepper.mask, stepper.positions, stepper.tokens, stepper.column)
            ]

        before = places()
        for token in (5, 6, 7):
            stepper(torch.full((4,), token))
            assert places() == before


@pytest.mark.parametrize("kind", ["mamba", "lfm2"])
def test_a_model_with_states_keeps_its_own_cache(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(kind, STATEFUL[kind])
    assert not can_be_static(model)
    steps: list[int] = []
    step = Stepper.__call__
    monkeypatch.setattr(Stepper, "__call__", lambda self, tokens: steps.append(len(tokens)) or step(self, tokens))
    chance = torch.Generator().manual_seed(0)
    generate(model, PROMPTS, end_ids=[2], max_tokens=3, temperature=1.0, generator=chance, static=True)
    assert steps


def test_the_cpu_waits_once_for_each_step(make_config: MakeConfig) -> None:
    with SecondDevice() as device:
        policy = load_policy(make_config("llama").model_copy(update={"device": NAME})).eval()

        def waits(num_tokens: int) -> int:
            before, chance = device.waits, torch.Generator().manual_seed(0)
            prompts = [[5, 9, 2], [6], [7, 8]]
            generate(
                policy.model,
                prompts,
                end_ids=[299],
                max_tokens=num_tokens,
                temperature=1.0,
                generator=chance,
                static=True,
            )
            return device.waits - before

        waits(2)  # the sampler is checked once
        assert waits(12) - waits(4) == 8


def test_graphs_without_a_gpu_are_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="cuda_graphs=true: device=cpu has none"):
        make_config("llama", cuda_graphs=True)
    with pytest.raises(ValueError, match=r"cuda_graphs=true: the kernels of lora\.backbone=nf4"):
        make_config(
            "llama", device="cuda", cuda_graphs=True, lora={"rank": 2, "shared_backbone": True, "backbone": "nf4"}
        )
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="cuda_graphs=true, but torch sees no NVIDIA GPU"):
            check(make_config("llama", device="auto", cuda_graphs=True), ["sft"])


@pytest.mark.gpu
@NO_CARD
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_steps_give_the_tokens_of_plain_ones(precision: str, make_config: MakeConfig) -> None:
    config = make_config("llama", device="cuda", precision=precision, lora={"rank": 4})
    policy = load_policy(config, learns=True).eval()
    with policy.autocast():
        wanted, found = drawn(policy, eos_id=2), static(policy, eos_id=2)
    assert torch.allclose(found.logprobs[:, 0], wanted.logprobs[:, 0], atol=0.05)
    if precision == "fp32":
        assert found.tolist() == wanted.tolist()
