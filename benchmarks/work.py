"""Shared by the benchmarks: the work of a PPO step on random weights, and a clock that measures other load."""

import argparse
import hashlib
import json
import os
import resource
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

EOS = 2
FIRST_WORD = 4  # ids below are special


@dataclass(frozen=True)
class Moment:
    """A time, and the CPU seconds that this process and all processes have used until then."""

    wall: float
    own: float
    every: float

    @classmethod
    def now(cls) -> "Moment":
        """Return the current moment (Linux), after the work of a GPU has ended."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        ticks = list(map(int, Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]))
        idle = ticks[3] + ticks[4]  # idle, and waiting for a disk
        every = (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")
        return cls(time.perf_counter(), time.process_time(), every)

    def others_since(self, start: "Moment") -> float:
        """Return how many CPUs other processes used since `start`; it must be near 0 for reliable timings."""
        busy = (self.every - start.every) - (self.own - start.own)
        return max(0.0, busy / (self.wall - start.wall))


def parser(description: str) -> argparse.ArgumentParser:
    """Return the settings of the work."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--lengths", choices=["fixed", "real"], default="fixed")
    found.add_argument("--batch", type=int, default=8, help="answers a step (real lengths: 32 is the usual)")
    found.add_argument("--group", type=int, default=1, help="answers to a prompt; more than 1: GRPO, without a critic")
    found.add_argument("--prompt", type=int, default=64, help="tokens of a prompt; real lengths: from 8 to twice this")
    found.add_argument("--response", type=int, default=64, help="tokens of an answer; real lengths: at most twice this")
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--iters", type=int, default=3, help="measured steps")
    found.add_argument("--warmup", type=int, default=1, help="steps in front of them")
    found.add_argument("--layers", type=int, default=12)
    found.add_argument("--hidden", type=int, default=768)
    found.add_argument("--vocab", type=int, default=50272)
    found.add_argument("--critic-layers", type=int, default=0, help="of critic and reward model; 0: as the actor")
    found.add_argument("--critic-hidden", type=int, default=0)
    found.add_argument("--critic-embedding", type=int, default=0, help="narrower embedding, as OPT-350M's")
    found.add_argument("--micro", type=int, default=8, help="rows in one forward and backward")
    found.add_argument("--lora", type=int, default=0, help="rank of adapters; 0: all weights learn (ours alone)")
    found.add_argument("--shared-backbone", action="store_true", help="one set of weights under all roles (ours alone)")
    found.add_argument("--graphs", action="store_true", help="replay sampling steps as CUDA graphs (ours alone)")
    found.add_argument("--nf4", action="store_true", help="these weights in 4 bits (ours alone)")
    found.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    found.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    return found


Shape = dict[str, str | int | float | bool]


def shape(settings: argparse.Namespace) -> Shape:
    """Return the architecture of actor and reference, by default OPT-125M (Zhang et al. 2022, table 1)."""
    return _opt(settings.layers, settings.hidden, settings.vocab)


def critic_shape(settings: argparse.Namespace) -> Shape:
    """Return the architecture of critic and reward model, by default the actor's."""
    found = _opt(settings.critic_layers or settings.layers, settings.critic_hidden or settings.hidden, settings.vocab)
    if settings.critic_embedding:  # only OPT-350M has a narrower embedding and normalises after its layers
        found |= {"word_embed_proj_dim": settings.critic_embedding, "do_layer_norm_before": False}
    return found


def _opt(layers: int, hidden: int, vocab: int) -> Shape:
    return {
        "model_type": "opt",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "word_embed_proj_dim": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": min(hidden // 64, 32),
        "ffn_dim": 4 * hidden,
        "max_position_embeddings": 2048,
    }


def prompts(settings: argparse.Namespace, index: int) -> list[list[int]]:
    """Return the prompts of step `index`, each repeated for its group."""
    chance, num = torch.Generator().manual_seed(index), settings.batch // settings.group
    lengths = [settings.prompt] * num
    if settings.lengths == "real":
        lengths = torch.randint(8, 2 * settings.prompt + 1, (num,), generator=chance).tolist()
    drawn = [torch.randint(FIRST_WORD, settings.vocab, (n,), generator=chance).tolist() for n in lengths]
    return [prompt for prompt in drawn for _ in range(settings.group)]


@dataclass(frozen=True)
class Lesson:
    """The number of tokens of prompt, better and worse answer of one example, including EOS."""

    prompt: int
    chosen: int
    rejected: int


