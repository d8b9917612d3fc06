"""Compare the prediction of `tercet plan` with measurements: peak memory and seconds of a PPO step on this machine.

Each plan and each measurement runs in its own process. As the plan assumes, all rows have the same length and no answer
ends early. A copy of the actor is kept, as in a run.

    python benchmarks/plan.py --threads 2
    python benchmarks/plan.py --threads 2 --cases tiny opt-125m
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict

import torch

from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.lm.plan.bench import Step, Work, networks_of, ppo_of
from tercet.lm.plan.plan import plan
from tercet.lm.quiet import hush
from tercet.train.ema import learning_state

LORA = {"rank": 16, "alpha": 32}
SHARED = LORA | {"shared_backbone": True}


def config_of(work: Work, lora: Mapping[str, int | bool] = {}) -> LmConfig:
    """Return the config of a run whose PPO step is the work."""
    return LmConfig(**dict(networks_of(work, lora)), ppo=ppo_of(work))


def cases() -> dict[str, tuple[LmConfig, Work]]:
    """Return the cases: a config and the sizes of its rows."""
    opt = Work()
    tiny, smollm2 = load_lm_config("tiny", []), load_lm_config("smollm2", [])
    return {
        "tiny": (tiny, Work(batch=tiny.ppo.batch_size, prompt=32, response=16, vocab=260)),
        "smollm2": (smollm2, Work(batch=smollm2.ppo.batch_size, prompt=48, response=24, vocab=49152)),
        "opt-125m": (config_of(opt), opt),
        "opt-125m, LoRA": (config_of(opt, LORA), opt),
        "opt-125m, one backbone": (config_of(opt, SHARED), opt),
    }


def planned(config: LmConfig, work: Work) -> dict[str, float]:
    """Return the predicted figures."""
    found = plan(config, prompt_tokens=work.prompt, response_tokens=work.response)
    return {"peak_mb": found.memory["ppo"].peak / 2**20, **asdict(found.time), "total_s": found.time.ppo}


def measured(config: LmConfig, work: Work, iters: int) -> dict[str, float]:
    """Return the measured figures; the first step is excluded from the times."""
    step = Step(work, config, config.ppo, num_critic_layers=config.reward.num_layers)
    best = learning_state(step.policy)  # the copy of the best actor that a run keeps
    rows = [step(index) for index in range(1 + iters)]
    del best
    medians = {name: statistics.median(row[name] for row in rows[1:]) for name in rows[0]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_mb": peak, "generate": medians["gen_s"], "score": medians["score_s"], "train": medians["train_s"]} | {
        name: medians[name] for name in ("total_s", "other_cpus")
    }


def in_own_process(what: str, case: str, settings: argparse.Namespace) -> dict[str, float]:
    """Run `planned` or `measured` of one case in its own process."""
    command = [sys.executable, __file__, "--one", what, "--cases", case]
    command += ["--threads", str(settings.threads), "--iters", str(settings.iters)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    """Print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(cases()), default=list(cases()))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--iters", type=int, default=2)
    parser.add_argument("--one", choices=["planned", "measured"], help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.one:
        hush()
        torch.set_num_threads(settings.threads)
        config, work = cases()[settings.cases[0]]
        both = {"planned": lambda: planned(config, work), "measured": lambda: measured(config, work, settings.iters)}
        print(json.dumps(both[settings.one]()))
        return
    rows = {}
    print(f"{'':<24}{'peak, MB: plan':>15}{'seen':>8}{'ratio':>7}{'step, s: plan':>15}{'seen':>8}{'ratio':>7}")
    for case in settings.cases:
        ahead, seen = (in_own_process(what, case, settings) for what in ("planned", "measured"))
        ratios = {name: ahead[name] / seen[name] for name in ("peak_mb", "total_s", "generate", "score", "train")}
        rows[case] = {"planned": ahead, "measured": seen, "ratios": {k: round(v, 3) for k, v in ratios.items()}}
        print(
            f"{case:<24}{ahead['peak_mb']:>15.0f}{seen['peak_mb']:>8.0f}{ratios['peak_mb']:>7.2f}"
            f"{ahead['total_s']:>15.2f}{seen['total_s']:>8.2f}{ratios['total_s']:>7.2f}",
            flush=True,
        )
    print(json.dumps({"name": "plan", "threads": settings.threads, "iters": settings.iters, "cases": rows}))


if __name__ == "__main__":
    main()
