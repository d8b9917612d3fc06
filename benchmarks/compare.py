"""Run Tercet and its peers alternately, each in its own process; print medians and ratios as a table and as JSON.

    python benchmarks/compare.py --what ppo --lengths real --batch 32 --peers $PEERS
    python benchmarks/compare.py --what grpo --lengths real --batch 32 --group 8 --peers $PEERS
    python benchmarks/compare.py --what sft --pairs 3 --peers $PEERS

Options that are not listed (--batch, --iters, --threads, ...) are passed to every script. Ratios are Tercet's figure
divided by the peer's. docs/performance.md explains how to set up the folder of the peers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
Figures = dict[str, float]


@dataclass(frozen=True)
class Script:
    """A script of this folder with its options, run by the peers' Python or by this one."""

    path: str
    options: Sequence[str] = ()
    is_peer: bool = True
    old_trl: bool = False


OURS = {"ppo": "ppo_step.py", "grpo": "ppo_step.py", "sft": "sft_step.py", "reward": "reward_step.py"}
PEERS: dict[str, dict[str, Script]] = {
    "ppo": {
        "trl": Script("peers/ppo_trl.py", old_trl=True),
        "plain": Script("peers/ppo_plain.py"),
        "lean": Script("peers/ppo_plain.py", ["--lean"]),
    },
    "grpo": {"trl": Script("peers/grpo_trl.py")},
    "sft": {"trl": Script("peers/sft_rm_trl.py", ["--what", "sft"])},
    "reward": {"trl": Script("peers/sft_rm_trl.py", ["--what", "reward"])},
}


class ScriptFailed(Exception):
    """A script ended with an error; the message has its command and the end of its output."""


def run(script: Script, options: Sequence[str], peers: Path | None, *, seconds: float | None = None) -> Figures:
    """Return the figures that the script prints; raise ScriptFailed if it prints none, or takes longer."""
    python, found = sys.executable, [str(HERE.parent / "src")]
    if script.is_peer:
        assert peers is not None
        python = str(peers / "venv-trl" / "bin" / "python")
        found = [str(HERE), *[str(peers / "trl-ppo")] * script.old_trl]
    command = [python, str(HERE / script.path), *script.options, *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(found), "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise ScriptFailed(f"{' '.join(command)}: stopped after {seconds:.0f} s") from error
    if done.returncode:
        raise ScriptFailed(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ratios(ours: Sequence[Figures], theirs: Sequence[Figures]) -> Figures:
    """Return the median ratios over the pairs, Tercet divided by the peer.

    With sampled lengths the number of tokens per step is random, so seconds per token is the fair ratio. Seconds per
    step is given too, because the time of a peer that pads to the longest row hardly depends on the other rows.
    """

    def median(of: Callable[[Figures], float]) -> float:
        return round(statistics.median(of(own) / of(peer) for own, peer in zip(ours, theirs, strict=True)), 3)

    return {
        "seconds a token": median(lambda one: 1 / one["tokens_per_s"]),
        "CPU seconds a token": median(lambda one: 1 / one["tokens_per_cpu_s"]),
        "seconds a step": median(lambda one: one["total_s"]),
        "memory": median(lambda one: one["peak_rss_mb"]),
    }


def table(runs: Mapping[str, Sequence[Figures]], found: Mapping[str, Figures]) -> str:
    """Return a Markdown table with a row for each program."""
    parts = [key for key in ("gen_s", "score_s", "train_s", "total_s") if key in runs["ours"][0]]
    columns = ["tokens_per_s", "tokens_per_cpu_s", "peak_rss_mb", "num_tokens", "other_cpus"]
    names = ["", *parts, *columns, *(f"ours / its: {key}" for key in next(iter(found.values())))]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for who, rows in runs.items():
        medians = [f"{statistics.median(row[key] for row in rows):.4g}" for key in [*parts, *columns]]
        own = (
            [f"{value:.2f}" for value in found[who].values()]
            if who in found
            else [""] * len(next(iter(found.values())))
        )
        lines.append("| " + " | ".join([who, *medians, *own]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run Tercet and a peer in turn, `--pairs` times for each peer."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--what", choices=list(PEERS), required=True)
    command.add_argument("--peers", type=Path, required=True, help="folder that holds venv-trl and trl-ppo")
    command.add_argument("--only", help="one of the peers: " + ", ".join(PEERS["ppo"]))
    command.add_argument("--pairs", type=int, default=3)
    settings, options = command.parse_known_args()
    ours = Script(OURS[settings.what], is_peer=False)
    peers = {name: peer for name, peer in PEERS[settings.what].items() if settings.only in (None, name)}
    runs: dict[str, list[Figures]] = {name: [] for name in ["ours", *peers]}
    found: dict[str, Figures] = {}
    for name, peer in peers.items():
        own: list[Figures] = []
        for _ in range(settings.pairs):
            own.append(run(ours, options, settings.peers))
            runs[name].append(run(peer, options, settings.peers))
        runs["ours"] += own
        found[name] = ratios(own, runs[name])
    print(table(runs, found))
    print(json.dumps({"what": settings.what, "options": options, "ratios": found, "runs": runs}))


if __name__ == "__main__":
    main()
