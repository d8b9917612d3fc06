"""Tercet trains language models and robot arms from feedback in three steps; docs/api.md describes these names."""

from importlib import import_module
from typing import TYPE_CHECKING

from tercet.errors import FailedError, InputError, WaitingError
from tercet.version import __version__

if TYPE_CHECKING:
    from tercet.api.arm import Episode, play
    from tercet.api.config import load_arm_config, load_lm_config
    from tercet.api.lm import sample, score
    from tercet.api.record import Run
    from tercet.api.run import StopRun, run

__all__ = [
    "Episode",
    "FailedError",
    "InputError",
    "Run",
    "StopRun",
    "WaitingError",
    "__version__",
    "load_arm_config",
    "load_lm_config",
    "play",
    "run",
    "sample",
    "score",
]

_MODULES = {
    "Episode": "tercet.api.arm",
    "Run": "tercet.api.record",
    "StopRun": "tercet.api.run",
    "load_arm_config": "tercet.api.config",
    "load_lm_config": "tercet.api.config",
    "play": "tercet.api.arm",
    "run": "tercet.api.run",
    "sample": "tercet.api.lm",
    "score": "tercet.api.lm",
}


if not TYPE_CHECKING:  # a type checker would take any name for one that there is

    def __getattr__(name: str) -> object:
        """Import a public name when it is used first: `tercet --help` and every submodule start without the others."""
        if name not in _MODULES:
            raise AttributeError(f"module 'tercet' has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
