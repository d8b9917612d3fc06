"""Compare algorithms of step 3 from one start, as `tercet lm compare` and `tercet arm compare` do."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tercet.api.record import Domain
from tercet.api.run import run_pipeline
from tercet.config.arm import ArmConfig
from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.report.comparison import numbers, page
from tercet.runs.atomic import write_text
from tercet.runs.folder import MAY_CHANGE, RunFolder
from tercet.runs.fork import fork
from tercet.runs.memory import peak_memory
from tercet.runs.progress import say

C = TypeVar("C", LmConfig, ArmConfig)
BEST_OF = "best-of-"
MEASURE = "compare"  # the step that measures a run


@dataclass(frozen=True)
class Member:
    """One run of the comparison: an algorithm (`ppo.algorithm`, `dpo` or `best-of-N`) and the number of its seed."""

    algorithm: str
    seed: int

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return f"{self.algorithm}-{self.seed}"

    @property
    def step(self) -> str:
        """Return the step that it trains; empty if it trains nothing."""
        return "dpo" if self.algorithm == "dpo" else "" if self.algorithm.startswith(BEST_OF) else "ppo"


class Side(Protocol[C]):
    """What language models and the arm do each in their own way: the modules `compare_lm` and `compare_arm`."""

    DOMAIN: Domain
    UNIT: str  # of the budget
    KNOWN: str  # algorithms, for a message
    START: str  # what all runs start from, for a message
    # what the runs may change of the config of their start (by the beginning of the key), and what not
    FREE: tuple[str, ...]
    FIXED: tuple[str, ...]

    def load(self, preset: str, overrides: Sequence[str]) -> C:
        """Load a config."""
        ...

    def check(self, config: C, steps: Sequence[str]) -> None:
        """Raise InputError if runs of this config cannot be compared, or if one of these steps could not run."""
        ...

    def algorithm(self, name: str, config: C) -> str:
        """Return the algorithm that a word on the command line names; empty if it is unknown."""
        ...

    def steps_before(self, config: C) -> list[str]:
        """Return the steps that all runs share."""
        ...

    def start_settings(self) -> list[str]:
        """Return the overrides of the shared start."""
        ...

    def settings(self, member: Member, config: C, budget: int) -> list[str]:
        """Return the overrides of a run."""
        ...

    def budget(self, config: C, start: Path) -> int:
        """Return the default budget, once the start is measured."""
        ...

    def cut_short(self, config: C, budget: int) -> list[str]:
        """Return lines on what runs with this budget leave out of the config."""
        ...


def compare(
    side: Side[C],
    preset: str,
    overrides: Sequence[str],
    out: Path,
    *,
    algorithms: str,
    seeds: int = 3,
    budget: int = 0,
    start: Path | None = None,
) -> Path:
    """Run everything that is not finished, and return the page.

    The steps before step 3 are run in OUT/start, or taken from the run `start`, whose config then is the preset. Every
    algorithm continues from them `seeds` times, each in a run folder of its own, until its rollouts have `budget`
    tokens or environment steps; 0 is as many as the preset's `ppo.num_updates` have.
    """
    source = str(start / "config.yaml") if start else preset

    def load(settings: Sequence[str]) -> C:
        return side.load(source, [*overrides, *settings])

    config = load([])
    names = _algorithms(side, algorithms, config)
    members = [Member(name, seed) for seed in range(seeds) for name in names]  # a first seed of all comes first
    for member in members:  # all that is wrong is said before hours of training
        load(side.settings(member, config, budget or 1))
    trained = dict.fromkeys(member.step for member in members if member.step)
    side.check(config, [*side.steps_before(config), *trained, MEASURE])
    now = {"domain": side.DOMAIN, side.UNIT: budget, "start": str(start.resolve()) if start else ""}
    _begin(out, now, names, seeds)
    base = load(side.start_settings())
    steps = _train_start(side, base, out / numbers.START, preset, start)
    run_pipeline(base, out / numbers.START, step=MEASURE, preset=preset)
    budget = budget or side.budget(base, out / numbers.START)
    for line in side.cut_short(base, budget):
        say(line)
    for member in members:
        settings = load(side.settings(member, config, budget))
        folder = out / member.name
        with RunFolder.open(folder, settings, preset=preset) as opened:
            fork(out / numbers.START, opened, steps)
        say(f"{member.name}: {budget} {side.UNIT}" if member.step == "ppo" else member.name)
        if member.step:
            _train(settings, folder, member.step, preset)
        run_pipeline(settings, folder, step=MEASURE, preset=preset)
        page.write(out)
    return out / "report.html"


def _algorithms(side: Side[C], text: str, config: C) -> list[str]:
    """Return the algorithms of --algorithms; InputError for an unknown one, or one that is given twice."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    names = [side.algorithm(word, config) for word in words]
    for word, name in zip(words, names, strict=True):
        if not name:
            raise InputError(f"--algorithms: {word!r} is unknown; give some of {side.KNOWN}")
    if not names or len({*names}) < len(names):
        raise InputError(f"--algorithms={text}: name at least one algorithm, and each once")
    return names


