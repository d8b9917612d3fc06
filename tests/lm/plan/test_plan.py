"""The plan: its memory equals that of a real step, its times equal hand calculations, and its remedies work."""

import json
import resource
from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from tercet.config.load import load_lm_config
from tercet.errors import InputError
from tercet.lm.plan import cost, table
from tercet.lm.plan.bench import Step, Work, prompts
from tercet.lm.plan.cost import Network, Sizes
from tercet.lm.plan.memory import Memory, Site, memory_of
from tercet.lm.plan.plan import GIB, plan
from tercet.lm.plan.step_time import Phases, step_time

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


NETWORK = Network(
    num_layers=1, width=4, kv_width=4, matrices=100, unread=40, adapters=0, head=10, learning=110, weight_bytes=4
)
POLICY = {"read": 1.0, "draw": 0.5, "score": 2.0, "learn": 5.0, "apply": 0.25}
SCORE = {"score": 1.0, "learn": 3.0, "apply": 0.5}


def test_the_time_of_a_step_is_the_sum_of_its_phases(make_config):
    config = make_config(ppo={"batch_size": 8, "micro_batch_size": 4, "epochs": 3, "num_minibatches": 2,
                              "num_eval_prompts": 16, "num_updates": 10, "eval_every": 4})  # fmt: skip
    time = step_time(config, Phases(POLICY, SCORE, SIZES, (NETWORK, NETWORK)), SIZES)
    assert time.generate == 1.0 + 3 * 0.5
    assert time.score == 2 * (2.0 + 1.0 + 1.0)  # two micro-batches: reference, critic, reward model
    assert time.train == 3 * (2 * (5.0 + 3.0) + 2 * (0.25 + 0.5))
    assert time.validation == 2 * (time.generate + time.score)
    assert time.ppo_run(config.ppo) == 10 * time.ppo + 4 * time.validation  # before, after 4, 8 and 10
    in_bf16 = step_time(replace_precision(config), Phases(POLICY, SCORE, SIZES, (NETWORK, NETWORK)), SIZES)
    assert in_bf16.score == 2 * (2 * 2.0 + 1.0 + 1.0)  # the old policy's too


def test_a_single_optimizer_step_needs_no_second_forward_and_keeps_the_graph(make_config):
    once, twice = (
        make_config(ppo={"batch_size": 4, "micro_batch_size": 4, "epochs": epochs, "num_minibatches": 1})
        for epochs in (1, 2)
    )
    times = [step_time(config, Phases(POLICY, SCORE, SIZES, (NETWORK, NETWORK)), SIZES) for config in (once, twice)]
    assert [time.train for time in times] == [5.0 + 3.0 - 1.0 + 0.75, 2 * (5.0 + 3.0 + 0.75)]
    first, second = (memory_of(config, Site("cpu", 0), SIZES, SIZES)["ppo"].moments for config in (once, twice))
    kept = first["critic's update, start of backward"]["activations"]
    assert first["scoring"]["critic's activations"] == kept > 0 == second["scoring"]["critic's activations"]


def test_a_plan_warns_about_other_work_on_the_machine():
    found = plan(load_lm_config("tiny", []), prompt_tokens=9, response_tokens=3)
    said = ["\n".join(table.lines(replace(found, other_cpus=cpus))) for cpus in (0.05, 1.3)]
    assert ["other work used 1.3 CPUs" in text for text in said] == [False, True]


def replace_precision(config):
    return config.model_copy(update={"precision": "bf16"})


def test_the_time_of_supervised_steps_is_proportional_to_their_arithmetic(make_config):
    config = make_config(ppo={"micro_batch_size": 4}, sft={"batch_size": 8}, reward={"batch_size": 8})
    measured = cost.learn(NETWORK, [12] * 4, 16).flops  # a micro-batch, read where its answers are decided
    # the reward model reads the ends of its rows: two a pair, or one that holds prompt, answer and answer
    for shares_prompts, lengths in ((False, [12] * 16), (True, [16] * 8)):
        time = step_time(config, Phases(POLICY, SCORE, SIZES, (NETWORK, NETWORK), shares_prompts), SIZES)
        assert time.sft == 2 * 5.0 + 0.25  # twice the rows of a micro-batch, of the same lengths
        assert time.reward == pytest.approx(3.0 * cost.learn(NETWORK, lengths, 16).flops / measured + 0.5)


