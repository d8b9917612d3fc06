"""Call a function on several connected processes, forked from this one, which has imported everything."""

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from torch.distributed import TCPStore

from tercet.train import parallel

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def on_ranks(
    total: int, work: Callable[..., Any], *arguments: Any, shard: bool = False
) -> list[Any]:  # Any: of the function
    """Return what `work(*arguments)` returned on each rank; AssertionError with the traceback if one raised.

    With `shard` the weights of networks are divided among the ranks.
    """
    context = multiprocessing.get_context("fork")
    port = context.Queue()
    ends: list[Connection] = []
    processes = []
    for number in range(total):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_one, args=(number, total, port, theirs, shard, work, arguments))
        process.start()
        theirs.close()
        ends.append(ours)
        processes.append(process)
    outcomes = [_received(end) for end in ends]
    for process in processes:
        process.join()
    errors = [error for _, error in outcomes if error is not None]
    assert not errors, "\n".join(errors)
    return [value for value, _ in outcomes]


def _received(end: Connection) -> tuple[Any, str | None]:
    try:
        return pickle.loads(end.recv_bytes())  # not recv: torch would pass tensors through files of that process
    except EOFError:
        return None, "the process ended without a result"


def _one(
    number: int, total: int, port: Any, end: Connection, shard: bool, work: Callable[..., Any], arguments: Any
) -> None:
    try:
        if number == 0:
            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            for _ in range(total - 1):
                port.put(store.port)
        else:
            store = TCPStore("127.0.0.1", port.get(), is_master=False)
        with parallel.connected(store, number, total, shard=shard):
            value = work(*arguments)
        end.send_bytes(pickle.dumps((value, None)))
    except BaseException:
        end.send_bytes(pickle.dumps((None, traceback.format_exc())))
        raise
