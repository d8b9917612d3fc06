"""Compare the algorithms of step 3 from one SFT policy and one reward model, as `tercet lm compare` does."""

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tercet.api.run import run
from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.config.ppo import Algorithm
from tercet.errors import InputError
from tercet.report import comparison, comparison_page
from tercet.runs.atomic import write_text
from tercet.runs.folder import MAY_CHANGE, RunFolder
from tercet.runs.fork import fork
from tercet.runs.memory import peak_memory
from tercet.runs.progress import say

DEFAULT = "ppo,rloo,grpo,dpo,best-of-n"
_BEST_OF = "best-of-"
_N = 8  # of best-of-n, if eval.best_of_n does not give it
_MORE_UPDATES = 4  # how often num_updates is allowed: the budget of tokens ends training, not the number of updates
# what runs from one start may change of its config; pairs and scores depend on the others
_FREE = ("ppo.", "dpo.", "eval.")
_FIXED = ("ppo.policy", "ppo.temperature", "ppo.max_response_tokens")


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
        return "dpo" if self.algorithm == "dpo" else "" if self.algorithm.startswith(_BEST_OF) else "ppo"


def compare(
    preset: str,
    overrides: Sequence[str],
    out: Path,
    *,
    algorithms: str = DEFAULT,
    seeds: int = 3,
    tokens: int = 0,
    start: Path | None = None,
) -> Path:
    """Run everything that is not finished, and return the page.

    SFT and reward model are trained in OUT/start, or taken from the run `start`, whose config then is the preset.
    Every algorithm continues from them `seeds` times, each in a run folder of its own, until `tokens` tokens of
    responses are sampled; 0 is as many as `ppo.num_updates` updates of PPO sample at the length of SFT's responses.
    """
    config = load_lm_config(_config_file(start) if start else preset, overrides)
    if config.reward.num_rounds:
        raise InputError("compare: set reward.num_rounds=0; a comparison has no rounds")
    names = _algorithms(algorithms, config)
    members = [Member(name, seed) for seed in range(seeds) for name in names]  # a first seed of all comes first
    for member in members:  # all that is wrong is said before hours of training
        _config_of(member, config, start, preset, overrides, tokens or 1)
    _begin(out, names, seeds, tokens, start)
    base = load_lm_config(_config_file(start) if start else preset, [*overrides, "eval.best_of_n=0"])
    steps = _train_start(base, out / "start", preset, start)
    run(base, out / "start", step="compare", preset=preset)
    budget = tokens or comparison.budget(out / "start", base.ppo.num_updates * base.ppo.batch_size)
    for member in members:
        settings = _config_of(member, config, start, preset, overrides, budget)
        folder = out / member.name
        with RunFolder.open(folder, settings, preset=preset) as opened:
            fork(out / "start", opened, steps)
        say(f"{member.name}: {budget} tokens" if member.step == "ppo" else member.name)
        if member.step:
            _train(settings, folder, member.step, preset)
        run(settings, folder, step="compare", preset=preset)
        comparison_page.write(out)
    return out / "report.html"


def _algorithms(algorithms: str, config: LmConfig) -> list[str]:
    """Return the names of the algorithms, with a number in place of the n of best-of-n; InputError for another."""
    names = [name.strip() for name in algorithms.split(",") if name.strip()]
    names = [f"{_BEST_OF}{config.eval.best_of_n or _N}" if name == f"{_BEST_OF}n" else name for name in names]
    known = [*get_args(Algorithm), "dpo"]
    for name in names:
        n = name.removeprefix(_BEST_OF)
        if name not in known and not (name.startswith(_BEST_OF) and n.isdecimal() and int(n) > 1):
            raise InputError(
                f"--algorithms: {name!r} is unknown; give some of {', '.join(known)}, best-of-n, or best-of-16"
            )
    if not names or len({*names}) < len(names):
        raise InputError(f"--algorithms={algorithms}: name at least one algorithm, and each once")
    return names


