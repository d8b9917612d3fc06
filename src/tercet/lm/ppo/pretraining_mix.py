"""The SFT loss that PPO may add to its own (Ouyang et al. 2022, eq. 2)."""

from collections.abc import Callable

import torch
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.lm.data.columns import columns_of_run
from tercet.lm.data.splits import flat, step_examples
from tercet.lm.imitation import SftBatches, response_loss
from tercet.lm.models.roles import Policy
from tercet.lm.text.encoder import Encoder
from tercet.train.chance import generator
from tercet.train.device import device_of
from tercet.train.parallel import own, summed


def pretraining_mix(policy: Policy, encoder: Encoder, config: LmConfig, seed: int) -> Callable[[int, int], Tensor]:
    """Return ptx_coef times the mean SFT loss of a few examples (Ouyang et al. 2022, eq. 2), or this rank's part."""
    sets = step_examples(config.data, "sft", columns_of_run(config)).train
    examples = flat(encoder.within_limits(sets, "pretraining mix"))
    batches = SftBatches(encoder, device_of(config.device), config.sft)

    def loss(index: int, minibatch: int) -> Tensor:
        chance = generator(seed, "ptx", index, minibatch)
        rows = torch.randperm(len(examples), generator=chance)[: config.sft.micro_batch_size]
        some = [examples[row] for row in rows]
        mine = batches.of(own(some, lambda example: len(example.prompt) + len(example.chosen)))
        count = summed({"tokens": sum(int(batch.response_mask.sum()) for batch in mine)})["tokens"]
        losses = [response_loss(policy, batch) for batch in mine]  # one batch, or none
        return config.ppo.ptx_coef * sum(losses, torch.zeros((), device=batches.device)) / count

    return loss
