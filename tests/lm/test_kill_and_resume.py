"""A run killed by SIGKILL in the midst of any step, and given again, ends with the same files, to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "kill_runs.py"
SOURCE = Path(__file__).parents[2] / "src"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(SOURCE)}

Moment = tuple[str, str, int] | tuple[str, float]

ROWS: list[Moment] = [
    *(("row", "sft", n) for n in (1, 3)),
    *(("row", "reward", n) for n in (1, 4)),
    *(("row", "ppo", n) for n in (1, 2, 4)),
]
CHECKPOINTS: list[Moment] = [("checkpoint", "sft", 4), ("checkpoint", "reward", 2), ("checkpoint", "ppo", 3)]

# everything that a resumed PPO must have kept: an average, an adaptive price, a mix of SFT, a best actor
FULL = ["ppo.ema_decay=0.5", "ppo.kl_target=0.5", "ppo.kl_horizon=50", "ppo.ptx_coef=0.5", "ppo.eval_every=1"]
# dropout draws from global chance; pairs are sampled and kept in a file
LORA = ["lora.rank=4", "lora.dropout=0.2", "reward.num_sampled_pairs=24"]


def killed(work: Path, chains: list[list[Moment]], overrides: list[str]) -> int:
    """How often a run was killed; AssertionError where that shows."""
    every = ["reward.checkpoint_every=2", "ppo.checkpoint_every=1", "ppo.samples_every=1", *overrides]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "lm", "tiny", str(work), json.dumps(chains), *every],
        capture_output=True,
        text=True,
        timeout=600,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])["kills"]


@pytest.mark.parametrize("moments", [ROWS[1::4], pytest.param(ROWS, marks=pytest.mark.slow)], ids=["few", "all"])
def test_full_fine_tuning_killed_after_rows_goes_on_to_the_same_bits(
    moments: list[Moment], small: list[str], tmp_path: Path
) -> None:
    assert killed(tmp_path, [moments], [*small, *FULL]) == len(moments)


@pytest.mark.slow
def test_dpo_killed_goes_on_to_the_same_bits(small: list[str], toy_questions: Path, tmp_path: Path) -> None:
    moments: list[Moment] = [("row", "dpo", 1), ("row", "dpo", 3), ("checkpoint", "dpo", 4)]
    steps = ["dpo.max_steps=6", "dpo.batch_size=4", "dpo.checkpoint_every=2", "dpo.lr=1e-2"]
    settings = [*small, *LORA, *steps, f"data.train=[{toy_questions}]"]
    assert killed(tmp_path, [moments], settings) == len(moments)


@pytest.mark.slow
def test_a_round_killed_goes_on_to_the_same_bits(small: list[str], tmp_path: Path) -> None:
    moments: list[Moment] = [("row", "reward-1", 2), ("row", "ppo-1", 1), ("checkpoint", "ppo-1", 3)]
    rounds = ["reward.num_rounds=1", "reward.pairs_per_round=12"]
    assert killed(tmp_path, [moments], [*small, *rounds]) == len(moments)


@pytest.mark.slow
def test_lora_killed_after_checkpoints_and_at_random_goes_on_to_the_same_bits(
    small: list[str], toy_questions: Path, tmp_path: Path
) -> None:
    chance = random.Random(0)
    anywhere: list[Moment] = [("time", chance.uniform(0.05, 0.4)) for _ in range(4)]
    settings = [*small, *LORA, f"data.train=[{toy_questions}]"]
    # a machine that is less busy than before may be faster than some of the clock's moments
    assert killed(tmp_path, [CHECKPOINTS, anywhere], settings) >= len(CHECKPOINTS)


@pytest.mark.slow
def test_one_backbone_killed_after_checkpoints_goes_on_to_the_same_bits(
    small: list[str], toy_questions: Path, tmp_path: Path
) -> None:
    settings = [
        *small,
        *LORA,
        *FULL,
        "lora.shared_backbone=true",
        "reward.num_layers=1",
        f"data.train=[{toy_questions}]",
    ]
    assert killed(tmp_path, [CHECKPOINTS], settings) == len(CHECKPOINTS)


@pytest.mark.slow
def test_the_command_itself_killed_at_random_goes_on_to_the_same_bits(small: list[str], tmp_path: Path) -> None:
    def command(folder: str) -> subprocess.Popen[bytes]:
        tercet = Path(sys.executable).with_name("tercet")
        return subprocess.Popen(
            [tercet, "lm", "run", "--preset", "tiny", "--out", tmp_path / folder, *small], env=ENVIRONMENT
        )

    started = time.monotonic()
    assert command("whole").wait() == 0
    seconds, chance, num_killed = time.monotonic() - started, random.Random(1), 0
    for _ in range(6):
        process = command("killed")
        time.sleep(chance.uniform(0.3, 1.0) * seconds)
        process.kill()
        num_killed += process.wait() == -signal.SIGKILL
    assert command("killed").wait() == 0
    assert num_killed >= 2
    for file in ("metrics.jsonl", "samples.jsonl", "ppo/model/model.safetensors", "eval/held_out.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes(), file
