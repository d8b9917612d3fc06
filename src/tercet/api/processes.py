"""The processes of a run: those that torchrun has started, or those that the run starts itself (`processes`).

A process learns its rank from torchrun's environment variables. Without them it is rank 0 and starts the others, as
`python -m tercet.api.processes` with these variables and with its job on standard input. They end when that closes, so
none outlives rank 0.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from tercet.errors import FailedError, InputError, WaitingError
from tercet.runs import ranks
from tercet.runs.stop import Ended, on_signal

if TYPE_CHECKING:  # torch, which takes seconds
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]  # public by torch's documentation

AGAIN = "the same command continues from the last checkpoint"
Child = subprocess.Popen[bytes]
Job = dict[str, Any]  # Any: JSON, see `main`

_ERROR = "tercet/error"  # where the store has the first error of all processes
_READY = "tercet/ready"  # where it has the number of processes that have come
_SECONDS_TO_HEAR = 5.0  # from a process that ends by an error
_SECONDS_TO_END = 30.0


def num_processes(setting: int, device: str) -> int:
    """Return the number of processes for the config key `processes`."""
    return setting or ranks.automatic(device == "mps" or _is_on_gpu(device))


def threads_per_process() -> int:
    """Return the number of CPU threads of each process that a run has started; 0 leaves it to torch."""
    started = ranks.num_ranks() > 1 and "TORCHELASTIC_RUN_ID" not in os.environ  # torchrun has set OMP_NUM_THREADS
    return max(1, ranks.num_cores() // ranks.num_ranks()) if started else 0


@contextmanager
def together(job: Job, processes: int, *, device: str, shard: bool = False) -> Iterator[None]:
    """Make this process one of several until the end of the `with`, and start the others if torchrun has not.

    With `shard` the weights of the networks are divided among them.
    An error of one process ends all of them, and is raised on all; one of them shows it.
    """
    launched = ranks.launched()
    number, total = (launched.number, launched.total) if launched else (0, processes)
    if total == 1:
        yield
        return
    gpu = _gpu(number, total, device)
    children: list[Child] = []
    try:
        store = _store_of_torchrun() if launched else _store_of_own(job, total, children)
        from tercet.train.parallel import LostRankError, connected

        try:
            with connected(store, number, total, gpu=gpu, shard=shard):
                yield
        except (SystemExit, Ended, KeyboardInterrupt) as error:  # every process gets the signal itself
            _first_error(store, error, number, is_lost=False)
            ranks.show_here(error, number == 0)
            raise
        except BaseException as error:
            first = _first_error(store, error, number, is_lost=isinstance(error, LostRankError))
            if first is None:
                raise FailedError(f"{_lost(children)}; {AGAIN}") from error
            if launched:  # rank 0 may be stuck in an exchange
                ranks.show_here(first, first is error)
            if first is error:
                raise
            raise first from error
        with suppress(subprocess.TimeoutExpired):
            for child in children:
                child.wait(_SECONDS_TO_END)
    finally:
        _end(children)


def _is_on_gpu(device: str) -> bool:
    if device == "cpu":
        return False
    import torch  # takes seconds

    return torch.cuda.is_available()


def _gpu(number: int, total: int, device: str) -> int | None:
    """Return the number of the GPU of this process; None if the networks are on the CPU."""
    if device == "mps":
        raise InputError(
            f"device=mps: {total} processes cannot exchange tensors of Apple's GPU; start one, or set device=cpu"
        )
    if not _is_on_gpu(device):
        return None
    import torch

    gpu, num_gpus = int(os.environ.get("LOCAL_RANK", number)), torch.cuda.device_count()
    if gpu >= num_gpus:
        raise InputError(f"{total} processes need a GPU each, but torch sees {num_gpus}; start fewer or set device=cpu")
    return gpu


def _store_of_torchrun() -> "Store":
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://"))
    return store


def _store_of_own(job: Job, total: int, children: list[Child]) -> "Store":
    """Start the other processes, and wait until all of them have come."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  # public by torch's documentation

    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback:  # gloo would look for an address of this machine's name, which may have none
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for number in range(1, total):
        places = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": total, "MASTER_PORT": store.port}
        environment = {**os.environ, **{name: str(value) for name, value in places.items()}}
        environment |= {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # in a session of its own: Ctrl-C is for rank 0, which ends the others
        command = [sys.executable, "-m", __name__]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)
        children.append(child)
        assert child.stdin is not None
        child.stdin.write(json.dumps(job).encode() + b"\n")
        child.stdin.flush()
    while store.add(_READY, 0) < total - 1:
        if any(child.poll() is not None for child in children):
            raise FailedError(f"{_lost(children)} before it had begun")
        time.sleep(0.02)
    return store


def _first_error(store: "Store", error: BaseException, number: int, *, is_lost: bool) -> BaseException | None:
    """Return the error that ended a process first: `error`, or that of another one; None if one was killed.

    The first one is left in the store for the others. A process that has only lost another (`is_lost`) waits for it.
    """
    own = json.dumps([number, type(ranks.sendable(error)).__name__, str(ranks.sendable(error))])
    try:
        until = time.monotonic() + _SECONDS_TO_HEAR
        while is_lost and not store.check([_ERROR]):
            if time.monotonic() > until:
                return None
            time.sleep(0.02)
        first = store.compare_set(_ERROR, "", own).decode()
    except RuntimeError:  # rank 0, which holds the store, has ended
        return FailedError("rank 0 has ended")
    if first == own:
        return error
    _, kind, message = json.loads(first)
    kinds = {kind.__name__: kind for kind in (InputError, WaitingError)}
    return kinds.get(kind, FailedError)(message)


def _lost(children: list[Child]) -> str:
    """Say how a process has ended that has not said it itself."""
    for number, child in enumerate(children, start=1):
        with suppress(subprocess.TimeoutExpired):
            code = child.wait(1.0)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            memory = " (if the memory is full, the system kills processes)" if code == -signal.SIGKILL else ""
            return f"process {number} of this run {how}{memory}"
    return "another process of this run was killed"


def _end(children: list[Child]) -> None:
    """End the processes that have not ended."""
    for child in children:
        if child.poll() is None:
            child.kill()
        child.wait()
        if child.stdin is not None:
            with suppress(OSError):
                child.stdin.close()


def main() -> None:
    """Run a job as the rank of the environment, until rank 0 closes standard input."""
    job: Job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    signal.signal(signal.SIGTERM, on_signal)
    from tercet.api.run import run_pipeline
    from tercet.config.arm import ArmConfig
    from tercet.config.lm import LmConfig

    config = {"lm": LmConfig, "arm": ArmConfig}[job["domain"]].model_validate(job["config"])
    _store_of_torchrun().add(_READY, 1)
    try:
        run_pipeline(config, job["out"], step=job["step"])
    except (Exception, Ended):  # rank 0 has it too, and shows it
        sys.exit(1)


def _end_with_rank_0() -> None:
    while os.read(0, 1024):  # not through sys.stdin, whose lock the interpreter needs at its end
        pass
    os._exit(1)  # the main thread may be waiting for a process that is no more


if __name__ == "__main__":
    main()
