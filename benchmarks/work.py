"""What the benchmarks share: the work of one PPO step on random weights, and a clock that sees who else was busy."""

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

EOS = 2
FIRST_WORD = 4  # ids below are special


@dataclass(frozen=True)
class Moment:
    """A time by the clock, and the CPU seconds that this process and all processes had used by then."""

    wall: float
    own: float
    every: float

    @classmethod
    def now(cls) -> "Moment":
        """This moment (Linux)."""
        ticks = list(map(int, Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]))
        idle = ticks[3] + ticks[4]  # idle, and waiting for a disk
        every = (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")
        return cls(time.perf_counter(), time.process_time(), every)

    def others_since(self, start: "Moment") -> float:
        """How many CPUs other processes kept busy since `start`; near 0, or the figures are worth little."""
        busy = (self.every - start.every) - (self.own - start.own)
        return max(0.0, busy / (self.wall - start.wall))


def parser(description: str) -> argparse.ArgumentParser:
    """The settings of the work."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--lengths", choices=["fixed", "real"], default="fixed")
    found.add_argument("--batch", type=int, default=8, help="prompts a step (real lengths: 32 is the usual)")
    found.add_argument("--prompt", type=int, default=64, help="tokens of a prompt; real lengths: from 8 to twice this")
    found.add_argument("--response", type=int, default=64, help="tokens of an answer; real lengths: at most twice this")
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--iters", type=int, default=3)
    found.add_argument("--layers", type=int, default=12)
    found.add_argument("--hidden", type=int, default=768)
    found.add_argument("--vocab", type=int, default=50272)
    return found


def shape(settings: argparse.Namespace) -> dict[str, str | int | float | bool]:
    """The architecture: OPT-125M's unless told otherwise (Zhang et al. 2022)."""
    return {
        "model_type": "opt",
        "vocab_size": settings.vocab,
        "hidden_size": settings.hidden,
        "word_embed_proj_dim": settings.hidden,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.hidden // 64,
        "ffn_dim": 4 * settings.hidden,
        "max_position_embeddings": 2048,
    }


def prompts(settings: argparse.Namespace, index: int) -> list[list[int]]:
    """The prompts of the index-th step."""
    chance = torch.Generator().manual_seed(index)
    lengths = [settings.prompt] * settings.batch
    if settings.lengths == "real":
        lengths = torch.randint(8, 2 * settings.prompt + 1, (settings.batch,), generator=chance).tolist()
    return [torch.randint(FIRST_WORD, settings.vocab, (n,), generator=chance).tolist() for n in lengths]


def eos_of(settings: argparse.Namespace) -> int:
    """EOS, or with fixed lengths an id that is never drawn."""
    return EOS if settings.lengths == "real" else -1


def most_tokens(settings: argparse.Namespace) -> int:
    """The longest answer."""
    return settings.response * (2 if settings.lengths == "real" else 1)


@torch.no_grad()
def make_eos_likely(model: PreTrainedModel, mean: int) -> None:
    """Let random weights end an answer after about `mean` tokens: EOS gets a logit that stands out by so much.

    The logits of random weights are nearly equal, so EOS with the probability 1/mean needs log(vocabulary / mean).
    """
    head = model.get_output_embeddings().weight
    norm = model.model.decoder.final_layer_norm
    wanted = torch.log(torch.tensor(head.shape[0] / mean))
    norm.bias.add_(wanted * head[EOS] / head[EOS].square().sum())


def report(name: str, settings: argparse.Namespace, rows: Sequence[dict[str, float]], **more: object) -> None:
    """One JSON line: the medians of the rows' figures, and what they were measured on."""
    medians = {key: round(statistics.median(row[key] for row in rows), 4) for key in rows[0]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"name": name} | medians | {"peak_rss_mb": round(peak)} | vars(settings) | more))
