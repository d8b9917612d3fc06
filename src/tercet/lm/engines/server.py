"""Start a vLLM server on this computer, and end it with the run."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tercet.errors import FailedError, InputError
from tercet.lm.engines import guard
from tercet.lm.engines.client import Client, NoReplyError, RefusedError
from tercet.runs.progress import say

START_SECONDS = 1800.0  # large models load slowly from a network disk
_LAST_LINES = 5  # of the log, in an error

# allow adapters to be loaded at run time, and the routes that reload weights, reset the cache and put the server to
# sleep; these routes are why the server listens on this computer only
ENVIRONMENT = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_SERVER_DEV_MODE": "1"}


def words_of(command: str) -> list[str]:
    """Split ppo.engine_command into words; InputError if its program cannot be found."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"ppo.engine_command={command!r}: {error}; close the quotes") from error
    if not words or shutil.which(words[0]) is None:
        raise InputError(
            f"ppo.engine_command={command!r}: no such program; install vLLM in an environment of its own and give its "
            "path, such as `/opt/vllm/bin/vllm serve`"
        )
    return words


@contextmanager
def started(command: str, model: Path, options: Sequence[str], log: Path) -> Iterator[Client]:
    """Start a server of `model`, wait until it replies, and end it on exit. InputError if there is no such command."""
    words = words_of(command)
    words.insert(words.index("serve") + 1 if "serve" in words else len(words), str(model))  # before the options
    port = _free_port()
    client = Client(f"http://127.0.0.1:{port}")
    words += [*options, "--host", "127.0.0.1", "--port", str(port)]
    say(f"ppo: starting {shlex.join(words)} (log: {log})")
    with log.open("w", encoding="utf-8") as file, _guarded(words, file, ENVIRONMENT) as process:
        _wait(client, process, log)
        yield client


@contextmanager
def _guarded(words: Sequence[str], log: IO[str], environment: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, guard.__file__, *words],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()  # the guard then ends the server
        process.wait()


def _wait(client: Client, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.get("/health", seconds=10.0)
            return
        except (NoReplyError, RefusedError):
            if (code := process.poll()) is not None:
                raise FailedError(f"vLLM ended while it started (exit code {code}){last_lines(log)}") from None
            if time.monotonic() > deadline:
                raise FailedError(f"vLLM has not started in {START_SECONDS:g} seconds{last_lines(log)}") from None
            time.sleep(0.2)


def last_lines(log: Path) -> str:
    """Return where the log is and how it ends, for an error."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LAST_LINES:]
    return f"; the log {log} ends with:\n" + "\n".join(f"  {line[:300]}" for line in lines)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
