"""The tables of results.json."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tercet.report import page

Change = Callable[[Callable[[dict[str, Any]], None]], Path]  # Any: JSON


def test_dpo_and_best_of_n_stand_beside_ppo(change: Change) -> None:
    rate = {"mean": 0.7, "low": 0.6, "high": 0.8, "num_prompts": 128}

    def measured(tree: dict[str, Any]) -> None:
        for one, kl in (("dpo", 3.25), ("best-of-8", 1.2)):
            tree["win_rate"] |= {f"{one}_vs_{other}": {"judge": rate} for other in ("sft", "ppo")}
            tree["mean_score"][one] = {"judge": kl}
            tree["response_length"][one] = 10.0
        tree["dpo"] = {"accuracy": {"chatterbot": rate}, "margin": {"chatterbot": 0.44}, "kl_to_reference": 3.25}
        tree["best_of_n"] = {"n": 8, "kl_to_reference": 1.204}

    before = (page.write(change(lambda tree: None)).parent / "report.md").read_text()
    assert "DPO" not in before and "Best-of" not in before
    after = (page.write(change(measured)).parent / "report.md").read_text()
    assert "| DPO against SFT |" in after and "| Best-of-8 against PPO |" in after
    assert "| DPO | 3.25 | – | 3.25 | – | 10.0 |" in after  # judge, reward model, KL, perplexity, length
    assert "| Best-of-8 | 1.20 | – | 1.20 | – | 10.0 |" in after
    assert "DPO won 70% of 128 held-out prompts against SFT (95% interval 60% to 80%), at a KL of 3.25 nats" in after
    assert "The implicit reward of an answer is beta" in after and "| 0.44 |" in after


def test_sequential_sets_have_a_table_of_forgetting(change: Change) -> None:
    def sequential(tree: dict[str, Any]) -> None:
        tree["reward_model"]["forgetting"] = [
            {"after": name, "accuracy": {"webgpt": a, "SHP": b}}
            for name, a, b in (("webgpt", 0.71, 0.52), ("SHP", 0.64, 0.69))
        ]

    markdown = (page.write(change(sequential)).parent / "report.md").read_text()
    assert "| after webgpt | 52% | 71% |" in markdown
    assert "| after SHP | 69% | 64% |" in markdown
