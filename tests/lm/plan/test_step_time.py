"""The time of a step equals a hand calculation from its phases."""

import pytest

from tercet.lm.plan import cost
from tercet.lm.plan.cost import Network, Sizes
from tercet.lm.plan.memory import Site, memory_of
from tercet.lm.plan.step_time import Phases, step_time

SIZES = Sizes(prompt=8, response=4)
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
    often = config.model_copy(update={"ppo": config.ppo.model_copy(update={"samples_per_eval_prompt": 3})})
    again = step_time(often, Phases(POLICY, SCORE, SIZES, (NETWORK, NETWORK)), SIZES)
    assert again.validation == 3 * time.validation
    in_bf16 = step_time(replace_precision(config), Phases(POLICY, SCORE, SIZES, (NETWORK, NETWORK)), SIZES)
    assert in_bf16.score == 2 * (2 * 2.0 + 1.0 + 1.0)  # the old policy's too


def test_without_a_critic_its_time_is_not_planned(make_config):
    ppo = {"batch_size": 8, "micro_batch_size": 4, "epochs": 3, "num_minibatches": 2, "algorithm": "grpo"}
    time = step_time(make_config(ppo=ppo), Phases(POLICY, SCORE, SIZES, (NETWORK, NETWORK)), SIZES)
    assert time.score == 2 * (2.0 + 1.0)  # reference and reward model
    assert time.train == 3 * (2 * 5.0 + 2 * 0.25)


def replace_precision(config):
    return config.model_copy(update={"precision": "bf16"})


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


def test_the_time_of_supervised_steps_is_proportional_to_their_arithmetic(make_config):
    config = make_config(ppo={"micro_batch_size": 4}, sft={"batch_size": 8}, reward={"batch_size": 8})
    measured = cost.learn(NETWORK, [12] * 4, 16).flops  # a micro-batch, read where its answers are decided
    # the reward model reads the ends of its rows: two a pair, or one that holds prompt, answer and answer
    for shares_prompts, lengths in ((False, [12] * 16), (True, [16] * 8)):
        time = step_time(config, Phases(POLICY, SCORE, SIZES, (NETWORK, NETWORK), shares_prompts), SIZES)
        assert time.sft == 2 * 5.0 + 0.25  # twice the rows of a micro-batch, of the same lengths
        assert time.reward == pytest.approx(3.0 * cost.learn(NETWORK, lengths, 16).flops / measured + 0.5)


def test_a_step_of_dpo_reads_pairs_with_policy_and_reference(make_config):
    config = make_config(ppo={"micro_batch_size": 4}, dpo={"batch_size": 8})
    measured = cost.learn(NETWORK, [12] * 4, 16).flops
    for shares_prompts, lengths in ((False, [12] * 16), (True, [16] * 8)):
        time = step_time(config, Phases(POLICY, SCORE, SIZES, (NETWORK, NETWORK), shares_prompts), SIZES)
        rows = cost.learn(NETWORK, lengths, 16 * 4).flops / measured  # the head reads every token of both answers
        assert time.dpo == pytest.approx((5.0 + 2.0) * rows + 0.25)
