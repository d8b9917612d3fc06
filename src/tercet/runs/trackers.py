"""Send metrics to TensorBoard, wandb or trackio through accelerate, which is imported only if needed."""

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tercet.errors import InputError

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


def check_installed(names: Sequence[str]) -> None:
    """Raise InputError with the remedy if a tracker is unknown or its package is missing."""
    for name in names:
        if name not in PACKAGES:
            raise InputError(f"trackers: {name!r} is none of {', '.join(PACKAGES)}")
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise InputError(f"trackers: {name} is not installed; install it with pip install {PACKAGES[name]}")


class Trackers:
    """The trackers of one step of a run."""

    def __init__(self, names: Sequence[str], run: Path, step: str, config: Mapping[str, Any], *, start: int) -> None:
        """Open the trackers; TensorBoard discards data from index `start` on, written by a process that was killed."""
        self._sinks = [_open(name, run, step, config, start) for name in names]

    def log(self, index: int, metrics: Mapping[str, float]) -> None:
        """Send the numbers of one index to every tracker."""
        for sink in self._sinks:
            sink.log(dict(metrics), step=index)

    def close(self) -> None:
        """Flush and close every tracker."""
        for sink in self._sinks:
            sink.finish()


def _open(name: str, run: Path, step: str, config: Mapping[str, Any], start: int) -> Any:  # Any: accelerate's trackers
    from accelerate import tracking  # imports torch, which takes seconds

    # each step is its own tracker run, because indices start at 0; resuming continues the same one
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
