"""Measure the peak memory of a PPO step: four full models, LoRA with separate weights, and LoRA on a shared backbone.

Each variant runs the work of ppo_step.py in its own process. Prints one JSON line for each, and one with the ratios:

    python benchmarks/memory.py --lengths fixed --batch 8 --prompt 64 --response 64
"""

import json
import multiprocessing
import os
import resource
from argparse import Namespace

from work import parser

VARIANTS = {
    "full": {"lora": 0},
    "lora": {"lora": 16},
    "lora_shared": {"lora": 16, "shared_backbone": True},
}


def peak_mb() -> float:
    """Return the peak memory of this process (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(settings: Namespace, variant: str) -> dict[str, float]:
    """Return peaks in MB: of interpreter and libraries, after loading, and after the last step."""
    import torch
    from ppo_step import step_of

    torch.set_num_threads(settings.threads)
    torch.ones(64, 64, requires_grad=True).square().sum().backward()
    libraries = peak_mb()
    step = step_of(Namespace(**{**vars(settings), **VARIANTS[variant]}))
    loaded = peak_mb()
    for index in range(settings.iters):
        step(index)
    return {"libraries_mb": libraries, "loaded_mb": loaded, "peak_mb": peak_mb()}


def main() -> None:
    """Measure the variants in turn."""
    settings = parser(__doc__ or "").parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))
    found = {}
    for variant in VARIANTS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a new process, so that earlier peaks do not count
            found[variant] = pool.apply(one, (settings, variant))
        print(json.dumps({"name": variant} | {name: round(value) for name, value in found[variant].items()}))
    ratios = {}
    for variant in list(VARIANTS)[1:]:
        theirs, full = found[variant], found["full"]
        own, own_full = (peaks["peak_mb"] - peaks["libraries_mb"] for peaks in (theirs, full))
        shares = {"of_full": theirs["peak_mb"] / full["peak_mb"], "without_libraries": own / own_full}
        ratios[variant] = {name: round(share, 3) for name, share in shares.items()}
    print(json.dumps({"name": "memory", "ratios": ratios} | vars(settings)))


if __name__ == "__main__":
    main()
