"""Time a PPO step with the code of the pipeline, for OPT-125M's shape with random weights; print one JSON line.

Four roles of one size (actor, reference, critic, reward model), all weights trained, fp32, one epoch, one minibatch:

    python benchmarks/ppo_step.py --lengths fixed --batch 8 --prompt 64 --response 64 --threads 2 --iters 3
    python benchmarks/ppo_step.py --lengths real --batch 32

With --group 8, eight answers to each prompt are compared as GRPO does, and there is no critic.
"""

import argparse
from dataclasses import fields

import torch
from work import Shape, critic_shape, parser, report, shape

from tercet.config.lm import LmConfig, LoraConfig, ModelConfig
from tercet.lm.plan import bench


def work_of(settings: argparse.Namespace) -> bench.Work:
    """Return the settings as the work of the package."""
    return bench.Work(**{field.name: getattr(settings, field.name) for field in fields(bench.Work)})


def config_of(settings: argparse.Namespace, architecture: Shape) -> LmConfig:
    """Return the work as a config, for roles of one architecture."""
    return LmConfig(
        device=settings.device,
        precision=settings.precision,
        cuda_graphs=settings.graphs,
        model=ModelConfig(path="random", architecture=architecture),
        lora=LoraConfig(
            rank=settings.lora,
            shared_backbone=settings.shared_backbone,
            backbone="nf4" if settings.nf4 else "precision",
        ),
        ppo=bench.ppo_of(work_of(settings), micro_batch_size=settings.micro),
    )


def step_of(settings: argparse.Namespace) -> bench.Step:
    """Return the PPO step with its four roles."""
    actor, critic = (config_of(settings, of(settings)) for of in (shape, critic_shape))
    return bench.Step(work_of(settings), actor, actor.ppo, critics=critic)


def main() -> None:
    """Run `--warmup` steps, then measure `--iters` steps."""
    command = parser(__doc__ or "")
    command.add_argument("--gpu-gib", type=float, default=0.0, help="so much of the GPU's memory and no more; 0: all")
    settings = command.parse_args()
    torch.set_num_threads(settings.threads)
    if settings.gpu_gib and settings.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, settings.gpu_gib * 2**30 / total))
    step = step_of(settings)
    rows = [step(index) for index in range(settings.warmup + settings.iters)][settings.warmup :]
    report("tercet", settings, rows)


if __name__ == "__main__":
    main()
