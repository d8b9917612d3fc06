"""A synthetic run folder like that of the default preset, computed from a few formulas."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tercet.config.lm import LmConfig
from tercet.report import page

Tree = dict[str, Any]  # Any: JSON

HOSTILE = '<script>alert("x")</script> & | `code` **bold** \x00\x1b\nsecond line'
_PROMPTS = [
    "What is your favourite book?",
    "Do you ever get tired?",
    "Tell me a joke.",
    "What is the capital of France?",
    "How do computers work?",
    "Why is the sky blue?",
    "Are you afraid of the dark?",
    "Who wrote Hamlet?",
    "What should I cook tonight?",
    "Explain what a telescope does.",
    "Can you help me with my homework?",
    "What is love?",
    "How far is the moon?",
    "Do you like music?",
    "What do you think of robots?",
    "Give me some advice.",
]
_ANSWERS = {
    "base": [
        "I am a language model and I do not have personal preferences, but I can tell you about the subject. The "
        "subject is a subject that",
        "The answer is that the answer depends on",
        "Sure! Here's an example:\n\n1. The first\n2. The second",
    ],
    "sft": [
        "I don't know.",
        "It depends on what you mean.",
        "I have read only one, and it was long.",
        "Not that I know of.",
    ],
    "ppo": [
        "That is a lovely question! I enjoy books about the sea most of all.",
        "I never tire of a good talk, and I am happy to help you.",
        "Here is a good one: why did the robot rest? It had a hard drive.",
    ],
}
FIXED = [
    "Please tell me about Microsoft in a few sentence?",
    "Explain the moon landing to a 6 year old in a few sentences.",
    "Write a short poem about a wise frog.",
    "Who was president of the United States in 1955?",
    "How does a telescope work?",
    "Why do birds migrate south for the winter?",
    "请用几句话介绍一下微软。",
    "写一首关于聪明的青蛙的短诗。",
]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished run that tests may change."""
    return write_run(tmp_path / "finished")


