"""The arithmetic of a step equals numbers calculated by hand and torch's own count."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tercet.lm.batch import pad
from tercet.lm.models.configs import config_at
from tercet.lm.models.roles import load_policy
from tercet.lm.plan import cost
from tercet.lm.plan.cost import Cost, Network
from tercet.lm.plan.footprint import footprint

# two layers of width 4, keys of width 2; 100 weights in products, 30 of them for what is read alone; a head of 40
NETWORK = Network(
    num_layers=2, width=4, kv_width=2, matrices=100, unread=30, adapters=0, head=40, learning=150, weight_bytes=4
)
WITH_ADAPTERS = replace(NETWORK, adapters=10, learning=10)


def test_attention_counts_every_earlier_token_and_the_token_itself():
    # rows of 3 and 1: 1 + 2 + 3 and 1 pairs; two products of width 4, 2 operations each, in two layers
    assert cost.attention_flops(NETWORK, [3, 1]) == (6 + 1) * 2 * 2 * 4 * 2


def test_forward_counts_two_operations_per_weight_and_token_and_the_head_where_it_reads():
    found = cost.forward(NETWORK, [3, 1], 2)
    assert found.flops == 2 * (70 * 4 + 30 * 2) + 224 + 2 * 40 * 2
    assert found.bytes == 4 * 140


def test_backward_costs_twice_the_forward_and_half_of_that_for_frozen_weights():
    ahead = cost.forward(NETWORK, [3, 1], 2).flops
    assert cost.learn(NETWORK, [3, 1], 2).flops == 3 * ahead
    # with adapters: forward, the way back through everything, and the weights' gradients of adapters and attention
    products = 2 * (80 * 4 + 30 * 2) + 2 * 40 * 2
    assert cost.learn(WITH_ADAPTERS, [3, 1], 2).flops == 2 * products + 2 * 10 * 4 + 3 * 224


def test_recomputing_adds_a_second_forward_of_the_layers():
    whole = replace(NETWORK, unread=0)  # with gradient checkpointing every layer is computed for all tokens
    more = cost.learn(whole, [3, 1], 2, recompute=True).flops - cost.learn(whole, [3, 1], 2).flops
    assert more == 2 * 100 * 4 + 224


def test_drawing_a_token_reads_every_weight_and_key_once():
    found = cost.decode(NETWORK, [5, 7])
    assert found.flops == 2 * 140 * 2 + 4 * 4 * 2 * 12
    assert found.bytes == 4 * 140 + 2 * 2 * 2 * 12 * 4


def test_generating_costs_the_prompts_and_each_token_of_the_longest_response():
    steps = cost.generate(NETWORK, [5, 7], [1, 3])
    assert steps == [cost.read_prompts(NETWORK, [5, 7]), cost.decode(NETWORK, [8]), cost.decode(NETWORK, [9])]


def test_the_cache_holds_keys_and_values_of_every_layer():
    assert cost.cache_bytes(NETWORK, 12, 2) == 2 * 2 * 2 * 12 * 2


def test_time_is_the_larger_of_arithmetic_and_memory_traffic():
    work = Cost(flops=100, bytes=10)
    assert work.seconds(flops_per_s=50.0, bytes_per_s=1.0) == 10.0
    assert work.seconds(flops_per_s=5.0, bytes_per_s=100.0) == 20.0


def test_the_head_runs_at_the_rate_of_fp32():
    work = Cost(flops=100, bytes=0, head_flops=20)
    assert work.seconds(flops_per_s=10.0, bytes_per_s=1.0) == 10.0
    assert work.seconds(flops_per_s=10.0, bytes_per_s=1.0, fp32_flops_per_s=2.0) == 8.0 + 10.0
    half = replace(NETWORK, weight_bytes=2)
    ahead = cost.forward(half, [5, 7], 3)
    assert (ahead.bytes, ahead.head_flops) == (2 * 100 + 4 * 40, 2 * 40 * 3)
    assert cost.learn(half, [5, 7], 3).head_flops == 3 * ahead.head_flops  # for its input and for its weight
    assert cost.learn(replace(half, adapters=8), [5, 7], 3).head_flops == 2 * ahead.head_flops


@pytest.mark.parametrize("rank", [0, 4])
def test_products_equal_the_count_of_torch(make_config, rank: int):
    config = make_config("opt", lora={"rank": rank})
    network = footprint(config, config_at(config.model), "policy", learns=True).network
    policy = load_policy(config, learns=True)
    batch = pad([[5] * 4, [6] * 4], [[5] * 8] * 2, pad_id=0)  # what rows begin with alike would be computed once
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}  # which torch does not count
    with FlopCounterMode(display=False, custom_mapping=in_place) as seen:
        policy.head(policy.hidden(batch, batch.deciding)[batch.deciding]).sum().backward()
    lengths = [12, 12]
    attention = cost.attention_flops(network, lengths)
    products = cost.learn(network, lengths, 16).flops - 3 * attention
    counted = sum(n for op, n in seen.get_flop_counts()["Global"].items() if "attention" not in str(op))
    # frozen embeddings need no gradient, so the first layer's three products of attention have none for their input
    spared = 2 * 24 * 3 * (32 * 32 + rank * 32) if rank else 0
    # the adapters of the last layer's three products behind attention do without the 8 tokens that nobody reads
    spared += 3 * 2 * 8 * 3 * rank * (32 + 32)
    assert products - spared == pytest.approx(counted, rel=1e-3)
