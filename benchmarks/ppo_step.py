"""One PPO step by the pipeline's own code, on the shape of OPT-125M with random weights; one JSON line.

Four roles of one size (actor, reference, critic, reward model), all weights learning, fp32, one epoch, one minibatch:

    python benchmarks/ppo_step.py --lengths fixed --batch 8 --prompt 64 --response 64 --threads 2 --iters 3
    python benchmarks/ppo_step.py --lengths real --batch 32
"""

import torch
from work import parser, report, work_of

from tercet.lm.bench import Step, config_of

__all__ = ["Step", "config_of"]  # the package's; other benchmarks take them from here


def main() -> None:
    """`--warmup` steps, then `--iters` measured ones."""
    settings = parser(__doc__ or "").parse_args()
    torch.set_num_threads(settings.threads)
    step = Step(work_of(settings))
    rows = [step(index) for index in range(settings.warmup + settings.iters)][settings.warmup :]
    report("tercet", settings, rows)


if __name__ == "__main__":
    main()
