"""Run Tercet on the workers of a Ray cluster.

    python launch/ray_train.py --workers 8 --gpus -- lm run --preset opt-1.3b --out /shared/runs/opt
    python launch/ray_train.py --workers 2 -- lm run --preset tiny --out /tmp/runs/tiny       # on CPUs

Ray places the workers and starts one again that was lost; each worker becomes one rank of the run, as under torchrun.
The run folder must lie on a file system that all workers share. It needs `pip install "ray[train]"` beside Tercet.
"""

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Sequence

import ray
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer


def work(settings: dict[str, list[str]]) -> None:
    """Run one rank of the command in a process of its own; Ray has already made a process group in this one."""
    place = [(ray.util.get_node_ip_address(), _free_port()) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(place, src=0)
    assert place[0] is not None
    address, port = place[0]
    context = ray.train.get_context()
    ranks = {
        "RANK": context.get_world_rank(),
        "LOCAL_RANK": context.get_local_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }
    environment = {**os.environ, **{name: str(value) for name, value in ranks.items()}}
    command = [sys.executable, "-m", "tercet", *settings["command"]]
    code = subprocess.run(command, env=environment, check=False).returncode
    if code:
        raise RuntimeError(f"rank {ranks['RANK']} ended with exit code {code}; its message is above")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return one.getsockname()[1]


def main(words: Sequence[str] | None = None) -> None:
    """Start the workers, and wait for them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--workers", type=int, default=1)
    options.add_argument("--gpus", action="store_true", help="a GPU for each worker")
    options.add_argument("--restarts", type=int, default=3, help="how often lost workers are started again")
    options.add_argument("command", nargs="+", help="what follows `tercet`")
    asked = options.parse_args(words)
    TorchTrainer(
        work,
        train_loop_config={"command": asked.command},
        scaling_config=ScalingConfig(num_workers=asked.workers, use_gpu=asked.gpus),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=asked.restarts)),
        torch_config=TorchConfig(backend="gloo"),  # only to agree on an address
    ).fit()


if __name__ == "__main__":
    main()
