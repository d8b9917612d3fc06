"""Run the steps of a config in a folder, as `tercet lm run` and `tercet arm run` do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from tercet.api.libraries import quiet_libraries, torch_threads
from tercet.api.processes import num_processes, threads_per_process, together
from tercet.api.record import STEPS, Domain, Run
from tercet.config.arm import ArmConfig
from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.report.doctor.watch import Watch
from tercet.runs.folder import RunFolder
from tercet.runs.progress import silent
from tercet.runs.ranks import ONE, as_ranks, follows, launched
from tercet.runs.rows import Row


class StopRun(Exception):  # a signal like StopIteration, not an error
    """Raise it in `on_row` to end `tercet.run` early; the same call resumes from the last checkpoint."""


def run(
    config: LmConfig | ArmConfig,
    out: str | Path,
    *,
    step: str | None = None,
    on_row: Callable[[Row], object] | None = None,
    quiet: bool = False,
    preset: str = "",
) -> Run:
    """Run all unfinished steps in the folder `out`, including evaluation and report, or only one `step`.

    `on_row` is called with each row after it is written to metrics.jsonl. It may raise StopRun. `quiet` prints nothing.
    `preset` is the name shown in the report. Raise InputError, FailedError, or WaitingError if a person has to answer
    questions first.
    """
    domain = _domain(config)
    if step is not None and step not in STEPS[domain]:
        raise InputError(f"step={step!r}: must be one of {', '.join(STEPS[domain])}, or None for all of them")
    return run_pipeline(config, out, step=step, on_row=on_row, quiet=quiet, preset=preset)


def run_pipeline(
    config: LmConfig | ArmConfig,
    out: str | Path,
    *,
    step: str | None,
    on_row: Callable[[Row], object] | None = None,
    quiet: bool = False,
    preset: str = "",
) -> Run:
    """Do what `run` does. `step` may also be the one that measures a run of a comparison."""
    domain = _domain(config)
    if domain == "arm":
        import tercet.arm  # noqa: F401  # raises InputError for missing packages, before a folder is created
    path = Path(out)
    may_grow = ["reward.num_rounds"] if domain == "lm" else []  # an arm's rounds are part of its PPO
    may_add = ["dpo"] if domain == "lm" else []
    shard = isinstance(config, LmConfig) and config.shard
    watch = Watch(path, config.model_dump(mode="json"))
    job = {"domain": domain, "config": config.model_dump(mode="json"), "out": str(path), "step": step}
    with (
        suppress(StopRun),
        as_ranks(launched() or ONE),
        silent(quiet or follows()),
        RunFolder.open(
            path, config, preset=preset, on_row=on_row, watch=watch, may_grow=may_grow, may_add=may_add
        ) as folder,
        together(job, num_processes(config.processes, config.device), device=config.device, shard=shard),
        _pipeline(domain, config.threads) as steps,
    ):
        if step is None:
            steps.run(folder, config)
        else:
            steps.run_step(folder, config, step)
    return Run(path)


def _domain(config: LmConfig | ArmConfig) -> Domain:
    return "lm" if isinstance(config, LmConfig) else "arm"


@contextmanager
def _pipeline(domain: Domain, threads: int) -> Iterator[ModuleType]:
    """Import the steps of a domain, and torch, and set the number of its threads."""
    if domain == "lm":
        with quiet_libraries(), torch_threads(threads or threads_per_process()):
            from tercet.lm import pipeline

            yield pipeline
    else:
        with torch_threads(1):  # the networks are small, and a second thread would slow them down
            from tercet.arm import pipeline

            yield pipeline