def _config_of(
    member: Member, base: LmConfig, start: Path | None, preset: str, overrides: Sequence[str], budget: int
) -> LmConfig:
    """Return the config of a run of the comparison."""
    own = [f"seed={base.seed + member.seed}", "eval.best_of_n=0"]
    if member.step == "ppo":
        own = [
            *own,
            f"ppo.algorithm={member.algorithm}",
            f"ppo.max_sampled_tokens={budget}",
            f"ppo.num_updates={_MORE_UPDATES * base.ppo.num_updates}",
        ]
    elif not member.step:
        own[1] = f"eval.best_of_n={member.algorithm.removeprefix(_BEST_OF)}"
    return load_lm_config(_config_file(start) if start else preset, [*overrides, *own])


def _config_file(start: Path) -> str:
    return str(start / "config.yaml")


def _begin(out: Path, algorithms: Sequence[str], seeds: int, tokens: int, start: Path | None) -> None:
    """Record what is compared; InputError if the folder has another budget or start, or is no comparison."""
    known = comparison.plan_of(out)
    if not known and out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty and no comparison; choose another folder with --out")
    now: dict[str, Any] = {"tokens": tokens, "start": str(start.resolve()) if start else ""}  # Any: JSON
    for key, value in now.items():
        if known and known[key] != value:
            raise InputError(
                f"{out}: this comparison was made with {key}={known[key] or 'none'}, not {value or 'none'}; "
                "give the same, or choose another folder with --out"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / comparison.FILE, json.dumps({**now, "algorithms": algorithms, "seeds": seeds}, indent=1) + "\n")


def _train_start(config: LmConfig, folder: Path, preset: str, start: Path | None) -> list[str]:
    """Train SFT and reward model, or take those of the run `start`; return the names of these steps."""
    steps = [] if config.ppo.policy else ["sft"]
    steps += ["reward"] if "reward_model" in config.ppo.reward else []
    if start:
        _check_start(config, start, steps)
        with RunFolder.open(folder, config, preset=preset) as opened:
            fork(start, opened, steps)
    for step in steps:
        run(config, folder, step=step, preset=preset)
    return steps


def _check_start(config: LmConfig, start: Path, steps: Sequence[str]) -> None:
    """InputError if the run has not finished these steps, or if an override changes what they have learned from."""
    run_folder = RunFolder.read(start)
    if missing := [step for step in steps if not run_folder.has_ended(step)]:
        raise InputError(f"--from {start}: this run has not finished {' and '.join(missing)}; finish it first")
    was, now = _leaves(run_folder.config_dict), _leaves(config.model_dump(mode="json"))
    changed = [
        key
        for key, value in now.items()
        if was.get(key, value) != value
        and (key.startswith(_FIXED) or not key.startswith(_FREE))
        and key != "seed"
        and key.rpartition(".")[2] not in MAY_CHANGE
    ]
    if changed:
        raise InputError(
            f"--from {start}: its SFT and reward model were trained with another {', '.join(changed)}; leave that as "
            "it is, or train them anew without --from"
        )


def _train(config: LmConfig, folder: Path, step: str, preset: str) -> None:
    """Run the step if it is not finished, and record its peak memory."""
    if RunFolder.read(folder).has_ended(step):
        run(config, folder, step=step, preset=preset)  # checks the files
        return
    import torch  # takes seconds

    gc.collect()
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.reset_peak_memory_stats()
    with peak_memory() as peak:
        run(config, folder, step=step, preset=preset)
    on_gpu = torch.cuda.max_memory_allocated() if has_gpu else 0
    comparison.add_cost(folder.parent, folder.name, {"peak_bytes": peak.num_bytes, "gpu_peak_bytes": on_gpu})


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:  # Any: JSON
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        is_section = isinstance(value, dict) and prefix == ""
        leaves |= _leaves(value, f"{key}.") if is_section else {f"{prefix}{key}": value}
    return leaves
