"""The tables of results.json."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tercet.report import page

Change = Callable[[Callable[[dict[str, Any]], None]], Path]  # Any: JSON


def test_sequential_sets_have_a_table_of_forgetting(change: Change) -> None:
    def sequential(tree: dict[str, Any]) -> None:
        tree["reward_model"]["forgetting"] = [
            {"after": name, "accuracy": {"webgpt": a, "SHP": b}}
            for name, a, b in (("webgpt", 0.71, 0.52), ("SHP", 0.64, 0.69))
        ]

    markdown = (page.write(change(sequential)).parent / "report.md").read_text()
    assert "| after webgpt | 52% | 71% |" in markdown
    assert "| after SHP | 69% | 64% |" in markdown
