"""The bytes that the processes of a run send to one another."""

from dataclasses import dataclass
from math import ceil

from tercet.config.fit import FitConfig
from tercet.config.lm import LmConfig
from tercet.lm.plan.footprint import Footprint, footprint
from tercet.lm.plan.memory import num_reward_models
from tercet.lm.plan.processes import Processes
from tercet.lm.plan.shapes import Networks

NETWORK = (
    50e9  # bytes a second that a GPU sends, assumed: 400 Gbit/s between machines; within one it is several times this
)


@dataclass(frozen=True)
class Sent:
    """The bytes that each process sends: in a PPO step, and in an optimizer step of SFT, the reward model and DPO."""

    ppo: int
    sft: int
    reward: int
    dpo: int


NOTHING = Sent(0, 0, 0, 0)


def sent(config: LmConfig, processes: Processes) -> Sent:
    """Count the bytes that each process sends; `config` has the batches of one (`Processes.work_of_one`).

    Whole weights: gradients are added up, which sends 2 (n - 1) / n of their bytes. Divided weights: each pass gathers
    them, a backward pass once more, and its gradients are divided again; each of these sends (n - 1) / n of the bytes.
    """
    networks, ppo = Networks.of(config, config.reward), config.ppo
    layers = networks.num_score_layers
    actor = footprint(config, networks.policy, "policy", learns=True)
    critic = footprint(config, networks.score, "score", num_layers=layers, learns=True)
    frozen = footprint(config, networks.score, "score", num_layers=layers)
    reference = actor if config.lora.rank else footprint(config, networks.policy, "policy")
    steps = ppo.epochs * ppo.num_minibatches
    scored = ceil(ppo.batch_size / ppo.micro_batch_size)
    learned = steps * ceil(ppo.batch_size / ppo.num_minibatches / ppo.micro_batch_size)
    critics = int(ppo.has_critic)

    def learning(network: Footprint, passes: int, num_steps: int) -> int:
        if processes.shard:
            return passes * (2 * network.stored + network.learning)
        return 2 * num_steps * network.learning

    def per_process(num_bytes: int) -> int:
        return num_bytes * (processes.num - 1) // processes.num

    def fitting(network: Footprint, fit: FitConfig) -> int:
        return per_process(learning(network, ceil(fit.batch_size / fit.micro_batch_size), 1))

    in_ppo = learning(actor, learned, steps) + critics * learning(critic, learned, steps)
    if processes.shard:
        again = actor.stored if config.precision != "fp32" else 0  # old log-probabilities are recomputed
        models = critics * critic.stored + num_reward_models(ppo.reward) * frozen.stored
        in_ppo += actor.sampled + scored * (reference.stored + again + models)
    dpo_batches = ceil(config.dpo.batch_size / config.dpo.micro_batch_size)
    read = per_process(dpo_batches * reference.stored) if processes.shard else 0  # the reference reads the pairs too
    of_dpo = fitting(actor, config.dpo) + read
    return Sent(per_process(in_ppo), fitting(actor, config.sft), fitting(critic, config.reward), of_dpo)
