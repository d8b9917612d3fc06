"""An arm's run killed by SIGKILL in the midst of any step, and given again, ends with the same files, to the bit."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.arm.line import A_LINE
from tests.arm.policies.language import tiny_model

PROGRAM = Path(__file__).parents[1] / "kill_runs.py"
SOURCE = Path(__file__).parents[2] / "src"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)}

Moment = tuple[str, str, int] | tuple[str, float]

MOMENTS: list[Moment] = [
    ("row", "bc", 1),
    ("checkpoint", "bc", 4),
    ("row", "reward", 3),
    ("checkpoint", "reward", 6),
    ("row", "ppo", 1),
    ("row", "ppo", 3),
    ("checkpoint", "ppo", 4),
]


def killed(work: Path, preset: str, chains: list[list[Moment]], overrides: list[str]) -> int:
    """How often a run was killed; AssertionError where that shows."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "arm", preset, str(work), json.dumps(chains), *overrides],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
        cwd=work,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])["kills"]


@pytest.mark.parametrize("moments", [MOMENTS[1::4], pytest.param(MOMENTS, marks=pytest.mark.slow)], ids=["few", "all"])
def test_a_run_killed_after_rows_and_checkpoints_goes_on_to_the_same_bits(
    moments: list[Moment], small: list[str], tmp_path: Path
) -> None:
    more = ["bc.checkpoint_every=2", "ppo.checkpoint_every=2", "ppo.eval_every=1", "ppo.ema_decay=0.5"]
    assert killed(tmp_path, "lift", [moments], [*small, *more]) == len(moments)


@pytest.mark.slow
def test_rounds_of_new_judgements_killed_anywhere_come_out_the_same(small: list[str], tmp_path: Path) -> None:
    anywhere: Moment = ("time", random.Random(0).uniform(0.4, 0.8))
    moments: list[Moment] = [("row", "ppo", 2), ("row", "ppo", 3), anywhere]
    rounds = ["reward.num_rounds=3", "reward.round_every=1", "reward.pairs_per_round=8", "ppo.checkpoint_every=3"]
    more = ["bc.demonstrations=none", "ppo.reward={reward_model: 1.0}", *rounds]
    assert killed(tmp_path, "reach", [moments], [*small, *more]) >= 2


@pytest.mark.slow
def test_a_run_in_another_environment_leaves_no_process_that_keeps_it_from_going_on(
    small: list[str], tmp_path: Path
) -> None:
    (tmp_path / "their_line.py").write_text(A_LINE)
    more = ["env=their_line:Line", "threads=2", "bc.demonstrations=none", "ppo.reward={reward_model: 1.0}"]
    more += ["ppo.num_eval_states=20", "eval.num_states=20"]  # more than there are copies
    moments: list[Moment] = [("row", "reward", 2), ("row", "ppo", 2), ("row", "ppo", 3)]
    assert killed(tmp_path, "reach", [moments], [*small, *more]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["act", "tokens", "diffusion", "flow"])
def test_policies_of_other_kinds_go_on_to_the_same_bits(kind: str, small: list[str], tmp_path: Path) -> None:
    """Cloning draws latents and noise, decisions are chunks, and a chunk of 5 in an episode of 12 is cut short."""
    moments: list[Moment] = [("checkpoint", "bc", 2), ("row", "ppo", 2), ("checkpoint", "ppo", 4)]
    more = [f"policy.kind={kind}", "policy.num_layers=1", "policy.chunk_size=5", "bc.checkpoint_every=2"]
    assert killed(tmp_path, "lift", [moments], [*small, *more, "ppo.eval_every=1"]) == len(moments)


@pytest.mark.slow
def test_a_policy_that_reads_goes_on_to_the_same_bits(small: list[str], tmp_path: Path) -> None:
    moments: list[Moment] = [("checkpoint", "bc", 2), ("row", "ppo", 2), ("checkpoint", "ppo", 4)]
    more = ["env=lift-two", "policy.kind=language", f"policy.language_model={tiny_model()}", "policy.num_layers=1"]
    more += ["policy.reading_layers=1", "policy.lora_rank=2", "bc.checkpoint_every=2", "ppo.eval_every=1"]
    assert killed(tmp_path, "lift", [moments], [*small, *more]) == len(moments)