def lessons(settings: argparse.Namespace) -> list[Lesson]:
    """Return the examples of all steps of a supervised run; with real lengths, answers have at least 4 tokens."""
    num, most = settings.batch * (settings.warmup + settings.iters), most_tokens(settings)
    if settings.lengths == "fixed":
        return [Lesson(settings.prompt, most, most)] * num
    chance = torch.Generator().manual_seed(0)
    asked = torch.randint(8, 2 * settings.prompt + 1, (num,), generator=chance).tolist()
    answers = torch.empty(num, 2).geometric_(1 / settings.response, generator=chance).clamp(4, most).int().tolist()
    return [Lesson(prompt, *pair) for prompt, pair in zip(asked, answers, strict=True)]


def eos_of(settings: argparse.Namespace) -> int:
    """Return EOS, or with fixed lengths an id that is never sampled."""
    return EOS if settings.lengths == "real" else -1


def most_tokens(settings: argparse.Namespace) -> int:
    """Return the maximum response length."""
    return settings.response * (2 if settings.lengths == "real" else 1)


@torch.no_grad()
def make_eos_likely(model: PreTrainedModel, mean: int) -> None:
    """Let random weights end an answer after about `mean` tokens, by raising the logit of EOS.

    The logits of random weights are nearly equal, so EOS with the probability 1/mean needs log(vocabulary / mean).
    """
    head = model.get_output_embeddings().weight
    norm = model.model.decoder.final_layer_norm
    wanted = torch.log(torch.tensor(head.shape[0] / mean))
    norm.bias.add_(wanted * head[EOS] / head[EOS].square().sum())


def phases(
    moments: tuple[Moment, Moment, Moment, Moment], *, num_drawn: int, num_prompt_tokens: int
) -> dict[str, float]:
    """Return the figures of one PPO step from its start and the ends of sampling, scoring and training."""
    start, generated, scored, end = moments
    num_tokens = num_drawn + num_prompt_tokens
    return {
        "gen_s": generated.wall - start.wall,
        "score_s": scored.wall - generated.wall,
        "train_s": end.wall - scored.wall,
        "total_s": end.wall - start.wall,
        "total_cpu_s": end.own - start.own,
        "tokens_per_s": num_tokens / (end.wall - start.wall),
        "gen_tokens_per_s": num_drawn / (generated.wall - start.wall),
        "num_tokens": num_tokens,
        "num_drawn": num_drawn,
        "other_cpus": end.others_since(start),
    }


def step_row(start: Moment, end: Moment, num_tokens: int) -> dict[str, float]:
    """Return the figures of one supervised step."""
    return {
        "total_s": end.wall - start.wall,
        "total_cpu_s": end.own - start.own,
        "tokens_per_s": num_tokens / (end.wall - start.wall),
        "num_tokens": num_tokens,
        "other_cpus": end.others_since(start),
    }


def whole_run(
    name: str,
    moments: tuple[Moment, Moment, Moment],
    *,
    margins: list[float],
    trained_weights: int,
    rows: Iterable[Sequence[int]],
) -> dict[str, object]:
    """Return the figures of a reward model from its start and the ends of training and of scoring held-out pairs.

    `rows` are the token ids that the model read; their digest, in any order, shows whether two programs read the same.
    """
    start, trained, end = moments
    return {
        "name": name,
        "margin": statistics.fmean(margins),
        "train_seconds": trained.wall - start.wall,
        "seconds": end.wall - start.wall,
        "cpu_seconds": end.own - start.own,
        "other_cpus": end.others_since(start),
        "peak_rss_mb": peak_rss_mb(),
        "trained_weights": trained_weights,
        "ids": hashlib.sha256(json.dumps(sorted(set(map(tuple, rows)))).encode()).hexdigest()[:16],
        "margins": margins,
    }


def peak_rss_mb() -> int:
    """Return the peak memory of this process."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def report(name: str, settings: argparse.Namespace, rows: Sequence[dict[str, float]], **more: object) -> None:
    """Print one JSON line with the medians of the figures, and the machine.

    Tokens per second are computed over all rows, because the number of tokens per step is random.
    """
    figures: dict[str, object] = {key: round(statistics.median(row[key] for row in rows), 4) for key in rows[0]}
    if "tokens_per_s" in figures:
        tokens, seconds, cpu = (sum(row[key] for row in rows) for key in ("num_tokens", "total_s", "total_cpu_s"))
        figures |= {"tokens_per_s": round(tokens / seconds, 2), "tokens_per_cpu_s": round(tokens / cpu, 2)}
        figures["totals"] = [round(row["total_s"], 3) for row in rows]
    figures["peak_rss_mb"] = peak_rss_mb()
    if settings.device == "cuda":
        figures["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    print(json.dumps({"name": name} | figures | vars(settings) | more))
