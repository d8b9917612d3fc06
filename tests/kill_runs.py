"""Kill a run with SIGKILL at several moments, and compare its files with those of an uninterrupted run.

It runs the steps like `tercet lm run` and `tercet arm run`, without the report, which would take most of the time.

It is a separate program, because the runs are forked from a process that has imported everything and computed nothing:
    python kill_runs.py lm|arm PRESET WORK MOMENTS OVERRIDE...     (MOMENTS: JSON, a list of chains of moments)

A moment is ["row", step, n]: as soon as metrics.jsonl holds n rows of the step; ["checkpoint", step, n]: as soon as
a checkpoint has n rows; or ["time", share]: after that share of the seconds that a whole run takes. Each chain is
one run that is killed at each of its moments in turn and then finishes. DPO is run too if a moment names it.
"""

import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tercet.config.load import load_arm_config, load_lm_config
from tercet.runs.folder import RunFolder

DOMAIN, PRESET = sys.argv[1:3]
pipeline: Any = importlib.import_module(f"tercet.{DOMAIN}.pipeline")  # Any: a module of either domain
if DOMAIN == "lm":
    importlib.import_module(
        "transformers.models.opt.modeling_opt"
    )  # imported here, so that the forked processes do not import it again
load: Any = {"lm": load_lm_config, "arm": load_arm_config}[DOMAIN]  # Any: as above
# depend on the clock or the machine
MAY_DIFFER = ("timings.jsonl", "run.json", "done.json", ".lock")


def _main() -> None:
    work, chains, overrides = Path(sys.argv[3]), json.loads(sys.argv[4]), sys.argv[5:]
    started = time.monotonic()
    assert _attempt(work / "whole", overrides, lambda: False) == 0, (work / "whole.log").read_text()
    seconds = time.monotonic() - started
    wanted, num_killed = _contents(work / "whole"), 0
    for number, chain in enumerate(chains):
        folder = work / f"killed-{number}"
        for moment in chain:
            status = _attempt(folder, overrides, _reached(folder, moment, seconds))
            assert status in (0, -signal.SIGKILL), (moment, (work / f"{folder.name}.log").read_text())
            num_killed += status != 0
        assert _attempt(folder, overrides, lambda: False) == 0, (work / f"{folder.name}.log").read_text()
        found = _contents(folder)
        odd = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
        assert not odd, f"{chain}: {odd} differ from the uninterrupted run"
    print(json.dumps({"kills": num_killed, "seconds": seconds}))


def _attempt(folder: Path, overrides: list[str], reached: Callable[[], bool]) -> int:
    """Start the run in a forked process, kill it at the moment, and return its exit status."""
    child = os.fork()
    if child == 0:
        with (folder.parent / f"{folder.name}.log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        code = 1
        try:
            _run(folder, load(PRESET, overrides))
            code = 0
        finally:
            if code:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if reached():
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.0005)
    return os.waitstatus_to_exitcode(ended[1])


def _run(folder: Path, config: Any) -> None:  # Any: as above
    with RunFolder.open(folder, config, preset=PRESET) as run:
        steps = pipeline.steps_of(config.reward.num_rounds) if DOMAIN == "lm" else pipeline.STEPS
        for name in [*pipeline.needed(config), *(["dpo"] if '"dpo"' in sys.argv[4] else [])]:
            if not run.is_done(name):
                steps[name](run, config)


def _reached(folder: Path, moment: list[str | int | float], seconds: float) -> Callable[[], bool]:
    start = time.monotonic()
    if moment[0] == "time":
        return lambda: time.monotonic() - start > float(moment[1]) * seconds
    _, step, num = moment
    if moment[0] == "row":
        metrics = folder / "metrics.jsonl"
        return lambda: metrics.exists() and metrics.read_text().count(f'{{"step": "{step}"') >= int(num)

    def saved() -> bool:
        try:
            state = json.loads((folder / str(step) / "checkpoint" / "state.json").read_text())
            return state["rows"]["metrics"]["num"] >= int(num)
        except FileNotFoundError:  # not yet, or just being replaced
            return False

    return saved


def _contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file, without the seconds in the results."""
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in [name for name in contents if Path(name).name == "results.json"]:
        results = json.loads(contents[name])
        assert results.pop("seconds"), f"{name} lacks the seconds"
        contents[name] = json.dumps(results).encode()
    return {name: data for name, data in contents.items() if Path(name).name not in MAY_DIFFER}


if __name__ == "__main__":
    _main()
