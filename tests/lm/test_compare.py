"""Algorithms from one start, with an equal budget: what they share, what the page says, and going on after a kill."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from click.testing import Result
from tests.killed_commands import killed_at_random

from tercet.config.load import load_lm_config
from tercet.core.kl import best_of_n_kl
from tercet.errors import InputError
from tercet.lm import compare
from tercet.runs.folder import RunFolder

Tercet = Callable[..., Result]
Row = dict[str, Any]  # Any: JSON
TOKENS = 150
ALGORITHMS = "ppo,rloo,dpo,best-of-n"
FEW = [
    *("ppo.eval_every=5", "ppo.lr=1e-2", "dpo.max_steps=3", "dpo.lr=1e-2", "eval.best_of_n=2"),
    *("judge=tercet.lm.preferences.judge:polite_and_to_the_point", "sft.lr=1e-2"),
]


def rows(run: Path, step: str) -> list[Row]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["step"] == step]


def answers(run: Path) -> list[Row]:
    return json.loads((run / "compare" / "answers.json").read_text())


@pytest.fixture(scope="module")
def settings(small: list[str]) -> list[str]:
    """The small settings, and rates at which something is learned."""
    return [*small, *FEW]


@pytest.fixture(scope="module")
def compared(tercet: Tercet, settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison of one seed; look, don't touch."""
    out = tmp_path_factory.mktemp("compare") / "all"
    result = tercet(
        *("lm", "compare", "--preset", "tiny", "--out", out, "--algorithms", ALGORITHMS),
        *("--seeds", 1, "--tokens", TOKENS, *settings),
    )
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.slow
def test_all_start_from_one_sft_policy_and_one_reward_model(compared: Path) -> None:
    for name in ("ppo-0", "rloo-0", "dpo-0", "best-of-2-0"):
        for file in ("sft/model/model.safetensors", "reward/model/model.safetensors"):
            assert (compared / name / file).read_bytes() == (compared / "start" / file).read_bytes()
        for step in ("sft", "reward"):
            assert rows(compared / name, step) == rows(compared / "start", step)
    assert rows(compared / "ppo-0", "ppo")[0]["ppo/validation_score"] == pytest.approx(
        rows(compared / "rloo-0", "ppo")[0]["ppo/validation_score"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo-0", "rloo-0"])
def test_training_ends_at_the_budget_and_its_rate_falls_with_the_tokens(compared: Path, name: str) -> None:
    updates = rows(compared / name, "ppo")[1:]
    sampled = [0, *(row["ppo/sampled_tokens"] for row in updates)]
    assert sampled[-2] < TOKENS <= sampled[-1]
    for row, before, now in zip(updates, sampled, sampled[1:], strict=False):
        assert now - before == pytest.approx(8 * row["ppo/response_length"], abs=1e-3)
        assert row["ppo/lr"] == pytest.approx(1e-2 * (1 - before / TOKENS))
    assert "ppo/validation_score" in updates[-1]  # the last policy may be the best


@pytest.mark.slow
def test_figures_follow_from_the_answers(compared: Path) -> None:
    results = json.loads((compared / "results.json").read_text())
    assert list(results) == ["ppo", "rloo", "dpo", "best-of-2"]
    before = answers(compared / "start")
    for name, figures in results.items():
        after = answers(compared / f"{name}-0")
        assert [row["prompt"] for row in after] == [row["prompt"] for row in before]
        pairs = [(a["scores"]["judge"], b["scores"]["judge"]) for a, b in zip(after, before, strict=True)]
        expected = fmean((a > b) + 0.5 * (a == b) for a, b in pairs)
        assert figures["win_rate"]["judge"]["mean"] == pytest.approx(expected)
        assert figures["kl"] == pytest.approx(fmean(row["kl"] for row in after), abs=1e-6)
        assert ("seconds" in figures) == ("peak_bytes" in figures) == (name != "best-of-2")
    assert results["best-of-2"]["kl"] == pytest.approx(best_of_n_kl(2))
    assert results["ppo"]["peak_bytes"] > 50e6 and results["ppo"]["sampled_tokens"] >= TOKENS
    assert all(row["kl"] == 0 for row in before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "rloo", "dpo"])
def test_a_policy_that_did_not_move_ties_with_sft(compared: Path, name: str) -> None:
    best = json.loads((compared / f"{name}-0" / "results.json").read_text()).get("best_checkpoint", {"update": -1})
    texts = [[row["answer"] for row in answers(compared / run)] for run in (f"{name}-0", "start")]
    assert (texts[0] == texts[1]) == (best["update"] == 0)
    if best["update"] == 0:
        figures = json.loads((compared / "results.json").read_text())[name]
        assert figures["kl"] == pytest.approx(0, abs=1e-6)
        assert {rate["mean"] for rate in figures["win_rate"].values()} == {0.5}


@pytest.mark.slow
def test_the_page_shows_everything_and_is_written_again(compared: Path, tercet: Tercet, tmp_path: Path) -> None:
    page = (compared / "report.md").read_text()
    for words in ("Win rate against KL", "Best-of-2", "RLOO", "tokens sampled", "peak GiB", "Answers side by side"):
        assert words in page
    assert "<svg" in (compared / "report.html").read_text()
    copy = shutil.copytree(compared, tmp_path / "copy")
    (copy / "report.md").unlink()
    assert tercet("report", copy).exit_code == 0
    assert (copy / "report.md").read_text().replace("copy", "all") == page


@pytest.mark.slow
def test_the_same_command_does_nothing_again_and_seeds_can_be_added(
    compared: Path, tercet: Tercet, settings: list[str], tmp_path: Path
) -> None:
    out = shutil.copytree(compared, tmp_path / "more")
    same = ("lm", "compare", "--preset", "tiny", "--out", out, "--tokens", TOKENS, *settings)
    result = tercet(*same, "--algorithms", ALGORITHMS, "--seeds", 1)
    assert result.exit_code == 0, result.output
    assert result.output.count("already done") == 2 + 1 + 3 + 4  # the start, its measurement, steps, measurements
    result = tercet(*same, "--algorithms", "best-of-2", "--seeds", 2)
    assert result.exit_code == 0, result.output
    figures = json.loads((out / "results.json").read_text())["best-of-2"]
    assert figures["num_seeds"] == 2
    by_seed = figures["win_rate"]["judge"]["by_seed"]
    assert figures["win_rate"]["judge"]["mean"] == pytest.approx(fmean(by_seed))
    assert answers(out / "best-of-2-0") != answers(out / "best-of-2-1")


@pytest.mark.slow
def test_a_finished_run_may_be_the_start(compared: Path, tercet: Tercet, settings: list[str], tmp_path: Path) -> None:
    same = ("lm", "compare", "--from", compared / "start", "--algorithms", "best-of-2", "--seeds", 1)
    result = tercet(*same, "--out", tmp_path / "out", "--tokens", TOKENS)
    assert result.exit_code == 0, result.output
    assert answers(tmp_path / "out" / "best-of-2-0") == answers(compared / "best-of-2-0")
    result = tercet(*same, "--out", tmp_path / "other", "sft.lr=1", "ppo.lr=2")
    assert result.exit_code == 2 and "were trained with another sft.lr; leave" in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--algorithms", "ppo,dqn"], "'dqn' is unknown"),
        (["--algorithms", "best-of-1"], "'best-of-1' is unknown"),
        (["--algorithms", "ppo,ppo"], "each once"),
        (["--algorithms", "rloo", "ppo.batch_size=9"], "are not groups of group_size=8"),
        (["reward.num_rounds=1"], "set reward.num_rounds=0"),
        (
            [
                *("--algorithms", "rloo,dpo", "reward.num_sampled_pairs=0"),
                "ppo.reward={tercet.lm.preferences.judge:polite_and_to_the_point: 1.0}",
            ],
            "has no rejected responses",
        ),
        (["ppo.reward={reward_model: 1.0, 'no_such_module:score': 1.0}"], "no_such_module"),
        (["eval.unseen_judges=['no_such_module:other']"], "no_such_module"),
        (["ppo.reward={tercet.lm.preferences.judge:polite_and_to_the_point: 1.0}"], "eval.best_of_n=8 chooses by"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_once(
    options: list[str], says: str, tercet: Tercet, tmp_path: Path
) -> None:
    result = tercet("lm", "compare", "--preset", "tiny", "--out", tmp_path / "out", *options)
    assert result.exit_code == 2 and says in result.output.replace("\n  ", " "), result.output
    assert not (tmp_path / "out").exists()


def test_best_of_n_needs_a_reward_model(take: Callable[..., Path], small: list[str], tmp_path: Path) -> None:
    settings = [*small, "eval.best_of_n=4"]
    config = load_lm_config("tiny", settings)
    with (
        RunFolder.open(take("sft", tmp_path, *settings), config, preset="tiny") as folder,
        pytest.raises(InputError, match=r"eval\.best_of_n: this run has no reward model yet"),
    ):
        compare.run(folder, config)


@pytest.mark.slow
def test_another_budget_or_another_folder_is_refused(compared: Path, tercet: Tercet, settings: list[str]) -> None:
    same = ("lm", "compare", "--preset", "tiny", *settings, "--algorithms", ALGORITHMS, "--seeds", 1)
    result = tercet(*same, "--out", compared, "--tokens", TOKENS + 1)
    assert result.exit_code == 2 and f"made with tokens={TOKENS}, not {TOKENS + 1}" in result.output
    result = tercet(*same, "--out", compared / "start", "--tokens", TOKENS)
    assert result.exit_code == 2 and "is not empty and no comparison" in result.output


@pytest.mark.slow
def test_a_comparison_killed_at_random_goes_on_to_the_same_bits(
    compared: Path, settings: list[str], tmp_path: Path
) -> None:
    command = [
        *(str(Path(sys.executable).with_name("tercet")), "lm", "compare", "--preset", "tiny"),
        *(
            "--out",
            str(tmp_path / "out"),
            "--algorithms",
            ALGORITHMS,
            "--seeds",
            "1",
            "--tokens",
            str(TOKENS),
            *settings,
        ),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    assert killed_at_random(command, environment, tmp_path / "out", most_rows=6) >= 2
    for name in ("ppo-0", "rloo-0", "dpo-0", "best-of-2-0"):
        for file in ("metrics.jsonl", "compare/answers.json"):
            assert (tmp_path / "out" / name / file).read_bytes() == (compared / name / file).read_bytes(), (name, file)
