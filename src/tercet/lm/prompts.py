"""The prompts on which PPO and DPO are validated."""

import torch

from tercet.config.lm import LmConfig
from tercet.lm.data.columns import columns_of_run
from tercet.lm.data.examples import Example
from tercet.lm.data.splits import flat, step_examples
from tercet.lm.text.encoder import Encoder
from tercet.train.chance import generator


def validation_prompts(encoder: Encoder, config: LmConfig) -> list[Example]:
    """Draw at most ppo.num_eval_prompts validation prompts; none if the data has none."""
    examples = step_examples(config.data, "ppo", columns_of_run(config))
    held_out = flat(encoder.within_limits(examples.validation, "validation"))
    order = torch.randperm(len(held_out), generator=generator(config.seed, "validation prompts")).tolist()
    return [held_out[i] for i in order[: config.ppo.num_eval_prompts]]
