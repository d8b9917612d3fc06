import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tercet.report import page, render_html
from tercet.report.records import read

Change = Callable[[Callable[[dict[str, Any]], None]], Path]  # Any: JSON


def test_the_first_sentence_states_the_result(html: str, markdown: str) -> None:
    says = "PPO beat SFT on 87% of 128 held-out prompts (95% interval 81% to 93%), at a KL of 6.13 nats per answer."
    assert says in html
    assert f"**{says}**" in markdown


def test_a_finished_run_has_every_curve_and_table(html: str, markdown: str) -> None:
    wanted = [
        "Clipped scores",
        "Actor loss", "Critic loss", "Reward", "KL to the reference", "Entropy", "Clip fraction", "Explained variance",
        "Answer length", "SFT loss", "Reward-model loss", "Calibration", "Who wins", "Stage by stage",
        "Good and bad answers to the same prompt", "Self-check before the first update", "As training went on",
        "Where PPO lost most", "git_commit", "max_response_tokens", "−12.40", "12.88",
        "About 0.081 of it is chance",
    ]  # fmt: skip
    for one in wanted:
        assert one in html
        assert one.replace("_", r"\_") in markdown or one in markdown


def test_a_run_without_a_critic_names_its_algorithm_and_shows_no_critic(written: Path) -> None:
    record = read(written)
    without = ("ppo/critic_loss", "ppo/critic_grad_norm", "ppo/explained_variance")
    metrics = [{name: value for name, value in row.items() if name not in without} for row in record.metrics]
    metrics = [row | ({"ppo/equal_groups": 0.25} if "ppo/score" in row else {}) for row in metrics]
    config = record.config | {"ppo": record.config["ppo"] | {"algorithm": "dr_grpo"}}
    html = render_html.render(page.compose(replace(record, config=config, metrics=metrics)))
    assert "3. Improve: Dr. GRPO" in html and "This step used Dr. GRPO, which has no critic" in html
    assert "Groups of equal scores" in html and "Most groups teach something" in html
    assert "Critic loss" not in html and "Explained variance" not in html


def test_the_same_run_gives_the_same_page(written: Path, html: str) -> None:
    assert page.write(written).read_text() == html


def test_a_run_without_results_is_reported(finished: Path) -> None:
    for name in ("metrics.jsonl", "samples.jsonl", "results.json"):
        (finished / name).unlink()
    for file in (finished / "eval").iterdir():
        file.unlink()
    html = page.write(finished).read_text()
    assert "No step has been run yet" in html
    assert html.count("not run yet") == 3


def test_a_run_in_progress_is_reported_without_its_incomplete_last_line(finished: Path) -> None:
    metrics = (finished / "metrics.jsonl").read_text().splitlines(keepends=True)
    (finished / "metrics.jsonl").write_text("".join(metrics[:30]) + metrics[30][:25])
    (finished / "results.json").unlink()
    html = page.write(finished).read_text()
    assert "In progress: sft so far" in html
    assert "in 30 steps" in html
    assert "Critic loss" not in html


def test_a_reward_model_alone_is_reported(change: Change) -> None:
    def only_reward(tree: dict[str, Any]) -> None:
        for key in set(tree) - {"reward_model"}:
            del tree[key]

    run = change(only_reward)
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(row for row in rows if json.loads(row)["step"] == "reward"))
    html = page.write(run).read_text()
    outcome = re.search(r'class="outcome">(.*?)</p>', html)
    assert outcome
    assert outcome[1].startswith("The reward model picks the preferred answer in 81% of 240 held-out pairs")
    assert html.count("not run yet") == 2


def test_a_run_that_is_rewarded_by_functions_says_that_it_has_no_reward_model(finished: Path) -> None:
    rows = (finished / "metrics.jsonl").read_text().splitlines(keepends=True)
    (finished / "metrics.jsonl").write_text("".join(row for row in rows if json.loads(row)["step"] != "reward"))
    results = json.loads((finished / "results.json").read_text())
    del results["reward_model"]
    (finished / "results.json").write_text(json.dumps(results))
    config = yaml.safe_load((finished / "config.yaml").read_text())
    config["ppo"]["reward"] = {"mine:exact": 1.0}
    (finished / "config.yaml").write_text(yaml.safe_dump(config))
    html = page.write(finished).read_text()
    assert "not in this run" in html and "the reward is exact" in html and "not run yet" not in html


def test_a_single_update_is_enough_for_a_page(finished: Path) -> None:
    rows = [json.loads(row) for row in (finished / "metrics.jsonl").read_text().splitlines()]
    (finished / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if row["index"] == 0))
    assert "Critic loss" in page.write(finished).read_text()


def test_the_report_needs_no_torch(finished: Path) -> None:
    code = "import sys; from pathlib import Path; from tercet.report import page; page.write(Path(sys.argv[1])); "
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit('torch' in sys.modules)", str(finished)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
