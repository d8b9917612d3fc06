"""Compare two commits to the bit: every number of `metrics.jsonl` and every `model.safetensors` of small runs.

    python benchmarks/same_numbers.py HEAD~5 HEAD
    python benchmarks/same_numbers.py main .                      # . is the working tree, uncommitted changes included
    python benchmarks/same_numbers.py main . --cases tiny reach
    python benchmarks/same_numbers.py main . --cases smollm2      # slow: a real model

Runs of a commit are stored in `runs/same_numbers` and reused. Everything runs on one thread. Prints one line per
case; the exit code is 1 if anything differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from io import BytesIO
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START = "from tercet.cli import main; main()"
TINY = ("lm", "run", "--preset", "tiny", "threads=1")
SMOLLM2 = "sft.max_steps=2 sft.num_eval=8 reward.num_sampled_pairs=32 reward.max_steps=2 ppo.num_updates=2 "
SMOLLM2 += "ppo.batch_size=8 ppo.micro_batch_size=4 ppo.num_eval_prompts=4 eval.num_prompts=4"
REACH = ("threads=1", "eval.num_videos=0")
CASES: dict[str, tuple[str, ...]] = {
    "tiny": TINY,
    "tiny-lora": (*TINY, "lora.rank=4"),
    "tiny-shared": (*TINY, "lora.rank=4", "lora.shared_backbone=true"),
    "tiny-ema": (*TINY, "ppo.ema_decay=0.9"),
    "tiny-ptx": (*TINY, "ppo.ptx_coef=0.5"),
    "reach": ("arm", "run", "--preset", "reach", *REACH, "ppo.num_updates=4", "ppo.eval_every=2"),
    "reach-learned": (
        *("arm", "run", "--preset", "reach-learned", *REACH, "ppo.num_updates=4", "ppo.eval_every=2"),
        *("reward.num_rounds=2", "reward.round_every=2", "reward.epochs=3"),
    ),
    "smollm2": ("lm", "run", "--preset", "smollm2", "threads=1", *SMOLLM2.split()),
}
SLOW = {"smollm2"}


class RunFailed(Exception):
    """A run ended with an error; the message has its command and the end of its output."""


def git(*words: str) -> bytes:
    """Return what git prints about this repository."""
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=True).stdout


@dataclass(frozen=True)
class Version:
    """One side of the comparison: the folder of its packages, and the folder of its runs."""

    source: Path
    runs: Path

    @classmethod
    def of(cls, name: str, kept: Path, scratch: Path) -> "Version":
        """Use a checkout as it is, or export a commit into `scratch`. Only the runs of a commit are reused."""
        if Path(name).is_dir():
            return cls(Path(name).resolve() / "src", scratch / "runs")
        commit = git("rev-parse", "--short=12", f"{name}^{{commit}}").decode().strip()
        with tarfile.open(fileobj=BytesIO(git("archive", commit, "src"))) as archive:
            archive.extractall(scratch, filter="data")
        return cls(scratch / "src", kept / commit)


def run(case: str, version: Version) -> Path:
    """Run the case unless its run exists, and return the folder of the run."""
    out = version.runs / case
    command = [sys.executable, "-c", START, *CASES[case], "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(version.source), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"{' '.join(command)}\n{(done.stdout + done.stderr)[-2000:]}")
    return out


def differences(old: Path, new: Path) -> list[str]:
    """Name every model whose bytes differ, and the first number of `metrics.jsonl` that does."""
    models = sorted({path.relative_to(run) for run in (old, new) for path in run.rglob("model.safetensors")})
    assert models, f"{old} has no model"
    found = []
    for model in models:
        one, other = (run / model for run in (old, new))
        if not (one.exists() and other.exists()):
            found.append(f"{model}: only in {old if one.exists() else new}")
        elif one.read_bytes() != other.read_bytes():
            found.append(f"{model}: other weights")
    lines = [(run / "metrics.jsonl").read_text(encoding="utf-8").splitlines() for run in (old, new)]
    for number, (one, other) in enumerate(zip_longest(*lines, fillvalue="{}"), start=1):
        if one != other:
            return [*found, f"metrics.jsonl, line {number}: {first_difference(json.loads(one), json.loads(other))}"]
    return found


def first_difference(old: dict[str, object], new: dict[str, object]) -> str:
    """Return the first name whose values differ in two rows, with both values."""
    for name in [*old, *new]:
        if name not in old or name not in new or repr(old[name]) != repr(new[name]):
            return f"{name} is {old.get(name, 'missing')}, then {new.get(name, 'missing')}"
    return "the names have another order"


def main() -> None:
    """Run every case with both versions and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs=2, metavar="VERSION", help="a commit, or the folder of a checkout")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=[case for case in CASES if case not in SLOW])
    parser.add_argument("--kept", type=Path, default=ROOT / "runs" / "same_numbers", help="where runs of commits stay")
    settings = parser.parse_args()
    differs = False
    with tempfile.TemporaryDirectory() as name:
        sides = zip(("old", "new"), settings.versions, strict=True)
        versions = [Version.of(version, settings.kept, Path(name, side)) for side, version in sides]
        for case in settings.cases:
            found = differences(*[run(case, version) for version in versions])
            differs = differs or bool(found)
            print(f"{case}: {'; '.join(found) or 'the same to the bit'}", flush=True)
    sys.exit(differs)


if __name__ == "__main__":
    main()
