"""The time of a step from the seconds of its phases: measured on shallow copies, or estimated for a GPU."""

from dataclasses import dataclass

from tercet.config.lm import LmConfig, PpoConfig
from tercet.lm.plan import cost
from tercet.lm.plan.cost import Cost, Network, Sizes
from tercet.lm.plan.footprint import footprint
from tercet.lm.plan.hardware import Card
from tercet.lm.plan.memory import num_reward_models
from tercet.lm.plan.probe import Seconds, policy_seconds, score_seconds
from tercet.lm.plan.shapes import Networks
from tercet.lm.plan.traffic import NETWORK, NOTHING, Sent
from tercet.train.device import device_of
from tercet.train.ppo.update import takes_one_step

_LAUNCH_S = 25e-6  # assumed time to launch one operator on a GPU: small operators wait for it
_OPERATORS, _OPERATORS_OF_ADAPTERS = 14, 24  # approximate number in the forward pass of a layer


@dataclass(frozen=True)
class Phases:
    """Seconds of the phases of the policy, and of critic and reward model alike; see `lm/plan/probe.py`."""

    policy: Seconds
    score: Seconds
    sizes: Sizes  # of the rows that were timed
    networks: tuple[Network, Network]  # policy, critic
    shares_prompts: bool = False  # True if a pair's prompt goes through the transformer once


@dataclass(frozen=True)
class StepTime:
    """The expected seconds of each step."""

    generate: float
    score: float
    train: float
    sft: float  # an optimizer step of SFT
    reward: float  # of the reward model
    dpo: float  # of DPO
    validation: float  # one validation of PPO
    exchange: float = 0.0  # of what processes send in a PPO step; part of `sft` and `reward` too

    @property
    def ppo(self) -> float:
        """Seconds of one rollout and update."""
        return self.generate + self.score + self.train + self.exchange

    def ppo_run(self, ppo: PpoConfig) -> float:
        """Return the seconds of all updates of step 3 with their validations."""
        times = 1 + ppo.num_updates // ppo.eval_every + bool(ppo.num_updates % ppo.eval_every)
        return ppo.num_updates * self.ppo + times * self.validation


def measured_here(networks: Networks, ppo: PpoConfig, sizes: Sizes) -> Phases:
    """Measure the phases on this machine."""
    config = networks.config
    policy = policy_seconds(config, networks.policy, ppo, sizes)
    score = score_seconds(config, networks.score, ppo, sizes, num_layers=networks.num_score_layers)
    return Phases(policy, score, sizes, _costs(networks), shares_prompts=device_of(config.device).type == "cpu")