def _begin(out: Path, now: dict[str, Any], algorithms: Sequence[str], seeds: int) -> None:  # Any: JSON
    """Record what is compared; InputError if the folder has another budget or start, or is no comparison."""
    known = numbers.plan_of(out)
    if not known and out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty and no comparison; choose another folder with --out")
    for key, value in now.items():
        if known and known[key] != value:
            raise InputError(
                f"{out}: this comparison was made with {key}={known[key] or 'none'}, not {value or 'none'}; "
                "give the same, or choose another folder with --out"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / numbers.FILE, json.dumps({**now, "algorithms": algorithms, "seeds": seeds}, indent=1) + "\n")


def _train_start(side: Side[C], config: C, folder: Path, preset: str, start: Path | None) -> list[str]:
    """Run the steps before step 3, or take those of the run `start`; return their names."""
    steps = side.steps_before(config)
    if start:
        _check_start(side, config, start, steps)
        with RunFolder.open(folder, config, preset=preset) as opened:
            fork(start, opened, steps)
    for step in steps:
        run_pipeline(config, folder, step=step, preset=preset)
    return steps


def _check_start(side: Side[C], config: C, start: Path, steps: Sequence[str]) -> None:
    """InputError if the run has not finished these steps, or if an override changes what they have learned from."""
    run_folder = RunFolder.read(start)
    if missing := [step for step in steps if not run_folder.has_ended(step)]:
        raise InputError(f"--from {start}: this run has not finished {' and '.join(missing)}; finish it first")
    was, now = _leaves(run_folder.config_dict), _leaves(config.model_dump(mode="json"))
    changed = [
        key
        for key, value in now.items()
        if was.get(key, value) != value
        and (key.startswith(side.FIXED) or not key.startswith(side.FREE))
        and key != "seed"
        and key.rpartition(".")[2] not in MAY_CHANGE
    ]
    if changed:
        raise InputError(
            f"--from {start}: its {side.START} were trained with another {', '.join(changed)}; leave that as "
            "it is, or train them anew without --from"
        )


def _train(config: LmConfig | ArmConfig, folder: Path, step: str, preset: str) -> None:
    """Run the step if it is not finished, and record its peak memory."""
    if RunFolder.read(folder).has_ended(step):
        run_pipeline(config, folder, step=step, preset=preset)  # checks the files
        return
    import torch  # takes seconds

    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.reset_peak_memory_stats()
    with peak_memory() as peak:
        run_pipeline(config, folder, step=step, preset=preset)
    on_gpu = torch.cuda.max_memory_allocated() if has_gpu else 0
    numbers.add_cost(folder.parent, folder.name, {"peak_bytes": peak.num_bytes, "gpu_peak_bytes": on_gpu})


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:  # Any: JSON
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        is_section = isinstance(value, dict) and prefix == ""
        leaves |= _leaves(value, f"{key}.") if is_section else {f"{prefix}{key}": value}
    return leaves
