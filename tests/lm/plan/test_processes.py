"""The plan of several processes: the memory of one of them, and what it sends."""

from collections.abc import Callable

import pytest
from click.testing import Result
from tests.on_ranks import on_ranks

from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.lm.plan.bench import Step, Work
from tercet.lm.plan.cost import Sizes
from tercet.lm.plan.footprint import footprint
from tercet.lm.plan.memory import Memory, Site, memory_of
from tercet.lm.plan.plan import plan
from tercet.lm.plan.processes import Processes
from tercet.lm.plan.shapes import Networks
from tercet.lm.plan.traffic import sent
from tercet.train.sharding import own_part

MakeConfig = Callable[..., LmConfig]
SIZES = Sizes(prompt=8, response=4)


def _memory(config: LmConfig, num: int = 1, *, shard: bool = False) -> Memory:
    return memory_of(config, Site("cpu", 1000), SIZES, SIZES, Processes(num, shard))["ppo"]


def test_whole_weights_take_the_same_memory_in_every_process_and_fewer_rows_less(make_config: MakeConfig) -> None:
    config = make_config("opt", ppo={"batch_size": 8, "micro_batch_size": 8})
    one, four = _memory(config), _memory(config, 4)
    weights = [name for name in one.stays if name != "gaps between blocks"]
    assert [four.stays[name] for name in weights] == [one.stays[name] for name in weights]
    assert four.moments["sampling"]["key-value cache"] == one.moments["sampling"]["key-value cache"] // 4
    start = "actor's update, start of backward"
    assert four.moments[start]["activations"] < one.moments[start]["activations"]


def _held(work: Work, config: LmConfig) -> tuple[int, int]:
    step = Step(work, config, config.ppo)
    step(0)
    weights = [p for network in (step.policy, step.critic) if network for p in network.parameters()]
    states = [s for o in step.learner.optimizers.values() for state in o.state.values() for s in state.values()]
    moments = [state for state in states if state.ndim]
    return sum(own_part(p).nbytes for p in weights), sum(own_part(m).nbytes for m in moments)


@pytest.mark.slow
def test_divided_weights_take_the_memory_that_processes_hold(make_config: MakeConfig) -> None:
    config = make_config("opt", ppo={"batch_size": 4})
    stays = _memory(config, 2, shard=True).stays
    of_ranks = on_ranks(2, _held, Work(batch=4, prompt=8, response=4, vocab=300), config, shard=True)
    for weights, moments in of_ranks:  # a few rows of odd matrices are on rank 0 alone
        assert weights == pytest.approx(stays["actor"] + stays["critic"], rel=0.02)
        assert moments == pytest.approx(stays["optimizers' moments"], rel=0.02)


def test_a_step_sends_what_its_exchanges_add_up_to(make_config: MakeConfig) -> None:
    ppo = {"batch_size": 8, "micro_batch_size": 2, "epochs": 2, "num_minibatches": 2}
    config = make_config("opt", ppo=ppo, sft={"batch_size": 8, "micro_batch_size": 2})
    networks = Networks.of(config, config.reward)
    actor = footprint(config, networks.policy, "policy", learns=True)
    critic = footprint(config, networks.score, "score", learns=True)
    reference, model = footprint(config, networks.policy, "policy"), footprint(config, networks.score, "score")
    of_one = Processes(2).work_of_one(config)
    whole = sent(of_one, Processes(2))
    # 4 optimizer steps add up all gradients: each of 2 processes sends half of them twice
    assert whole.ppo == 4 * (actor.learning + critic.learning)
    assert whole.sft == actor.learning
    divided = sent(of_one, Processes(2, shard=True))
    scoring = 2 * (reference.stored + critic.stored + model.stored)  # 4 rows in 2 micro-batches
    training = 4 * (2 * actor.stored + actor.learning + 2 * critic.stored + critic.learning)
    assert divided.ppo == (actor.stored + scoring + training) // 2
    assert divided.sft == 2 * (2 * actor.stored + actor.learning) // 2
    assert sent(config, Processes()).ppo == 0


@pytest.mark.slow
def test_dividing_weights_is_a_remedy_of_several_processes() -> None:
    settings = ["processes=4", "lora.rank=0"]
    found = plan(load_lm_config("opt-350m", settings), gpu="3090", gpu_gb=7.0, prompt_tokens=64, response_tokens=64)
    assert found.processes == Processes(4)
    assert "shard=true" in [remedy.override for remedy in found.remedies]
    alone = plan(load_lm_config("opt-350m", settings[1:]), gpu="3090", gpu_gb=7.0, prompt_tokens=64, response_tokens=64)
    assert "shard=true" not in [remedy.override for remedy in alone.remedies]
    assert found.time.exchange > 0 == alone.time.exchange
    assert found.time.train < alone.time.train


def test_the_command_says_whose_memory_it_is(tercet: Callable[..., Result]) -> None:
    shown = tercet("plan", "--preset", "opt-350m", "--gpu", "4090", "processes=8", "shard=true")
    for words in ("each of 8 processes, with a part of the weights", "gathered weights", "whole weights", "GB/s"):
        assert words in shown.output, shown.output
