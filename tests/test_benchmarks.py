"""The benchmarks run, and print one line of JSON with the figures that their readers compare."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SMALL = ["--batch", "3", "--prompt", "8", "--response", "4", "--threads", "1", "--iters", "1"]
SMALL += ["--layers", "1", "--hidden", "64", "--vocab", "300"]
FIGURES = {
    "ppo_step.py": {"gen_s", "score_s", "train_s", "total_s", "tokens_per_s", "peak_rss_mb"},
    "generation.py": {"ours_s", "theirs_s", "median_ratio", "time_ratios", "peak_rss_mb"},
}


@pytest.mark.parametrize("lengths", ["fixed", "real"])
@pytest.mark.parametrize("script", list(FIGURES))
def test_it_prints_its_figures(script: str, lengths: str) -> None:
    command = [sys.executable, str(BENCHMARKS / script), *SMALL, "--lengths", lengths]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert FIGURES[script] <= figures.keys()
    assert figures["batch"] == 3 and figures["lengths"] == lengths
    if script == "ppo_step.py" and lengths == "fixed":
        assert figures["num_tokens"] == 3 * (8 + 4)


def test_the_arm_is_timed_beside_bare_mujoco() -> None:
    command = [sys.executable, str(BENCHMARKS / "arm_env.py"), "--num-envs", "4", "--horizon", "10", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr  # it also asserts that both came to the same states
    figures = json.loads(done.stdout)
    assert figures["num_envs"] == 4 and 0 < figures["share_of_bare"] < 2
    assert figures["steps_per_second"] > 0 and figures["bare_steps_per_second_one_call"] > 0
