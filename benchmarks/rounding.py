"""Measure the error of storing an SFT model in bf16: rounded to nearest, and stochastically as in bf16 runs with LoRA.

If bitsandbytes is installed, a third row has the error of 4 bits, as with `lora.backbone=nf4`.

Compares log-probabilities of held-out answers, computed in fp32; prints a JSON line for each way of rounding:

    python benchmarks/rounding.py runs/bf16/sft/model
"""

import argparse
import json
from importlib.util import find_spec

import torch
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.lm.data.splits import flat, step_examples
from tercet.lm.imitation import SftBatches
from tercet.lm.models.adapters import freeze, round_stochastically
from tercet.lm.models.four_bits import quantise
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.text.encoder import Encoder
from tercet.train.device import device_of


def figures(config: LmConfig, path: str, num: int) -> dict[str, dict[str, float]]:
    """Return the negative log-likelihood per token, and the KL per token from the saved model."""
    encoder = Encoder.of(config).with_tokenizer_at(path, config)
    held_out = flat(encoder.within_limits(step_examples(config.data, "sft").held_out, "held out"))[:num]
    batches = SftBatches(encoder, device_of(config.device), config.sft).of(held_out)
    policies = {name: load_policy(config, path=path) for name in ("as saved", "nearest", "by chance")}
    round_stochastically(policies["by chance"].model, config.seed)
    for name in ("nearest", "by chance"):
        freeze(policies[name].model, "bf16")
        policies[name].model.float()
    if find_spec("bitsandbytes"):
        policies["4 bits"] = load_policy(config, path=path)
        quantise(policies["4 bits"].model, device_of(config.device), torch.float32)
    sums = {name: torch.zeros(2) for name in policies}
    for batch in batches:
        rows, _, positions = batch.actions()
        tokens = batch.ids[rows, positions, None]
        saved = distributions(policies["as saved"], batch)
        for name, policy in policies.items():
            found = distributions(policy, batch)
            sums[name] += torch.stack([-found.gather(1, tokens).sum(), (saved.exp() * (saved - found)).sum()])
    count = sum(int(batch.response_mask.sum()) for batch in batches)
    return {name: {"nll": float(nll) / count, "kl": float(kl) / count} for name, (nll, kl) in sums.items()}


@torch.no_grad()
def distributions(policy: Policy, batch) -> Tensor:
    """Return the log-probabilities of the whole vocabulary at each token of the answers."""
    rows, _, positions = batch.actions()
    return policy.head(policy.hidden(batch, batch.deciding)[rows, positions - 1]).log_softmax(-1)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("model", help="folder of a model")
    arguments.add_argument("--preset", default="smollm2")
    arguments.add_argument("--num", type=int, default=64, help="held-out answers")
    given = arguments.parse_args()
    for name, row in figures(load_lm_config(given.preset, []), given.model, given.num).items():
        print(json.dumps({"weights": name, **row}))
