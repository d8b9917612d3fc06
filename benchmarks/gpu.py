"""Measure a GPU: DeepSpeed-Chat's benchmark with Tercet and with TRL, and what fits into 24 GiB.

    python benchmarks/gpu.py --peers $PEERS
    python benchmarks/gpu.py --device cpu --tiny        # a quick test with small shapes

Actor and reference have the shape of OPT-1.3B, critic and reward model that of OPT-350M, with 256 + 256 tokens, bf16
and random weights. `pairs a second` counts prompts with their answers over the whole step. `of bandwidth` is the share
of the memory-bandwidth limit that generation reaches (`floor.py`). Each row is measured in its own process; if one runs
out of memory, the table says so.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from compare import Figures, Script, ScriptFailed, run
from floor import SAMPLING, Sampled, costs_of_step, least_seconds
from ppo_step import config_of
from work import critic_shape, parser, shape

from tercet.lm.plan.hardware import Limits, measured_limits

Options = Mapping[str, object]

OPT_1_3B: Options = {"layers": 24, "hidden": 2048}
OPT_350M: Options = {"critic-layers": 24, "critic-hidden": 1024, "critic-embedding": 512}
SEVEN_B: Options = {"layers": 32, "hidden": 4096}
LENGTHS: Options = {"prompt": 256, "response": 256}
TINY: Options = {"prompt": 8, "response": 8, "vocab": 300}
TINY_ACTOR: Options = {"layers": 2, "hidden": 128}
TINY_CRITIC: Options = {"critic-layers": 2, "critic-hidden": 64, "critic-embedding": 32}


@dataclass(frozen=True)
class Case:
    """A row of the table: a script and its options."""

    name: str
    script: Script
    options: Options


def cases(asked: argparse.Namespace) -> list[Case]:
    """Return the cases in their order."""
    lengths, actor, critic, large = (
        (TINY, TINY_ACTOR, TINY_CRITIC, TINY_ACTOR) if asked.tiny else (LENGTHS, OPT_1_3B, OPT_350M, SEVEN_B)
    )
    same = {**lengths, "device": asked.device, "precision": "bf16", "iters": asked.iters, "threads": asked.threads}
    work = {**same, **actor, **critic, "batch": asked.batch, "micro": asked.micro}
    ours, trl = Script("ppo_step.py", is_peer=False), Script("peers/ppo_trl.py", old_trl=True)
    room = {**same, "batch": asked.room_batch, "micro": 1, "gpu-gib": 24}
    found = [Case("DeepSpeed-Chat's work, Tercet", ours, work)]
    if asked.peers is not None:
        found.append(Case("DeepSpeed-Chat's work, TRL 1.12", trl, work))
    return [
        *found,
        Case("24 GiB: OPT-1.3B, all weights, 350M critic", ours, {**room, **actor, **critic}),
        Case("24 GiB: 7B, LoRA on a shared backbone", ours, {**room, **large, "lora": 16, "shared-backbone": True}),
    ]


def share_of_bandwidth(case: Case, figures: Figures, limits: Limits) -> float:
    """Return the lower bound of generation divided by its time."""
    settings = parser("").parse_known_args(_words(case.options))[0]
    actor, critic = (config_of(settings, of(settings)) for of in (shape, critic_shape))
    work = Sampled([settings.prompt] * settings.batch, [settings.response] * settings.batch)
    costs = costs_of_step(actor, critic, work, vocab=settings.vocab)
    return sum(least_seconds(costs[name], limits) for name in SAMPLING) / figures["gen_s"]


def _words(options: Options) -> list[str]:
    pairs = ([f"--{key}"] if value is True else [f"--{key}", str(value)] for key, value in options.items())
    return [word for pair in pairs for word in pair]


def line(case: Case, figures: Figures, limits: Limits) -> str:
    """Return one row of the table."""
    pairs = figures["batch"] / figures["total_s"]
    seconds = [f"{figures[key]:.3g}" for key in ("gen_s", "score_s", "train_s", "total_s")]
    peak = figures.get("peak_gpu_mb", figures["peak_rss_mb"]) / 1024
    share = share_of_bandwidth(case, figures, limits)
    return "| " + " | ".join([case.name, f"{pairs:.3g}", *seconds, f"{peak:.3g}", f"{share:.0%}"]) + " |"


def asked_for(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the settings."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    command.add_argument("--tiny", action="store_true", help="small shapes and few tokens")
    command.add_argument("--peers", type=Path, default=None, help="folder with venv-trl and trl-ppo; none: ours alone")
    command.add_argument("--batch", type=int, default=32)
    command.add_argument("--micro", type=int, default=8)
    command.add_argument("--room-batch", type=int, default=4, help="prompts a step inside 24 GiB")
    command.add_argument("--iters", type=int, default=3)
    command.add_argument("--threads", type=int, default=2)
    asked = command.parse_args(words)
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU that torch sees; --device cpu --tiny runs the same code on small shapes")
    return asked


def main() -> None:
    """Print the machine, then run every case."""
    asked = asked_for()
    limits = measured_limits(torch.device(asked.device), torch.bfloat16)
    if asked.device == "cuda":
        torch.cuda.empty_cache()
    card = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU"
    print(f"{card}: {limits.flops_per_s / 1e12:.3g} TFLOP/s in bf16, {limits.bytes_per_s / 1e9:.4g} GB/s\n")
    print("| work | pairs a second | generate | score | train | whole, seconds | peak GiB | of bandwidth |")
    print("|" + "---|" * 8)
    found = {}
    for case in cases(asked):
        try:
            found[case.name] = run(case.script, _words(case.options), asked.peers)
        except ScriptFailed as error:
            reason = "out of memory" if "OutOfMemoryError" in str(error) else "failed"
            print(f"| {case.name} | {reason}" + " |" * 7, flush=True)
            print(error, file=sys.stderr)
        else:
            print(line(case, found[case.name], limits), flush=True)
    print(json.dumps({"name": "gpu", "card": card, "machine": vars(limits), "cases": found}))


if __name__ == "__main__":
    main()
