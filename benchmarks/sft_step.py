"""Time SFT steps with the code of the pipeline, for OPT-125M's shape with random weights; print one JSON line.

    python benchmarks/sft_step.py --lengths real --batch 16

Prompts of 8 to 128 tokens, answers of 4 to 128, the loss on the answers; all weights are trained in fp32.
"""

import torch
from fitting import asked_for, config_of, timed_fit

from tercet.lm.imitation import SftBatches, response_loss
from tercet.lm.models.roles import load_policy
from tercet.lm.text.encoder import Encoder
from tercet.train.device import device_of
from tercet.train.fit import LossTerms


def main() -> None:
    """Run `--warmup` steps, then measure `--iters` steps."""
    settings = asked_for(__doc__ or "")
    torch.set_num_threads(settings.threads)
    config = config_of(settings)
    policy = load_policy(config, learns=True)
    timed_fit(
        settings,
        config,
        step="sft",
        model=policy,
        batches=SftBatches(Encoder.of(config), device_of(config.device), config.sft).of,
        count=lambda batch: int(batch.response_mask.sum()),
        num_tokens=lambda batch: int(batch.lengths.sum()),
        loss=lambda batch: LossTerms(response_loss(policy, batch), {}),
    )


if __name__ == "__main__":
    main()
