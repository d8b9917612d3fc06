"""What the benchmarks share: the settings of the work on the command line, and the line of JSON at the end.

The work itself is the package's (`tercet.lm.bench`), as is the clock (`tercet.runs.clock`).
"""

import argparse
import json
import resource
import statistics
from collections.abc import Sequence
from dataclasses import fields

from tercet.lm.bench import EOS, FIRST_WORD, Work, eos_of, make_eos_likely, most_tokens, phases, prompts, shape
from tercet.runs.clock import Moment

__all__ = [
    "EOS",
    "FIRST_WORD",
    "Moment",
    "eos_of",
    "make_eos_likely",
    "most_tokens",
    "parser",
    "phases",
    "prompts",
    "report",
    "shape",
    "work_of",
]


def parser(description: str) -> argparse.ArgumentParser:
    """The settings of the work; its functions take them as they take a `Work`."""
    usual = Work()
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--lengths", choices=["fixed", "real"], default=usual.lengths)
    found.add_argument("--batch", type=int, default=usual.batch, help="prompts a step (real lengths: 32 is the usual)")
    found.add_argument(
        "--prompt", type=int, default=usual.prompt, help="tokens of a prompt; real lengths: from 8 to twice this"
    )
    found.add_argument(
        "--response", type=int, default=usual.response, help="tokens of an answer; real lengths: at most twice this"
    )
    found.add_argument("--iters", type=int, default=usual.iters, help="measured steps")
    found.add_argument("--warmup", type=int, default=usual.warmup, help="steps in front of them")
    for name in ("threads", "layers", "hidden", "vocab"):
        found.add_argument(f"--{name}", type=int, default=getattr(usual, name))
    return found


def work_of(settings: argparse.Namespace) -> Work:
    """The settings as the package's work."""
    return Work(**{field.name: getattr(settings, field.name) for field in fields(Work)})


def report(name: str, settings: argparse.Namespace, rows: Sequence[dict[str, float]], **more: object) -> None:
    """One JSON line: the medians of the rows' figures, and what they were measured on."""
    medians = {key: round(statistics.median(row[key] for row in rows), 4) for key in rows[0]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"name": name} | medians | {"peak_rss_mb": round(peak)} | vars(settings) | more))
