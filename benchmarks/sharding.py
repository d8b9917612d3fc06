"""Measure the memory and time of each process in a PPO step, with whole weights and with divided ones (`shard=true`).

All weights of actor and critic are trained, with a reference and a reward model of the same size (see ppo_step.py).
Prints a JSON line for each number of processes, with the largest figures of its processes:

    python benchmarks/sharding.py --processes 1 2 4 --batch 4 --prompt 32 --response 16 --threads 1 --iters 2

`held_mb` are weights and optimizer states between two steps, `held_share` is their share of one process; `peak_mb` is
the most memory that a process used in the steps, with Python and its libraries (Linux).
"""

import json
import multiprocessing
import os
import statistics
from argparse import Namespace
from multiprocessing import Queue
from pathlib import Path

from work import parser


def main() -> None:
    """Measure each number of processes."""
    command = parser(__doc__ or "")
    command.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    settings = command.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # else malloc keeps much of what is freed, as if it were in use
    alone: dict[str, float] = {}
    for total in settings.processes:
        for shard in (False, True) if total > 1 else (False,):
            figures = of_processes(settings, total, shard)
            alone = alone or figures
            shares = {"held_share": round(figures["held_mb"] / alone["held_mb"], 3)}
            name = {"name": "sharding", "processes": total, "shard": shard}
            print(json.dumps(name | {key: round(value, 2) for key, value in figures.items()} | shares), flush=True)
    print(json.dumps(vars(settings)))


def of_processes(settings: Namespace, total: int, shard: bool) -> dict[str, float]:
    """Return the largest of each figure over the processes."""
    context = multiprocessing.get_context("spawn")
    ports, results = context.Queue(), context.Queue()
    processes = [context.Process(target=one, args=(settings, n, total, shard, ports, results)) for n in range(total)]
    for process in processes:
        process.start()
    rows = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return {name: max(row[name] for row in rows) for name in rows[0]}


def one(settings: Namespace, number: int, total: int, shard: bool, ports: Queue, results: Queue) -> None:
    """Take the steps as one of the processes."""
    import torch
    from ppo_step import step_of
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  # public by the documentation

    from tercet.train.parallel import connected
    from tercet.train.sharding import own_part

    torch.set_num_threads(settings.threads)
    store = TCPStore("127.0.0.1", 0 if number == 0 else ports.get(), is_master=number == 0, wait_for_workers=False)
    for _ in range(total - 1 if number == 0 else 0):
        ports.put(store.port)
    with connected(store, number, total, shard=shard):
        step = step_of(settings)
        step(0)
        forget_peak()
        rows = [step(1 + index) for index in range(settings.iters)]
        networks = [step.policy, step.critic, step.frozen, step.reward_model]
        weights = [p for network in networks if network for p in network.parameters()]
        states = [s for o in step.learner.optimizers.values() for state in o.state.values() for s in state.values()]
        held = sum(own_part(tensor).nbytes for tensor in [*weights, *states])
        results.put(
            {
                "held_mb": held / 2**20,
                "peak_mb": status_mb("VmHWM"),
                "step_s": statistics.median(row["total_s"] for row in rows),
            }
        )


def forget_peak() -> None:
    """Let the peak memory of this process start from its memory now."""
    Path("/proc/self/clear_refs").write_text("5")


def status_mb(name: str) -> float:
    """Return a figure of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024


if __name__ == "__main__":
    main()
