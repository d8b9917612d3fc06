"""How long a step takes, from the seconds of its phases: measured here on shallow copies, or a card's by arithmetic."""

from dataclasses import dataclass

from transformers import PretrainedConfig as HfConfig

from tercet.config.fit import FitConfig
from tercet.config.lm import LmConfig
from tercet.lm.models.roles import device_of
from tercet.lm.plan import cost
from tercet.lm.plan.cost import Cost, Network, Sizes
from tercet.lm.plan.footprint import footprint
from tercet.lm.plan.hardware import Card
from tercet.lm.plan.memory import num_reward_models, score_shape
from tercet.lm.plan.probe import Seconds, policy_seconds, score_seconds
from tercet.lm.plan.shapes import shape_of
from tercet.train.ppo import takes_one_step

# of one operator that Python launches on a GPU: assumed. Small work waits for it
_LAUNCH_S = 25e-6
_OPERATORS, _OPERATORS_OF_ADAPTERS = 14, 24  # of a layer's forward pass, about


@dataclass(frozen=True)
class Phases:
    """Seconds of the policy's phases and of the critic's, which the reward model shares; see `lm/plan/probe.py`."""

    policy: Seconds
    score: Seconds
    sizes: Sizes  # of the rows that they hold for
    networks: tuple[Network, Network]
    shares_prompts: bool = False  # whether the prompt under two answers goes through the transformer once


@dataclass(frozen=True)
class StepTime:
    """Expected seconds."""

    generate: float
    score: float
    train: float
    sft: float  # an optimizer step of SFT
    reward: float  # of the reward model
    validation: float  # PPO's choice of the best actor, once

    @property
    def ppo(self) -> float:
        """One rollout and update."""
        return self.generate + self.score + self.train

    def ppo_run(self, config: LmConfig) -> float:
        """All updates of step 3 with their validations."""
        ppo = config.ppo
        times = 1 + ppo.num_updates // ppo.eval_every + bool(ppo.num_updates % ppo.eval_every)
        return ppo.num_updates * self.ppo + times * self.validation


def measured_here(config: LmConfig, sizes: Sizes) -> Phases:
    """The phases as this machine does them."""
    shape, judge, layers = shape_of(config), score_shape(config), config.reward.num_layers
    policy = policy_seconds(config, shape, sizes)
    score, networks = score_seconds(config, judge, sizes, num_layers=layers), _networks(config, shape, judge)
    return Phases(policy, score, sizes, networks, shares_prompts=device_of(config).type == "cpu")


def expected_on(card: Card, config: LmConfig, sizes: Sizes) -> Phases:
    """The phases by arithmetic, at an assumed share of the card's rates and an assumed price of a launch."""
    policy, critic = _networks(config, shape_of(config), score_shape(config))
    rates = card.expected(config.precision)
    rows = min(config.ppo.micro_batch_size, config.ppo.batch_size)
    lengths, count, again = [sizes.row] * rows, config.ppo.batch_size, config.model.gradient_checkpointing

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


def step_time(config: LmConfig, phases: Phases, answers: Sizes) -> StepTime:
    """The seconds of each step; `answers` are the sizes of SFT's and the reward model's rows."""
    ppo, policy, score, sizes = config.ppo, phases.policy, phases.score, phases.sizes
    micro_batches = ppo.batch_size / min(ppo.micro_batch_size, ppo.batch_size)
    generate = policy["read"] + (sizes.response - 1) * policy["draw"]
    forwards = policy["score"] * (2 if config.precision == "bf16" else 1)  # the old policy's, computed again in bf16
    scoring = micro_batches * (forwards + score["score"] * (1 + num_reward_models(config)))
    spared = score["score"] if takes_one_step(ppo, ppo.batch_size) else 0.0  # the critic's second forward
    learning = ppo.epochs * micro_batches * (policy["learn"] + score["learn"] - spared)
    applying = ppo.epochs * ppo.num_minibatches * (policy["apply"] + score["apply"])
    num_validations = ppo.num_eval_prompts / ppo.batch_size
    return StepTime(
        generate=generate,
        score=scoring,
        train=learning + applying,
        sft=_fit_seconds(config, phases, config.sft, answers, is_reward=False),
        reward=_fit_seconds(config, phases, config.reward, answers, is_reward=True),
        validation=num_validations * (generate + scoring),
    )


def _fit_seconds(config: LmConfig, phases: Phases, fit: FitConfig, answers: Sizes, *, is_reward: bool) -> float:
    """An optimizer step of a supervised step, in proportion to the arithmetic of a PPO micro-batch's.

    The reward model reads pairs: two rows each, or, where it is taken to share prompts, one in which the prompt stands
    once; of answers the ends alone.
    """
    network, seconds = (phases.networks[1], phases.score) if is_reward else (phases.networks[0], phases.policy)
    rows, again = min(config.ppo.micro_batch_size, config.ppo.batch_size), config.model.gradient_checkpointing

    def flops(lengths: list[int], num_read: int) -> int:
        return cost.learn(network, lengths, num_read, recompute=again).flops

    of_micro_batch = flops([phases.sizes.row] * rows, rows * phases.sizes.response)
    if is_reward:
        pair = [answers.row + answers.response] if phases.shares_prompts else [answers.row] * 2
        of_step = flops(pair * fit.batch_size, 2 * fit.batch_size)
    else:
        of_step = flops([answers.row] * fit.batch_size, answers.response * fit.batch_size)
    ratio = of_step / of_micro_batch
    return seconds["learn"] * ratio + seconds["apply"]


def _networks(config: LmConfig, shape: HfConfig, judge: HfConfig) -> tuple[Network, Network]:
    policy = footprint(config, shape, "policy", learns=True).network
    critic = footprint(config, judge, "score", num_layers=config.reward.num_layers, learns=True).network
    return policy, critic