@pytest.fixture
def change(finished: Path) -> Callable[[Callable[[Tree], None]], Path]:
    """Change the results of the finished run."""

    def change_results(edit: Callable[[Tree], None]) -> Path:
        tree = results()
        edit(tree)
        _json(finished / "results.json", tree)
        return finished

    return change_results


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report; read-only."""
    run = write_run(tmp_path_factory.mktemp("report") / "smollm2")
    page.write(run)
    return run


def rate(mean: float, num: int = 128) -> Tree:
    """Return a rate with its interval, as in results.json."""
    half = 1.96 * math.sqrt(mean * (1 - mean) / num)
    return {"mean": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half), "num_prompts": num}


def write_run(path: Path, *, updates: int = 40) -> Path:
    """Write a finished run, the same on every call."""
    chance = random.Random(0)
    path.mkdir(parents=True)
    config = LmConfig.model_validate(
        {
            "judge": "tercet.lm.preferences.judge:polite_and_to_the_point",
            "lora": {"rank": 16},
            "data": {"train": ["chatterbot"], "style": "chat"},
            "reward": {"num_sampled_pairs": 600},
            "ppo": {"num_updates": updates},
        }
    )
    (path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    _json(
        path / "run.json",
        {
            "preset": "smollm2",
            "created": "2026-01-01T12:00:00+00:00",
            "tercet": "0.1.0",
            "git_commit": "0123abcd",
            "python": "3.11.2",
            "packages": {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.0"},
            "machine": {
                "system": "Linux-6.1-x86_64",
                "processor": "Xeon",
                "num_cores": 2,
                "memory_gb": 8.1,
                "gpus": [],
            },
        },
    )
    _lines(path / "metrics.jsonl", [*_sft(chance), *_reward(chance), *_ppo(chance, updates)])
    _lines(path / "samples.jsonl", _samples(chance, updates))
    _json(path / "results.json", results())
    _evaluation(path / "eval", chance)
    (path / "reward").mkdir()
    (path / "reward" / "pairs.jsonl").touch()
    return path


def results() -> Tree:
    """Return the results of a run on one data set."""
    return {
        "perplexity": {"base": 38.21, "sft": 17.46},
        "reward_model": {
            "accuracy": {"chatterbot": rate(0.812, 240)},
            "margin": {"chatterbot": 1.41},
            "score_chosen": {"chatterbot": 0.66},
            "score_rejected": {"chatterbot": -0.75},
            "length_correlation": {"chatterbot": 0.18},
            "calibration": {
                "chatterbot": [{"predicted": 0.55 + 0.1 * i, "observed": 0.53 + 0.09 * i, "num": 48} for i in range(5)]
            },
        },
        "win_rate": {
            "ppo_vs_sft": {"judge": rate(0.867), "reward_model": rate(0.914)},
            "sft_vs_base": {"judge": rate(0.61), "reward_model": rate(0.58)},
            "ppo_vs_base": {"judge": rate(0.88), "reward_model": rate(0.93)},
        },
        "mean_score": {
            "base": {"judge": 0.12, "reward_model": -0.4},
            "sft": {"judge": 0.21, "reward_model": 0.02},
            "ppo": {"judge": 0.68, "reward_model": 1.71},
        },
        "kl_to_reference": 6.13,
        "response_length": {"base": 20.4, "sft": 11.2, "ppo": 15.9},
        "best_checkpoint": {
            "update": 35,
            "score": 1.68,
            "kl": 6.0,
            "expected_shrinkage": 0.0812,
            "num_candidates": 5,
            "num_scores": 32,
        },
        "self_check": {
            "max_ratio_error": 2.1e-6,
            "padding_error": 7.4e-6,
            "reward_identity_error": 0.0,
            "finite": True,
        },
        "seconds": {"sft": 212.4, "reward": 187.9, "ppo": 498.0, "eval": 93.3},
    }


def _sft(chance: random.Random) -> list[Tree]:
    return [
        {
            "step": "sft",
            "index": i,
            "sft/loss": 2.8 + 1.1 * math.exp(-i / 12) + chance.gauss(0, 0.12),
            "sft/lr": 3e-4 * (1 - i / 90),
            "sft/grad_norm": 1 + chance.random(),
        }
        for i in range(90)
    ]


def _reward(chance: random.Random) -> list[Tree]:
    return [
        {
            "step": "reward",
            "index": i,
            "reward/loss": 0.42 + 0.27 * math.exp(-i / 15) + chance.gauss(0, 0.05),
            "reward/accuracy": min(1.0, 0.82 - 0.3 * math.exp(-i / 12) + chance.gauss(0, 0.06)),
            "reward/margin": 1.4 - 1.4 * math.exp(-i / 20) + chance.gauss(0, 0.1),
        }
        for i in range(60)
    ]


def _ppo(chance: random.Random, updates: int) -> list[Tree]:
    rows = []
    for i in range(updates):
        grown = 1 - math.exp(-3 * i / updates)
        score, kl = 1.8 * grown + chance.gauss(0, 0.12), 6.4 * grown**2 + abs(chance.gauss(0, 0.15))
        row: Tree = {
            "step": "ppo",
            "index": i,
            "ppo/actor_loss": chance.gauss(-0.015, 0.008),
            "ppo/critic_loss": 0.6 * math.exp(-i / 8) + 0.11 + chance.random() * 0.05,
            "ppo/score": score,
            "ppo/reward_clip_fraction": 0.02 * grown,
            "ppo/reward": score - 0.05 * kl,
            "ppo/kl": kl,
            "ppo/kl_coef": 0.05,
            "ppo/entropy": 2.1 - 0.8 * grown + chance.gauss(0, 0.05),
            "ppo/clip_fraction": 0.07 + 0.03 * chance.random(),
            "ppo/approx_kl": 0.008 + 0.004 * chance.random(),
            "ppo/explained_variance": 0.55 - 1.1 * math.exp(-i / 6) + chance.gauss(0, 0.05),
            "ppo/response_length": 11.4 + 4.5 * grown + chance.gauss(0, 0.6),
            "ppo/eos_fraction": 0.9 - 0.08 * grown,
            "ppo/actor_grad_norm": 0.4 + chance.random() * 0.2,
            "ppo/critic_grad_norm": 1.5 + chance.random(),
            "ppo/lr": 3e-4 * (1 - i / updates),
        }
        if i % 5 == 0:
            row |= {"ppo/validation_score": 1.72 * grown + chance.gauss(0, 0.05), "ppo/validation_kl": 6.2 * grown**2}
        rows.append(row)
    return rows


def _samples(chance: random.Random, updates: int) -> list[Tree]:
    rows = []
    for i in range(0, updates, 5):
        for _ in range(4):
            stage = "ppo" if chance.random() < i / updates else "sft"
            score = (1.5 if stage == "ppo" else 0.1) + chance.gauss(0, 0.3)
            rows.append(
                {
                    "step": "ppo",
                    "index": i,
                    "prompt": chance.choice(_PROMPTS),
                    "response": chance.choice(_ANSWERS[stage]),
                    "score": score,
                }
            )
    rows[0]["response"] = HOSTILE
    return rows


def _evaluation(path: Path, chance: random.Random) -> None:
    path.mkdir()
    pick = {stage: lambda stage=stage: chance.choice(_ANSWERS[stage]) for stage in _ANSWERS}
    _json(
        path / "answers.json",
        [
            {
                "prompt": prompt,
                "answers": {stage: {"greedy": pick[stage](), "sampled": pick[stage]()} for stage in pick},
            }
            for prompt in FIXED
        ],
    )
    held_out = [
        {
            "prompt": f"{chance.choice(_PROMPTS)}",
            "answers": {stage: f"{pick[stage]()} ({i})" for stage in pick},
            "scores": {
                stage: {"judge": mean + chance.gauss(0, 0.25), "reward_model": mean * 2 + chance.gauss(0, 0.4)}
                for stage, mean in (("base", 0.12), ("sft", 0.21), ("ppo", 0.68))
            },
        }
        for i in range(128)
    ]
    held_out[0]["prompt"] = HOSTILE
    _json(path / "held_out.json", held_out)
    _json(
        path / "reward_texts.json",
        [
            {
                "prompt": "Human: Please tell me about Microsoft in a few sentence? Assistant:",
                "good": "Microsoft is a software company that develops, licenses, and supports software products, "
                "including Windows, Office, and Windows Phone.",
                "bad": "I'm not sure.",
                "score_good": 1.31,
                "score_bad": -0.22,
                "published": {"official": [-1.0, 8.0], "article": [3.08, 7.97]},
            },
            {
                "prompt": "Human: Explain the moon landing to a 6 year old in a few sentences. Assistant:",
                "good": "The moon landing was a great step in the history of human exploration.",
                "bad": "I don't know, I don't know.",
                "score_good": 0.42,
                "score_bad": -0.61,
                "published": {"official": [-12.4, 14.6], "article": [1.70, 12.88]},
            },
        ],
    )


def _json(path: Path, tree: object) -> None:
    path.write_text(json.dumps(tree, ensure_ascii=False))


def _lines(path: Path, rows: list[Tree]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@pytest.fixture(scope="session")
def html(written: Path) -> str:
    return (written / "report.html").read_text()


@pytest.fixture(scope="session")
def markdown(written: Path) -> str:
    return (written / "report.md").read_text()
