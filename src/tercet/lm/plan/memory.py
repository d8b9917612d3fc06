"""What lies in memory during each step: the parts that stay, and what comes on top at its fullest moments.

It follows the code: `train/ppo.py` lets the critic learn before the actor and frees the gradients of each, the best
actor is kept as a copy, `lm/cpu/packed.py` copies the linear layers while a CPU samples, `lm/models/logprobs.py` makes
logits in chunks, and a backward pass gives up activations as it adds gradients.
"""

from dataclasses import dataclass

from transformers import PretrainedConfig as HfConfig

from tercet.config.lm import LmConfig
from tercet.lm.cpu.packed import MOST_ROWS
from tercet.lm.plan.cost import Sizes, cache_bytes
from tercet.lm.plan.footprint import Activations, Footprint, activations, footprint, logits_bytes
from tercet.lm.plan.shapes import shape_of
from tercet.lm.scoring import REWARD_MODEL
from tercet.train.ppo import takes_one_step

Parts = dict[str, int]  # what it is -> bytes

_CUDA = int(0.8e9)  # context, libraries and their workspaces: assumed
# of the rest, lost between blocks: by malloc as seen (docs/performance.md), by torch's allocator on a GPU as assumed
_GAPS = {"cpu": 0.1, "cuda": 0.05}


@dataclass(frozen=True)
class Memory:
    """Bytes that stay, and bytes on top of them at each moment that may be the fullest."""

    stays: Parts
    moments: dict[str, Parts]

    @property
    def fullest(self) -> str:
        """The moment of the peak."""
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))

    @property
    def peak(self) -> int:
        """Bytes at the peak."""
        return sum(self.stays.values()) + sum(self.moments[self.fullest].values())


@dataclass(frozen=True)
class Site:
    """Where it is to run: `cpu` or `cuda`, and the bytes of the process before anything is loaded."""

    device: str
    base: int

    @classmethod
    def gpu(cls) -> "Site":
        """A GPU."""
        return cls("cuda", _CUDA)


def memory_of(config: LmConfig, site: Site, sizes: Sizes, answers: Sizes) -> dict[str, Memory]:
    """The memory of each step by its name; `sizes` of PPO's rows, `answers` of the data's."""
    found = {
        "sft": _supervised(config, site, answers, is_reward=False),
        "reward": _supervised(config, site, answers, is_reward=True),
        "ppo": _ppo(config, site, sizes),
    }
    return {name: _with_gaps(memory, site) for name, memory in found.items()}


def score_shape(config: LmConfig) -> HfConfig:
    """The shape that critic and reward model start from."""
    return shape_of(config, config.reward.model)


def num_reward_models(config: LmConfig) -> int:
    """Reward models in PPO's memory; functions take none. Others than the run's own are taken to be of its size."""
    return sum(name == REWARD_MODEL or ":" not in name for name in config.ppo.reward)


def _ppo(config: LmConfig, site: Site, sizes: Sizes) -> Memory:
    ppo, shape, judge = config.ppo, shape_of(config), score_shape(config)
    layers = config.reward.num_layers
    actor = footprint(config, shape, "policy", learns=True)
    critic = footprint(config, judge, "score", num_layers=layers, learns=True)
    scored = min(ppo.micro_batch_size, ppo.batch_size)
    learned = min(scored, -(-ppo.batch_size // ppo.num_minibatches))
    frozen, shared = footprint(config, judge, "score", num_layers=layers), config.lora.shared_backbone
    actor_kept = activations(config, shape, "policy", rows=learned, length=sizes.row)
    critic_kept = activations(config, judge, "score", num_layers=layers, rows=learned, length=sizes.row)
    several = learned * ppo.num_minibatches < ppo.batch_size
    stays = {
        "libraries": site.base,
        "actor": actor.stored - actor.adapters,
        "reference": 0 if config.lora.rank else footprint(config, shape, "policy").stored,
        "critic": 0 if shared else critic.stored - critic.adapters,
        "reward model": num_reward_models(config) * (critic.adapters if shared else frozen.stored),
        "adapters": actor.adapters + critic.adapters,
        "optimizers' moments": 2 * (actor.learning + critic.learning),
        "best actor's copy": actor.learning,
        "moving average": actor.learning if ppo.ema_decay else 0,
    }
    scoring = {
        # with a graph, where these very values are learned from
        "critic's activations": critic_kept.kept if takes_one_step(ppo, ppo.batch_size) else 0,
        "one layer on the way": max(actor_kept.one_layer, critic_kept.one_layer) * scored // learned,
        "logits": logits_bytes(shape, scored * sizes.response),
    }
    logits = logits_bytes(shape, learned * sizes.response)
    chosen = {"new best actor": actor.learning} | (
        {"actor beside its average": actor.learning} if ppo.ema_decay else {}
    )
    return Memory(
        stays,
        {
            "sampling": _sampling(config, site, shape, actor, sizes),
            "scoring": scoring,
            **_learning("critic's update", critic, critic_kept, 0, several),
            **_learning("actor's update", actor, actor_kept, logits, several),
            "choice of the best actor": chosen,
        },
    )


def _supervised(config: LmConfig, site: Site, sizes: Sizes, *, is_reward: bool) -> Memory:
    """SFT or the reward model, which reads two rows a pair."""
    fit = config.reward if is_reward else config.sft
    shape, layers = (score_shape(config), config.reward.num_layers) if is_reward else (shape_of(config), 0)
    kind = "score" if is_reward else "policy"
    network = footprint(config, shape, kind, num_layers=layers, learns=True)
    rows = min(fit.micro_batch_size, fit.batch_size)
    kept = activations(config, shape, kind, num_layers=layers, rows=rows * (1 + is_reward), length=sizes.row)
    logits = 0 if is_reward else logits_bytes(shape, rows * sizes.response)
    stays = {
        "libraries": site.base,
        "weights": network.stored - network.adapters,
        "adapters": network.adapters,
        "optimizer's moments": 2 * network.learning,
    }
    return Memory(stays, _learning("update", network, kept, logits, fit.micro_batch_size < fit.batch_size))


def _learning(name: str, network: Footprint, kept: Activations, logits: int, several: bool) -> dict[str, Parts]:
    """The two ends of a backward pass: all activations, or all gradients.

    `several`: micro-batches in an optimizer step, so that from the second on both are there.
    """
    head = 4 * network.network.head if network.network.adapters == 0 else 0
    start = {"activations": kept.kept, "one layer on the way": kept.one_layer, "logits": logits}
    begun = {"gradients": network.learning if several else min(head, network.learning)}
    return {
        f"{name}, start of backward": start | begun,
        f"{name}, end of backward": {"gradients": network.learning, "head": head},
    }


def _sampling(config: LmConfig, site: Site, shape: HfConfig, actor: Footprint, sizes: Sizes) -> Parts:
    rows, number = config.ppo.batch_size, 2 if config.precision == "bf16" else 4
    cache = cache_bytes(actor.network, rows * sizes.row, number)
    packs = site.device == "cpu" and config.precision == "fp32" and rows <= MOST_ROWS
    return {
        "packed weights": actor.packed if packs else 0,
        "key-value cache": cache + cache // actor.network.num_layers,  # a layer's grows by a copy
        "logits": rows * shape.vocab_size * 4 * 4,
    }


def _with_gaps(memory: Memory, site: Site) -> Memory:
    lost = int(_GAPS[site.device] * (memory.peak - memory.stays["libraries"]))
    return Memory(memory.stays | {"gaps between blocks": lost}, memory.moments)