def expected_on(card: Card, networks: Networks, ppo: PpoConfig, sizes: Sizes) -> Phases:
    """Estimate the phases from the card's rates, at an assumed fraction of them and an assumed launch time."""
    policy, critic = _costs(networks)
    rates = card.expected(networks.config.precision)
    rows = min(ppo.micro_batch_size, ppo.batch_size)
    lengths, count, again = [sizes.row] * rows, ppo.batch_size, networks.config.model.gradient_checkpointing

    def seconds(work: Cost, network: Network, passes: int) -> float:
        operators = network.num_layers * (_OPERATORS + (_OPERATORS_OF_ADAPTERS if network.adapters else 0))
        ideal = work.seconds(
            flops_per_s=rates.flops_per_s,
            bytes_per_s=rates.bytes_per_s,
            fp32_flops_per_s=card.expected("fp32").flops_per_s,
        )
        return max(ideal, operators * passes * _LAUNCH_S)

    def phases(network: Network) -> Seconds:
        return {
            "score": seconds(cost.forward(network, lengths, rows * sizes.response), network, 1),
            "learn": seconds(cost.learn(network, lengths, rows * sizes.response, recompute=again), network, 3 + again),
            "apply": seconds(cost.apply(network), network, 0),
        }

    sampling = {
        "read": seconds(cost.read_prompts(policy, [sizes.prompt] * count), policy, 1),
        "draw": seconds(cost.decode(policy, [sizes.prompt + sizes.response // 2] * count), policy, 1),
    }
    return Phases(sampling | phases(policy), phases(critic), sizes, (policy, critic))


def step_time(config: LmConfig, phases: Phases, data_rows: Sizes, sent: Sent = NOTHING) -> StepTime:
    """Return the seconds of each step; `data_rows` are the sizes of the rows of SFT and the reward model.

    What is `sent` does not overlap with computing here; in a run a part of it does.
    """
    ppo, policy, score, sizes = config.ppo, phases.policy, phases.score, phases.sizes
    micro_batches = ppo.batch_size / min(ppo.micro_batch_size, ppo.batch_size)
    generate = policy["read"] + (sizes.response - 1) * policy["draw"]
    forwards = policy["score"] * (
        1 if config.precision == "fp32" else 2
    )  # in bf16 and fp16 the old log-probabilities are recomputed
    critics = int(ppo.has_critic)
    scoring = micro_batches * (forwards + score["score"] * (critics + num_reward_models(ppo.reward)))
    watching = micro_batches * score["score"] * num_reward_models(ppo.watch)
    saved = score["score"] if takes_one_step(ppo, ppo.batch_size) else 0.0  # no second forward pass of the critic
    learning = ppo.epochs * micro_batches * (policy["learn"] + critics * (score["learn"] - saved))
    applying = ppo.epochs * ppo.num_minibatches * (policy["apply"] + critics * score["apply"])
    rows, again = min(ppo.micro_batch_size, ppo.batch_size), config.model.gradient_checkpointing
    given = {"phases": phases, "data_rows": data_rows, "rows": rows, "recompute": again}
    sft = _ratio_of_fit(config.sft.batch_size, **given, is_reward=False, pairs=False)
    reward = _ratio_of_fit(config.reward.batch_size, **given, is_reward=True, pairs=True)
    dpo = _ratio_of_fit(config.dpo.batch_size, **given, is_reward=False, pairs=True)
    num_validations = ppo.num_eval_prompts * ppo.samples_per_eval_prompt / ppo.batch_size
    return StepTime(
        generate=generate,
        score=scoring,
        train=learning + applying,
        sft=policy["learn"] * sft + policy["apply"] + sent.sft / NETWORK,
        reward=score["learn"] * reward + score["apply"] + sent.reward / NETWORK,
        # the reference reads the pairs too
        dpo=(policy["learn"] + policy["score"]) * dpo + policy["apply"] + sent.dpo / NETWORK,
        validation=num_validations * (generate + scoring + watching),
        exchange=sent.ppo / NETWORK,
    )


def _ratio_of_fit(
    batch_size: int,
    *,
    phases: Phases,
    data_rows: Sizes,
    rows: int,
    recompute: bool,
    is_reward: bool,
    pairs: bool,
) -> float:
    """Return the arithmetic of a supervised optimizer step relative to that of a PPO micro-batch of `rows` rows.

    A pair is two rows, or with shared prompts one row that has the prompt once. The reward model's head reads only the
    last tokens.
    """
    network = phases.networks[is_reward]

    def flops(lengths: list[int], num_read: int) -> int:
        return cost.learn(network, lengths, num_read, recompute=recompute).flops

    of_micro_batch = flops([phases.sizes.row] * rows, rows * phases.sizes.response)
    one = [data_rows.row]
    if pairs:
        one = [data_rows.row + data_rows.response] if phases.shares_prompts else [data_rows.row] * 2
    num_read = (1 if is_reward else data_rows.response) * (1 + pairs)
    return flops(one * batch_size, num_read * batch_size) / of_micro_batch


def _costs(networks: Networks) -> tuple[Network, Network]:
    """Return the numbers of policy and critic that their costs depend on."""
    config, layers = networks.config, networks.num_score_layers
    policy = footprint(config, networks.policy, "policy", learns=True).network
    critic = footprint(config, networks.score, "score", num_layers=layers, learns=True).network
    return policy, critic
