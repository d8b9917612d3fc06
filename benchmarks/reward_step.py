"""Time steps of the reward model with the code of the pipeline, for OPT-125M's shape with random weights; print JSON.

    python benchmarks/reward_step.py --lengths real --batch 16

`--batch` counts pairs: a prompt of 8 to 128 tokens and two answers of 4 to 128; all weights are trained in fp32.
"""

import torch
from fitting import asked_for, config_of, timed_fit

from tercet.lm.models.roles import load_score_model
from tercet.lm.pair_batches import PairBatches
from tercet.lm.reward import pair_loss
from tercet.lm.text.encoder import Encoder
from tercet.train.device import device_of


def main() -> None:
    """Run `--warmup` steps, then measure `--iters` steps."""
    settings = asked_for(__doc__ or "")
    torch.set_num_threads(settings.threads)
    config = config_of(settings)
    model = load_score_model(config, learns=True)
    timed_fit(
        settings,
        config,
        step="reward",
        model=model,
        batches=PairBatches(Encoder.of(config), device_of(config.device), config.reward.micro_batch_size).of,
        count=lambda pairs: pairs.num,
        num_tokens=lambda pairs: int(pairs.batch.lengths.sum()),
        loss=lambda pairs: pair_loss(model, pairs, config.reward.loss),
    )


if __name__ == "__main__":
    main()
