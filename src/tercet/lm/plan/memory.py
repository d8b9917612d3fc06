"""The memory of each step: the parts that stay, and the parts that are added at the moments of highest use.

It follows the code. `train/ppo/update.py` updates the critic before the actor and frees the gradients of each. The best
actor is kept as a copy. `lm/cpu/packed.py` copies the linear layers while a CPU samples. `lm/models/logprobs.py`
computes logits in chunks. A backward pass frees activations while it adds gradients.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tercet.config.fit import FitConfig
from tercet.config.lm import LmConfig, PpoConfig
from tercet.lm.cpu.packed import MOST_ROWS
from tercet.lm.plan.cost import Sizes, cache_bytes
from tercet.lm.plan.footprint import Activations, Footprint, Kind, activations, footprint, logits_bytes
from tercet.lm.plan.processes import Processes
from tercet.lm.plan.shapes import Networks
from tercet.lm.scoring import REWARD_MODEL
from tercet.train.ppo.update import takes_one_step

Parts = dict[str, int]  # name of the part -> bytes

_CUDA = int(0.8e9)  # context, libraries and their workspaces: assumed
# fraction of the rest that is lost between blocks: measured for malloc (docs/performance.md), assumed for GPUs
_GAPS = {"cpu": 0.1, "cuda": 0.05, "mps": 0.05}


@dataclass(frozen=True)
class Memory:
    """Bytes that stay, and the bytes on top of them at each moment that may be the peak."""

    stays: Parts
    moments: dict[str, Parts]

    @property
    def fullest(self) -> str:
        """The name of the moment with the peak."""
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))

    @property
    def peak(self) -> int:
        """Bytes at the peak."""
        return sum(self.stays.values()) + sum(self.moments[self.fullest].values())


@dataclass(frozen=True)
class Site:
    """The device that the run uses (`cpu`, `cuda` or `mps`), and the bytes of the process before anything is loaded."""

    device: str
    base: int

    @classmethod
    def gpu(cls) -> "Site":
        """Return a GPU with the assumed bytes of CUDA."""
        return cls("cuda", _CUDA)


ALONE = Processes()


def memory_of(
    config: LmConfig, site: Site, sizes: Sizes, data_rows: Sizes, processes: Processes = ALONE
) -> dict[str, Memory]:
    """Return the memory of each step by its name; `sizes` are those of PPO's rows, `data_rows` those of the data's.

    With several processes it is that of one of them.
    """
    config = processes.work_of_one(config)
    networks = Networks.of(config, config.reward)
    memory_by_step = {
        "sft": _supervised(networks, "policy", config.sft, site, data_rows, processes),
        "reward": _supervised(networks, "score", config.reward, site, data_rows, processes, pairs=True),
        "ppo": _ppo(networks, config.ppo, site, sizes, processes, rounds=bool(config.reward.num_rounds)),
    }
    return {name: _with_gaps(memory, site) for name, memory in memory_by_step.items()}


def dpo_memory(config: LmConfig, site: Site, data_rows: Sizes, processes: Processes = ALONE) -> Memory:
    """Return the memory of DPO in one process: the policy on pairs, and without adapters its reference too."""
    config = processes.work_of_one(config)
    networks = Networks.of(config, config.reward)
    memory = _supervised(networks, "policy", config.dpo, site, data_rows, processes, pairs=True, is_backbone=False)
    reference = 0 if config.lora.rank else footprint(config, networks.policy, "policy").stored
    return _with_gaps(Memory(memory.stays | {"reference": processes.part(reference)}, memory.moments), site)


def num_reward_models(terms: Iterable[str]) -> int:
    """Count the reward models among the terms of ppo.reward and the judges of ppo.watch; functions take no memory.

    Every other reward model is assumed to be as large as the run's own.
    """
    return sum(name == REWARD_MODEL or ":" not in name for name in terms)


def _ppo(networks: Networks, ppo: PpoConfig, site: Site, sizes: Sizes, processes: Processes, *, rounds: bool) -> Memory:
    config, shape, judge, layers = networks.config, networks.policy, networks.score, networks.num_score_layers
    actor = footprint(config, shape, "policy", learns=True, is_backbone=True)
    critic = footprint(config, judge, "score", num_layers=layers, learns=True)
    scored = min(ppo.micro_batch_size, ppo.batch_size)
    learned = min(scored, -(-ppo.batch_size // ppo.num_minibatches))
    frozen, shared = footprint(config, judge, "score", num_layers=layers), config.lora.shared_backbone
    actor_saved = activations(config, shape, "policy", rows=learned, length=sizes.row)
    critic_saved = activations(config, judge, "score", num_layers=layers, rows=learned, length=sizes.row)
    critics = int(ppo.has_critic)
    several = learned * ppo.num_minibatches < ppo.batch_size
    roles = {
        "actor": actor.stored - actor.adapters,
        # in a round the actor without its adapters is no longer the SFT policy
        "reference": 0 if config.lora.rank and not rounds else footprint(config, shape, "policy").stored,
        "critic": 0 if shared else critics * (critic.stored - critic.adapters),
        "reward model": num_reward_models((*ppo.reward, *ppo.watch)) * (critic.adapters if shared else frozen.stored),
        "adapters": actor.adapters + critics * critic.adapters,
        "largest restored matrix": actor.restored,
        "optimizers' moments": actor.moments + critics * critic.moments,
        "best actor's copy": actor.learning,
        "moving average": actor.learning if ppo.ema_decay else 0,
    }
    stays = {"libraries": site.base} | {name: processes.part(size) for name, size in roles.items()}
    one_step = processes.num == 1 and takes_one_step(ppo, ppo.batch_size)
    scoring = _gathered(processes, actor, critic) | {
        # the values keep their graph if the only optimizer step uses them
        "critic's activations": critics * critic_saved.saved if one_step else 0,
        "one layer on the way": max(actor_saved.one_layer, critic_saved.one_layer) * scored // learned,
        "logits": logits_bytes(shape, scored * sizes.response),
    }
    logits = logits_bytes(shape, learned * sizes.response)
    copies = {"new best actor": actor.learning} | (
        {"actor beside its average": actor.learning} if ppo.ema_decay else {}
    )
    learning = actor.learning + critics * critic.learning
    saved = roles["optimizers' moments"] + learning + actor.learning * (2 if ppo.ema_decay else 1)
    return Memory(
        stays,
        {
            "sampling": _sampling(networks, ppo.batch_size, site, actor, sizes, processes),
            "scoring": scoring,
            **(_learning("critic's update", critic, critic_saved, 0, several, processes) if critics else {}),
            **_learning("actor's update", actor, actor_saved, logits, several, processes),
            "choice of the best actor": {name: processes.part(size) for name, size in copies.items()},
            **_saving(site, processes, saved),
        },
    )


def _supervised(
    networks: Networks,
    kind: Kind,
    fit: FitConfig,
    site: Site,
    sizes: Sizes,
    processes: Processes,
    *,
    pairs: bool = False,
    is_backbone: bool = True,
) -> Memory:
    """Return the memory of training a policy or a score model on single rows, or on pairs of rows."""
    is_reward, config = kind == "score", networks.config
    shape, layers = (networks.score, networks.num_score_layers) if is_reward else (networks.policy, 0)
    network = footprint(config, shape, kind, num_layers=layers, learns=True, is_backbone=is_backbone)
    rows = min(fit.micro_batch_size, fit.batch_size) * (1 + pairs)
    saved = activations(config, shape, kind, num_layers=layers, rows=rows, length=sizes.row)
    logits = 0 if is_reward else logits_bytes(shape, rows * sizes.response)
    parts = {
        "weights": network.stored - network.adapters,
        "adapters": network.adapters,
        "largest restored matrix": network.restored,
        "optimizer's moments": network.moments,
    }
    stays = {"libraries": site.base} | {name: processes.part(size) for name, size in parts.items()}
    several = fit.micro_batch_size < fit.batch_size
    moments = _learning("update", network, saved, logits, several, processes)
    return Memory(stays, moments | _saving(site, processes, network.learning + network.moments))


def _learning(
    name: str, network: Footprint, saved: Activations, logits: int, several: bool, processes: Processes
) -> dict[str, Parts]:
    """Return the memory at the two ends of a backward pass: all activations, and all gradients.

    With `several` micro-batches in an optimizer step, activations and gradients exist together from the second on.
    """
    head = 4 * network.network.head if network.network.adapters == 0 else 0
    gathered, gradients = _gathered(processes, network), processes.part(network.learning)
    start = {"activations": saved.saved, "one layer on the way": saved.one_layer, "logits": logits}
    earlier = {"gradients": gradients if several else min(head, network.learning)}
    end = {"gradients": gradients, "head": head}
    if processes.shard:  # those of the embedding and the head are divided last
        end |= {"gradients that are not divided yet": network.learning_outside + 2 * network.one_layer}
    return {
        f"{name}, start of backward": gathered | start | earlier,
        f"{name}, end of backward": gathered | end,
    }


def _gathered(processes: Processes, *networks: Footprint) -> Parts:
    """Return the weights that a pass gathers if they are divided: all outside the layers, a layer and the next one."""
    most = max(network.outside + 2 * network.one_layer for network in networks)
    return {"gathered weights": most} if processes.shard else {}


def _saving(site: Site, processes: Processes, size: int) -> dict[str, Parts]:
    """Return the moment of a checkpoint, for which rank 0 gathers what is divided, on the CPU."""
    return {"checkpoint, on rank 0": {"whole tensors": size}} if processes.shard and site.device == "cpu" else {}


def _sampling(networks: Networks, rows: int, site: Site, actor: Footprint, sizes: Sizes, processes: Processes) -> Parts:
    is_fp32 = networks.config.precision == "fp32"
    cache = cache_bytes(actor.network, rows * sizes.row, 4 if is_fp32 else 2)
    packs = site.device == "cpu" and is_fp32 and rows <= MOST_ROWS
    return {
        "whole weights": actor.sampled if processes.shard else 0,
        "packed weights": actor.packed if packs else 0,
        "key-value cache": cache + cache // actor.network.num_layers,  # one layer's cache grows by copying
        "logits": rows * networks.policy.vocab_size * 4 * 4,
    }


def _with_gaps(memory: Memory, site: Site) -> Memory:
    lost = int(_GAPS[site.device] * (memory.peak - memory.stays["libraries"]))
    return Memory(memory.stays | {"gaps between blocks": lost}, memory.moments)
