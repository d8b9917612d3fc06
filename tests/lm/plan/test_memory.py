"""The planned memory equals that of a real step."""

from collections.abc import Callable

import pytest
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from tercet.lm.models.roles import load_policy
from tercet.lm.plan.bench import Step, Work, prompts
from tercet.lm.plan.cost import Sizes
from tercet.lm.plan.memory import Memory, Site, dpo_memory, memory_of

SIZES = Sizes(prompt=8, response=4)


def num_bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def weights(module: nn.Module, *, adapters: bool = False) -> int:
    return num_bytes([p for name, p in module.named_parameters() if ("lora_" in name) == adapters])


@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 4}, {"rank": 4, "shared_backbone": True}])
def test_the_parts_that_stay_in_memory_equal_those_of_a_real_step(make_config, lora: dict[str, int]):
    config = make_config("opt", lora=lora, reward={"num_layers": 1}, ppo={"batch_size": 4})
    stays = memory_of(config, Site("cpu", 1000), SIZES, SIZES)["ppo"].stays
    step = Step(Work(batch=4, prompt=8, response=4, vocab=300), config, config.ppo, num_critic_layers=1)
    step(0)
    policy, critic = step.learner.actor, step.learner.critic
    shared = "shared_backbone" in lora
    assert stays["libraries"] == 1000
    assert stays["actor"] == weights(policy)
    assert stays["critic"] == (0 if shared else weights(critic))
    assert stays["adapters"] == weights(policy, adapters=True) + weights(critic, adapters=True)
    assert stays["reward model"] == (weights(critic, adapters=True) if shared else weights(critic))
    assert stays["reference"] == (0 if lora["rank"] else weights(policy))
    moments = [
        value
        for optimizer in step.learner.optimizers.values()
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    ]
    assert stays["optimizers' moments"] == num_bytes(moments)
    assert stays["best actor's copy"] == num_bytes([p for p in policy.parameters() if p.requires_grad])


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 4}, {"rank": 4, "shared_backbone": True}])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_critic_saves_the_activations_that_the_plan_counts(make_config, lora, precision: str, checkpointing: bool):
    """The values with a graph are computed in scoring, not in the update."""
    config = make_config(
        "gpt2",
        lora=lora,
        precision=precision,
        model={
            "architecture": make_config("gpt2").model.architecture | {"hidden_size": 64, "num_hidden_layers": 3},
            "gradient_checkpointing": checkpointing,
        },
        ppo={"batch_size": 4, "micro_batch_size": 4, "epochs": 1, "num_minibatches": 1},
    )
    sizes = Sizes(prompt=16, response=16)
    step = Step(Work(batch=4, prompt=16, response=16, vocab=300), config, config.ppo)
    asked = prompts(step.work, 0)
    drawn = step.sample(asked, 0, most=16)
    kept = kept_bytes(lambda: step.score(asked, drawn), step.critic)
    counted = memory_of(config, Site("cpu", 0), sizes, sizes)["ppo"].moments["scoring"]["critic's activations"]
    assert kept == pytest.approx(counted, rel=0.05)


def kept_bytes(forward: Callable[[], object], module: nn.Module) -> int:
    """Return the bytes that a forward pass saves for the backward pass, without the module's own tensors."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}
    held = []  # a storage that is freed would give its place to the next one

    def keep(tensor: Tensor) -> Tensor:
        held.append(tensor.untyped_storage())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    assert result is not None
    return sum({s.data_ptr(): s.nbytes() for s in held if s.data_ptr() not in own}.values())


def test_the_peak_is_the_sum_of_what_stays_and_the_largest_moment():
    memory = Memory({"a": 10, "b": 5}, {"early": {"x": 3}, "late": {"x": 1, "y": 4}})
    assert (memory.fullest, memory.peak) == ("late", 20)


def test_gradients_of_earlier_micro_batches_add_to_the_activations(make_config):
    one, several = (
        memory_of(
            make_config("opt", ppo={"batch_size": n, "micro_batch_size": 4, "num_minibatches": 1}),
            Site.gpu(),
            SIZES,
            SIZES,
        )["ppo"]
        for n in (4, 8)
    )
    start, end = "critic's update, start of backward", "critic's update, end of backward"
    assert several.moments[start]["gradients"] == several.moments[end]["gradients"] > one.moments[start]["gradients"]


def test_a_smaller_micro_batch_and_recomputing_take_less_memory(make_config):
    def activations(**sections) -> int:
        moment = memory_of(make_config("opt", **sections), Site("cpu", 0), SIZES, SIZES)["ppo"].moments
        return moment["actor's update, start of backward"]["activations"]

    most = activations(ppo={"micro_batch_size": 8})
    assert activations(ppo={"micro_batch_size": 4}) < most
    assert activations(ppo={"micro_batch_size": 8}, model={"gradient_checkpointing": True}) < most


@pytest.mark.parametrize("rank", [0, 4])
def test_dpo_holds_a_reference_only_without_adapters_and_two_rows_a_pair(make_config, rank: int):
    config = make_config("opt", lora={"rank": rank}, sft={"micro_batch_size": 8}, dpo={"micro_batch_size": 4})
    site = Site("cpu", 1000)
    memory, sft = dpo_memory(config, site, SIZES), memory_of(config, site, SIZES, SIZES)["sft"]
    policy, frozen = load_policy(config, learns=True), load_policy(config)
    assert memory.stays["adapters"] == weights(policy, adapters=True)
    assert memory.stays["reference"] == (0 if rank else weights(frozen))
    start = "update, start of backward"
    assert memory.moments[start]["activations"] == sft.moments[start]["activations"] > 0
    assert memory.moments[start]["logits"] == sft.moments[start]["logits"] > 0


def test_the_copy_of_a_moving_average_is_counted(make_config):
    plain = make_config("opt")
    averaged = plain.model_copy(update={"ppo": plain.ppo.model_copy(update={"ema_decay": 0.9})})
    without, with_it = (memory_of(c, Site("cpu", 0), SIZES, SIZES)["ppo"] for c in (plain, averaged))
    assert without.stays["moving average"] == 0
    assert with_it.stays["moving average"] == with_it.stays["best actor's copy"]
    assert sum(with_it.stays.values()) - sum(without.stays.values()) >= with_it.stays["actor"]


@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 4, "shared_backbone": True}])
def test_without_a_critic_its_memory_is_not_planned_and_the_reward_models_still_is(make_config, lora: dict[str, int]):
    ppo = {"batch_size": 4, "algorithm": "rloo", "group_size": 2}
    config = make_config("opt", lora=lora, reward={"num_layers": 1}, ppo=ppo)
    memory = memory_of(config, Site("cpu", 1000), SIZES, SIZES)["ppo"]
    with_critic = memory_of(
        make_config("opt", lora=lora, reward={"num_layers": 1}, ppo={"batch_size": 4}), Site("cpu", 1000), SIZES, SIZES
    )["ppo"]
    step = Step(Work(batch=4, prompt=8, response=4, vocab=300), config, config.ppo, num_critic_layers=1)
    step(0)
    assert step.critic is None and list(step.learner.optimizers) == ["actor"]
    assert memory.stays["critic"] == 0 and not any("critic" in name for name in memory.moments)
    assert memory.stays["adapters"] == weights(step.policy, adapters=True)
    assert memory.stays["reward model"] == with_critic.stays["reward model"] > 0
    assert memory.stays["optimizers' moments"] == 2 * num_bytes(
        [p for p in step.policy.parameters() if p.requires_grad]
    )
    assert memory.moments["scoring"]["critic's activations"] == 0
