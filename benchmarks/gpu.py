"""Measure a GPU in ten minutes: whether everything runs on it, DeepSpeed-Chat's benchmark, and what fits into 24 GiB.

    python benchmarks/gpu.py --peers $PEERS --out gpu.jsonl
    python benchmarks/gpu.py --device cpu --tiny        # a quick test with small shapes

The rows that matter most come first. Each is a process of its own, and is printed and appended to `--out` when it ends,
so that nothing is lost if the machine goes. A row that runs out of memory or of time says so. `--minutes` is the time
for all rows together; those that are left then are listed as not measured.

In the benchmark, actor and reference have the shape of OPT-1.3B, critic and reward model that of OPT-350M, with
256 + 256 tokens, bf16 and random weights. `pairs a second` counts prompts with their answers over the whole step. `of
bandwidth` is the share of the memory-bandwidth limit that generation reaches (`floor.py`).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from compare import HERE, Figures, Script, ScriptFailed, run
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
    """A row of the table: a script and its options, and the most minutes that it gets."""

    name: str
    script: Script
    options: Options
    minutes: float = 2.0


@dataclass(frozen=True)
class Check:
    """A command that must succeed on this device; its row has its seconds."""

    name: str
    words: Sequence[str]
    minutes: float


def rows(asked: argparse.Namespace) -> list[Case | Check]:
    """Return the rows, the most important ones first."""
    lengths, actor, critic, large = (
        (TINY, TINY_ACTOR, TINY_CRITIC, TINY_ACTOR) if asked.tiny else (LENGTHS, OPT_1_3B, OPT_350M, SEVEN_B)
    )
    same = {**lengths, "device": asked.device, "precision": "bf16", "iters": asked.iters, "threads": asked.threads}
    work = {**same, **actor, **critic, "batch": asked.batch, "micro": asked.micro}
    ours, trl = Script("ppo_step.py", is_peer=False), Script("peers/ppo_trl.py", old_trl=True)
    room = {**same, "batch": asked.room_batch, "micro": 1, "gpu-gib": 24}
    python, runs = [sys.executable, "-m"], tempfile.mkdtemp(prefix="tercet-gpu-")

    def whole(preset: str, minutes: float) -> Check:
        words = ["tercet", "lm", "run", "--preset", preset, "--out", f"{runs}/{preset}", f"device={asked.device}"]
        return Check(f"tercet lm run --preset {preset}", [*python, *words], minutes)

    found: list[Case | Check] = [
        whole("tiny", 1.5),
        Case("DeepSpeed-Chat's work, Tercet", ours, work),
        Case("24 GiB: OPT-1.3B, all weights, 350M critic", ours, {**room, **actor, **critic}),
        Case("24 GiB: 7B, LoRA on a shared backbone", ours, {**room, **large, "lora": 16, "shared-backbone": True}),
    ]
    if asked.device == "cuda":
        found.insert(2, Case("DeepSpeed-Chat's work, CUDA graphs", ours, {**work, "graphs": True}))
    if asked.device == "cuda" or find_spec("bitsandbytes"):
        four = {**room, **large, "lora": 16, "shared-backbone": True, "nf4": True}
        found.append(Case("24 GiB: 7B, LoRA on a shared backbone in 4 bits", ours, four))
    if asked.peers is not None:
        found.insert(2, Case("DeepSpeed-Chat's work, TRL 1.12", trl, work))
    if asked.tiny:
        return found
    tests = Check("pytest -m gpu", [*python, "pytest", "-q", "-m", "gpu", str(HERE.parent / "tests")], 2.0)
    return [*found[:2], tests, *found[2:], whole("smollm2", 10.0)]


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
    command.add_argument("--minutes", type=float, default=10.0, help="for all rows together")
    command.add_argument("--out", type=Path, default=None, help="file to which each row is appended as JSON")
    asked = command.parse_args(words)
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU that torch sees; --device cpu --tiny runs the same code on small shapes")
    return asked


def measured(row: Case | Check, seconds: float, peers: Path | None) -> Figures:
    """Return the figures of a row; ScriptFailed if it fails or takes longer."""
    if isinstance(row, Case):
        return run(row.script, _words(row.options), peers, seconds=seconds)
    start = time.monotonic()
    try:
        done = subprocess.run(row.words, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise ScriptFailed(f"{row.name}: stopped after {seconds:.0f} s") from error
    if done.returncode not in (0, 5):  # 5: pytest has found no test
        raise ScriptFailed(f"{row.name}\n{(done.stdout + done.stderr)[-2000:]}")
    return {"total_s": time.monotonic() - start}


def reason(error: ScriptFailed) -> str:
    """Return why a row has no figures."""
    text = str(error)
    return "out of memory" if "OutOfMemoryError" in text else "out of time" if "stopped after" in text else "failed"


def main() -> None:
    """Print the machine, then measure and print row after row."""
    asked = asked_for()
    deadline = time.monotonic() + 60 * asked.minutes
    limits = measured_limits(torch.device(asked.device), torch.bfloat16)
    if asked.device == "cuda":
        torch.cuda.empty_cache()
    card = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU"
    print(f"{card}: {limits.flops_per_s / 1e12:.3g} TFLOP/s in bf16, {limits.bytes_per_s / 1e9:.4g} GB/s\n")
    print("| work | pairs a second | generate | score | train | whole, seconds | peak GiB | of bandwidth |")
    print("|" + "---|" * 8, flush=True)
    found: dict[str, Figures | str] = {}
    for row in rows(asked):
        seconds = min(60 * row.minutes, deadline - time.monotonic())
        try:
            if seconds < 1:
                raise ScriptFailed(f"{row.name}: stopped after 0 s")
            found[row.name] = figures = measured(row, seconds, asked.peers)
        except ScriptFailed as error:
            found[row.name] = reason(error)
            print(f"| {row.name} | {reason(error)}" + " |" * 7, flush=True)
            print(error, file=sys.stderr, flush=True)
        else:
            text = line(row, figures, limits) if isinstance(row, Case) else _line_of_check(row, figures)
            print(text, flush=True)
        if asked.out is not None:
            with asked.out.open("a", encoding="utf-8") as file:
                print(json.dumps({"card": card, "row": row.name, "found": found[row.name]}), file=file)
    print(json.dumps({"name": "gpu", "card": card, "machine": vars(limits), "cases": found}))


def _line_of_check(row: Check, figures: Figures) -> str:
    return f"| {row.name} | | | | | {figures['total_s']:.3g} | | |"


if __name__ == "__main__":
    main()
