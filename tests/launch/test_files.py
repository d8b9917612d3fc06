"""The files of launch/ work as far as a machine without the services can tell."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from tests.test_docs import parse

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"


def submitted(tmp_path: Path, *words: str, **environment: str) -> list[str]:
    """The command that the Slurm job runs, with `srun` and `scontrol` as on a cluster of two nodes."""
    for name, script in {"srun": 'printf "%s\\n" "$@"', "scontrol": 'printf "node-a\\nnode-b\\n"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "tercet",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node-[a-b]",
    }
    found = {**os.environ, **slurm, **environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", LAUNCH / "slurm.sh", *words], env=found, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_slurm_job_starts_a_process_for_each_gpu_of_each_node(tmp_path: Path) -> None:
    words = submitted(tmp_path, "--preset", "opt-1.3b", "ppo.batch_size=256", SLURM_GPUS_ON_NODE="4")
    start = words.index(".venv/bin/torchrun")
    assert {"--nnodes=2", "--nproc-per-node=4", "--rdzv-endpoint=node-a:29500"} <= set(words[start:])
    own = words[words.index("tercet") + 1 :]
    assert own[:4] == ["lm", "run", "--out", "runs/tercet-7"] and parse(own)


def test_the_slurm_job_is_requeued_and_its_options_are_known() -> None:
    options = re.findall(r"^#SBATCH --([a-z-]+)", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE)
    assert "requeue" in options and "open-mode" in options
    assert set(options) <= {
        *("job-name", "output", "open-mode", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time"),
        "requeue",
    }


def test_the_skypilot_job_restores_its_run_and_keeps_it(tmp_path: Path) -> None:
    """Its script runs twice with a torchrun that writes a file, as if the first machine had been taken away."""
    job = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert job["resources"]["use_spot"] and job["file_mounts"]["/bucket"]["name"] == "${BUCKET}"
    script = job["run"].replace("/bucket", str(tmp_path / "bucket"))
    torchrun = tmp_path / ".venv" / "bin" / "torchrun"
    torchrun.parent.mkdir(parents=True)
    torchrun.write_text('#!/bin/sh\necho "$@" >> runs/rented-words\n')
    torchrun.chmod(0o755)
    rsync = tmp_path / "rsync"
    rsync.write_text('#!/bin/sh\nfor last; do :; done\nshift $(($# - 2))\ncp -r "$1." "$last"\n')
    rsync.chmod(0o755)
    found = {**os.environ, **job["envs"], "SKYPILOT_NUM_GPUS_PER_NODE": "2", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _ in range(2):
        subprocess.run(["bash", "-c", script], cwd=tmp_path, env=found, check=True, timeout=60)
        (tmp_path / "runs" / "rented-words").unlink()
    lines = (tmp_path / "bucket" / "runs" / "rented-words").read_text().splitlines()
    assert len(lines) == 2 and len(set(lines)) == 1  # the second machine found what the first had kept
    words = lines[0].split()
    assert words[:3] == ["--nproc-per-node=2", "-m", "tercet"] and parse(words[3:])


def test_the_dockerfile_copies_what_the_package_is_built_from() -> None:
    text = (LAUNCH / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for name in line.split()[:-1]}
    assert {"pyproject.toml", "README.md", "LICENSE", "src"} == copied
    assert all((ROOT / name).exists() for name in copied)
    torch = re.search(r"^TORCH \?= torch==(\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert torch is not None and f"ARG TORCH={torch[1]}\n" in text
    assert text.index("USER 1000") < text.index("ENTRYPOINT")
    for words in re.findall(r"^#     docker run .* tercet (lm .*)$", text, re.MULTILINE):
        assert parse(words.split())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_ray_runs_a_command_on_two_workers(tmp_path: Path) -> None:
    tiny = ["lm", "sft", "--preset", "tiny", "--out", str(tmp_path / "run"), "sft.max_steps=2", "sft.num_eval=8"]
    command = [sys.executable, str(LAUNCH / "ray_train.py"), "--workers", "2", "--", *tiny]
    subprocess.run(command, check=True, timeout=600)
    assert (tmp_path / "run" / "sft" / "model" / "model.safetensors").exists()
