"""Metrics on their way to TensorBoard, wandb or trackio, through accelerate; imported only when asked for."""

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tercet.errors import InputError

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


def check_installed(names: Sequence[str]) -> None:
    """InputError, with the remedy, where a tracker is unknown or its package is missing."""
    for name in names:
        if name not in PACKAGES:
            raise InputError(f"trackers: {name!r} is none of {', '.join(PACKAGES)}")
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise InputError(f"trackers: {name} is not installed; install it with pip install {PACKAGES[name]}")


class Trackers:
    """The sinks of one step of one run."""

    def __init__(self, names: Sequence[str], run: Path, step: str, config: Mapping[str, Any], *, start: int) -> None:
        """`start` is the first index to come: what TensorBoard holds from there on is of a process that was killed."""
        self._sinks = [_open(name, run, step, config, start) for name in names]

    def log(self, index: int, metrics: Mapping[str, float]) -> None:
        """Send the numbers of one index to every sink."""
        for sink in self._sinks:
            sink.log(dict(metrics), step=index)

    def close(self) -> None:
        """Let every sink send what it holds."""
        for sink in self._sinks:
            sink.finish()


def _open(name: str, run: Path, step: str, config: Mapping[str, Any], start: int) -> Any:  # Any: accelerate's trackers
    from accelerate import tracking  # brings torch and, with it, seconds

    # each step is a run of its own, for their indices all begin at 0; the same folder goes on in the same one
    title = f"{run.name}-{step}"
    if name == "tensorboard":
        sink = tracking.TensorBoardTracker(step, run / "tensorboard", purge_step=start)
    elif name == "wandb":
        key = hashlib.sha256(f"{run.resolve()}/{step}".encode()).hexdigest()[:16]
        sink = tracking.WandBTracker("tercet", name=title, group=run.name, id=key, resume="allow", config=dict(config))
    else:
        sink = tracking.TrackioTracker("tercet", name=title, resume="allow", config=dict(config))
    sink.start()
    return sink