@pytest.mark.parametrize(("preset", "room"), [("opt-350m", 12.0)])
def test_a_run_with_the_remedies_fits(preset: str, room: float):
    before = plan(load_lm_config(preset, []), gpu="3090", gpu_gb=room)
    assert not before.fits and before.remedies
    assert [r.override for r in before.remedies] == list(dict.fromkeys(r.override for r in before.remedies))
    after = plan(load_lm_config(preset, [r.override for r in before.remedies]), gpu="3090", gpu_gb=room)
    assert after.fits and not after.remedies
    assert after.peak == before.remedies[-1].peak <= room * GIB


def test_a_plan_says_so_if_no_setting_is_enough():
    found = plan(load_lm_config("opt-1.3b", []), gpu="3090", gpu_gb=1.0)
    text = "\n".join(table.lines(found))
    assert "does not fit" in text and "still too much" in text


def test_planning_loads_no_weights():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = plan(load_lm_config("opt-1.3b", ["model.path=facebook/opt-6.7b", "reward.model="]), gpu="h100")
    assert found.memory["ppo"].stays["actor"] > 13e9
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 5e8


def test_a_plan_of_this_machine_uses_the_lengths_of_the_data_and_measures_time(make_config):
    found = plan(load_lm_config("tiny", ["data.style=plain"]))
    assert found.rows.source.startswith("means of the data") and 5 < found.rows.ppo.prompt < 128
    assert found.rows.ppo.response == 16
    assert found.fits and not found.is_estimate
    assert 0 < found.time.ppo < 60
    assert set(found.run_s) == {"sft", "ppo"}
    given = plan(load_lm_config("tiny", []), prompt_tokens=9, response_tokens=3)
    assert (given.rows.ppo, given.rows.source) == (Sizes(9, 3), "given")


def test_the_command_prints_a_table_or_json(tercet):
    shown = tercet("plan", "--preset", "opt-1.3b", "--gpu-gb", 24)
    assert shown.exit_code == 0, shown.output
    for word in ("3090, 24 GiB", "optimizers' moments", "<- the peak", "PPO step", "not measured", "fits:"):
        assert word in shown.output
    data = json.loads(tercet("plan", "--preset", "opt-1.3b", "--gpu", "3090", "--json").output)
    assert data["fits"] and data["peak"] == max(step["peak"] for step in data["peaks"].values())


def test_warnings_about_the_data_are_not_part_of_the_json(tercet, tmp_path):
    rows = [{"prompt": f"Why {i}?", "chosen": "So.", "topic": "none"} for i in range(30)]
    (tmp_path / "odd.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = tercet("plan", "--preset", "tiny", f"data.train=[{tmp_path / 'odd.jsonl'}]", "--json")
    assert "odd: nothing reads topic" in found.stderr
    assert "fits" in json.loads(found.stdout)


def test_wrong_input_is_refused_with_the_remedy(tercet):
    card = tercet("plan", "--preset", "tiny", "--gpu", "voodoo")
    assert (card.exit_code, "must be auto" in card.output) == (2, True)
    model = tercet("plan", "--preset", "tiny", "--gpu-gb", 24, "model.path=no/such")
    assert model.exit_code == 2 and "model.architecture=" in model.output
    long = tercet("plan", "--preset", "tiny", "--response-tokens", 300)
    assert long.exit_code == 2 and "428 tokens, but the model reads 256" in long.output
    with pytest.raises(InputError, match="428 tokens, but the model reads 256"):  # as a run is refused
        plan(load_lm_config("tiny", ["ppo.max_response_tokens=300"]), gpu="h100", prompt_tokens=128)
    shape = tercet("bench", "--shape", "huge")
    assert (shape.exit_code, "opt-125m" in shape.output) == (2, True)
    with pytest.raises(InputError):
        plan(load_lm_config("tiny", []), gpu="voodoo")


def test_the_copy_of_a_moving_average_is_counted(make_config):
    plain = make_config("opt")
    averaged = plain.model_copy(update={"ppo": plain.ppo.model_copy(update={"ema_decay": 0.9})})
    without, with_it = (memory_of(c, Site("cpu", 0), SIZES, SIZES)["ppo"] for c in (plain, averaged))
    assert without.stays["moving average"] == 0
    assert with_it.stays["moving average"] == with_it.stays["best actor's copy"]
    assert sum(with_it.stays.values()) - sum(without.stays.values()) >= with_it.stays["actor"]
