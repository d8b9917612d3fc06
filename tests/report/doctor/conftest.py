"""Sound runs of a language model and an arm, to which a test gives one sickness."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tercet.config.arm import ArmConfig
from tercet.report.records import Record, read

Tree = dict[str, Any]  # Any: JSON
NUM = 40


@pytest.fixture
def sound(finished: Path) -> Record:
    """A sound run of a language model, with every metric that the doctor reads."""
    record, chance = read(finished), random.Random(1)
    rows = [_before_ppo(row) if row["step"] == "ppo" and row["index"] == 0 else row for row in record.metrics]
    rows = [row | _more_of_language(row, chance) for row in rows]
    rows += [{"step": "dpo", "index": i, "dpo/loss": 0.5 + 0.2 * math.exp(-i / 10)} for i in range(40)]
    timings = [{"step": "ppo", "index": i, "seconds": 20 + chance.random(), "reward_seconds": 2.0} for i in range(NUM)]
    results = record.results | {"prompt_overlap": {"sft": 0.01, "ppo": 0.0}}
    results["reward_model"] = results["reward_model"] | {"length_accuracy": {"chatterbot": 0.6}}
    config = record.config | {"ppo": record.config["ppo"] | {"kl_stop": 0.05, "watch": ["mine:asks"]}}
    return Record(**{**vars(record), "metrics": rows, "timings": timings, "results": results, "config": config})


@pytest.fixture
def sound_arm() -> Record:
    """A sound run of an arm."""
    chance = random.Random(2)
    rows: list[Tree] = [
        {
            "step": "bc",
            "index": i,
            "bc/loss": 0.7 * math.exp(-i / 20) + 0.01,
            "bc/grad_norm": 0.3 + 0.1 * chance.random(),
        }
        for i in range(60)
    ]
    rows += [{"step": "reward", "index": i, "reward/loss": 0.2 + 2 * math.exp(-i / 10)} for i in range(60)]
    rows += [_of_arm(i, chance) for i in range(NUM)]
    results = {
        "reward_model": {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "num_held_out": 50},
        "best_checkpoint": {"update": 30},
        "clone_success": 0.3,
    }
    names = ("environment", "samples", "answers", "reward_texts", "starts", "videos", "held_out")
    empty: Tree = {name: {} if name == "environment" else [] for name in names}
    config = ArmConfig.model_validate({"ppo": {"max_kl": 1000}}).model_dump(mode="json")
    return Record(name="arm", config=config, metrics=rows, timings=[], results=results, sampled_pairs=False, **empty)


@pytest.fixture
def with_curve() -> Callable[..., Record]:
    """Replace a metric in all rows of PPO that have it, or in all of a step, by a function of the row's index."""

    def change(record: Record, metric: str, value: Callable[[int], float], *, step: str = "ppo") -> Record:
        rows = [
            row | {metric: value(row["index"])} if row["step"] == step and metric in row else row
            for row in record.metrics
        ]
        return record.with_rows(metrics=rows, timings=record.timings)

    return change


def _before_ppo(row: Tree) -> Tree:
    """Return the row of the validation before the first update."""
    return {name: row[name] for name in ("step", "index", "ppo/validation_score")} | {"ppo/validation_kl": 0.0}


def _more_of_language(row: Tree, chance: random.Random) -> Tree:
    if row["step"] != "ppo":
        return {}
    index, more = row["index"], {}
    if index:
        more = {"ppo/score_std": 1.0, "ppo/num_minibatches": 4.0}
        more |= {"ppo/duplicate_fraction": 0.05 * chance.random(), "ppo/copied_fraction": 0.02 * chance.random()}
    if index == 1:  # before the first step of the actor
        more |= {"ppo/kl": 1e-6}
    if "ppo/validation_score" in row:
        more |= {"ppo/watch/asks": 0.6 + 0.002 * index, "ppo/watch_error/asks": 0.02}
    return more


def _of_arm(index: int, chance: random.Random) -> Tree:
    row: Tree = {
        "step": "ppo",
        "index": index,
        "ppo/kl": 2.0 * index,
        "ppo/score": 5 + 0.5 * index,
        "ppo/score_std": 2.0,
        "ppo/entropy": 1.1 - 0.01 * index,
        "ppo/actor_loss": -0.01,
        "ppo/clip_fraction": 0.15,
        "ppo/approx_kl": 0.01,
        "ppo/explained_variance": 0.8 - math.exp(-index / 3),
        "ppo/actor_grad_norm": 3 + chance.random(),
        "ppo/critic_grad_norm": 5 + 5 * chance.random(),
        "ppo/num_minibatches": 4.0,
        "ppo/blown_up": 0.0,
        "ppo/success": min(1.0, 0.3 + 0.02 * index),
        "ppo/reached": min(1.0, 0.35 + 0.02 * index),
        "ppo/score_ranks_success": 0.8,
        "ppo/progress_ranks_success": 0.8,
    }
    if index % 5 == 0:
        row |= {"ppo/validation_score": min(1.0, 0.3 + 0.02 * index), "ppo/validation_kl": 2.0 * index}
    return row
