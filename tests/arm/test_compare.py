"""Algorithms from one clone with an equal budget: what they share, what the page says, and going on after a kill."""

import json
import os
import shutil
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from tests.arm.conftest import SMALL
from tests.killed_commands import killed_at_random
from typer.testing import CliRunner, Result

from tercet.api import compare_arm
from tercet.arm import compare, pipeline
from tercet.cli import app
from tercet.config.load import load_arm_config
from tercet.errors import FailedError
from tercet.report.comparison import numbers, page
from tercet.runs.folder import RunFolder

Row = dict[str, Any]  # Any: JSON
STEPS = 400  # of rollouts of 8 episodes of 20 steps
ALGORITHMS = "ppo,rloo,reinforce++"
SETTINGS = [
    *SMALL,
    *("env=reach", "horizon=20", "bc.num_demonstrations=4", "bc.epochs=60", "bc.lr=3e-3"),  # succeeds now and then
    *("ppo.num_envs=8", "ppo.lr=3e-3", "ppo.eval_every=1", "ppo.num_eval_states=8"),
    *("eval.num_states=16", "eval.num_videos=1"),
]
FILES = ("bc/model/model.safetensors", "reward/model/model.safetensors")


def tercet(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(run: Path, step: str) -> list[Row]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["step"] == step]


def starts(run: Path) -> list[Row]:
    return json.loads((run / "compare" / "starts.json").read_text())


def results(out: Path) -> Row:
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison of one seed; look, don't touch."""
    out = tmp_path_factory.mktemp("compare") / "all"
    result = tercet(
        *("arm", "compare", "--preset", "lift", "--out", out, "--algorithms", ALGORITHMS),
        *("--seeds", 1, "--steps", STEPS, *SETTINGS),
    )
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.slow
def test_all_start_from_one_clone_and_one_reward_model(compared: Path) -> None:
    names = [f"{name}-0" for name in ALGORITHMS.split(",")]
    for name in names:
        for file in FILES:
            assert (compared / name / file).read_bytes() == (compared / "start" / file).read_bytes()
        for step in ("bc", "reward"):
            assert rows(compared / name, step) == rows(compared / "start", step)
    first = [rows(compared / name, "ppo")[0]["ppo/validation_score"] for name in names]
    assert first == [first[0]] * len(names)
    trained = [(compared / name / "ppo" / "model" / "model.safetensors").read_bytes() for name in names]
    assert len({*trained, (compared / "start" / FILES[0]).read_bytes()}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS.split(","))
def test_every_run_plays_the_budget_and_its_rate_falls_to_the_end_of_it(compared: Path, name: str) -> None:
    updates = rows(compared / f"{name}-0", "ppo")[1:]
    assert [row["index"] for row in updates] == [1, 2, 3]  # the first whose steps reach the budget
    assert [row["ppo/lr"] for row in updates] == pytest.approx([3e-3, 2e-3, 1e-3])
    assert results(compared)[name]["env_steps"] == 3 * 8 * 20


@pytest.mark.slow
def test_figures_follow_from_the_starts(compared: Path) -> None:
    found = results(compared)
    assert list(found) == ["start", *ALGORITHMS.split(",")]
    for name, figures in found.items():
        run = compared / (name if name == "start" else f"{name}-0")
        assert figures["success"]["mean"] == fmean(row["success"] for row in starts(run))
        assert figures["return"] == pytest.approx(fmean(row["return"] for row in starts(run)))
        assert ("seconds" in figures) == ("peak_bytes" in figures) == (name != "start")
    assert found["ppo"]["peak_bytes"] > 50e6 and found["ppo"]["success"]["num_states"] == 16


@pytest.mark.slow
def test_the_starts_are_those_of_an_evaluation_with_seed_0_whatever_the_seed(compared: Path, tmp_path: Path) -> None:
    run = shutil.copytree(compared / "ppo-0", tmp_path / "run")
    config = load_arm_config(run / "config.yaml", [])
    with RunFolder.open(run, config, preset="lift") as folder:
        pipeline.run_step(folder, config, "eval")
    stages = json.loads((run / "eval" / "starts.json").read_text())
    assert [row["ppo"] for row in stages] == starts(compared / "ppo-0")
    assert [row["bc"] for row in stages] == starts(compared / "start")
    other = load_arm_config(run / "config.yaml", ["seed=7"])
    with RunFolder.open(tmp_path / "other", other, preset="lift") as folder:
        shutil.copytree(compared / "start" / "bc", folder.path / "bc")
        compare.run(folder, other)
    assert starts(tmp_path / "other") == starts(compared / "start")


@pytest.mark.slow
def test_the_page_shows_everything_and_is_written_again(compared: Path, tmp_path: Path) -> None:
    page, html = (compared / "report.md").read_text(), (compared / "report.html").read_text()
    for words in (
        "Success on fresh starts",
        "REINFORCE++",
        "RLOO",
        "environment steps",
        "peak GiB",
        "What was compared",
    ):
        assert words in page
    assert "<svg" in html
    missing = json.loads((compared / "ppo-0" / "results.json").read_text())["compare"].get("videos_missing")
    assert ("OpenGL" in page) if missing else (html.count("<video") == 4 and "ppo-0/compare/videos/start-0.mp4" in page)
    copy = shutil.copytree(compared, tmp_path / "copy")
    (copy / "report.md").unlink()
    assert tercet("report", copy).exit_code == 0
    assert (copy / "report.md").read_text().replace("copy", "all") == page


@pytest.mark.slow
def test_the_same_command_does_nothing_again_and_seeds_can_be_added(compared: Path, tmp_path: Path) -> None:
    out = shutil.copytree(compared, tmp_path / "more")
    same = ("arm", "compare", "--preset", "lift", "--out", out, "--steps", STEPS, *SETTINGS)
    result = tercet(*same, "--algorithms", ALGORITHMS, "--seeds", 1)
    assert result.exit_code == 0, result.output
    assert result.output.count("already done") == 3 + 2 * 3  # the start, its measurement, steps, measurements
    before = starts(out / "ppo-0")
    result = tercet(*same, "--algorithms", "ppo", "--seeds", 2)
    assert result.exit_code == 0, result.output
    figures = results(out)["ppo"]
    assert figures["num_seeds"] == 2
    assert figures["success"]["mean"] == pytest.approx(fmean(figures["success"]["by_seed"]))
    assert starts(out / "ppo-0") == before
    assert rows(out / "ppo-0", "ppo") != rows(out / "ppo-1", "ppo")


@pytest.mark.slow
def test_a_finished_run_may_be_the_start_and_rounds_may_follow(compared: Path, tmp_path: Path) -> None:
    same = ("arm", "compare", "--from", compared / "start", "--algorithms", "grpo", "--seeds", 1, "--steps", STEPS)
    rounds = ("reward.num_rounds=1", "reward.round_every=1", "reward.pairs_per_round=4")
    result = tercet(*same, "--out", tmp_path / "out", *rounds)
    assert result.exit_code == 0, result.output
    assert starts(tmp_path / "out" / "start") == starts(compared / "start")
    assert "asks the judge about its own episodes in 1 round." in (tmp_path / "out" / "report.md").read_text()
    result = tercet(*same, "--out", tmp_path / "other", "bc.lr=1", "ppo.lr=2")
    assert result.exit_code == 2 and "were trained with another bc.lr; leave" in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--algorithms", "ppo,dqn"], "'dqn' is unknown"),
        (["--algorithms", "dpo"], "'dpo' is unknown"),
        (["--algorithms", "ppo,ppo"], "each once"),
        (["--algorithms", "rloo", "ppo.num_envs=9"], "are not groups of group_size=8"),
        (["--algorithms", "ppo,dapo"], "max_redraws=4 is for prompts"),
        (["--algorithms", "gspo"], "ratio_of=response_mean is for responses"),
        (["reward.judge=no_such_module:judge"], "no_such_module"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_once(options: list[str], says: str, tmp_path: Path) -> None:
    result = tercet("arm", "compare", "--preset", "lift", "--out", tmp_path / "out", *options)
    assert result.exit_code == 2 and says in result.output.replace("\n  ", " "), result.output
    assert not (tmp_path / "out").exists()


def test_a_comparison_of_language_models_is_another(tmp_path: Path) -> None:
    (tmp_path / numbers.FILE).write_text('{"tokens": 0, "start": "", "algorithms": ["ppo"], "seeds": 1}')
    result = tercet("arm", "compare", "--out", tmp_path)
    assert result.exit_code == 2 and "was made with domain=lm, not arm" in result.output


@pytest.mark.slow
def test_another_budget_or_another_folder_is_refused(compared: Path) -> None:
    same = ("arm", "compare", "--preset", "lift", *SETTINGS, "--algorithms", ALGORITHMS, "--seeds", 1)
    result = tercet(*same, "--out", compared, "--steps", STEPS + 1)
    assert result.exit_code == 2 and f"made with steps={STEPS}, not {STEPS + 1}" in result.output
    result = tercet(*same, "--out", compared / "start", "--steps", STEPS)
    assert result.exit_code == 2 and "is not empty and no comparison" in result.output


def test_without_opengl_the_page_says_why_it_has_no_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tercet.arm.sim.render

    def fails(*args: object, **kwargs: object) -> None:
        raise FailedError("cannot render: no OpenGL without a screen; apt-get install libegl1")

    monkeypatch.setattr(tercet.arm.sim.render.Studio, "picture", fails)
    config = load_arm_config("reach", SETTINGS)
    for name in ("start", "ppo-0"):
        with RunFolder.open(tmp_path / name, config, preset="reach") as folder:
            compare.run(folder, config)
    plan = {"domain": "arm", "steps": 0, "start": "", "algorithms": ["ppo"], "seeds": 1}
    (tmp_path / numbers.FILE).write_text(json.dumps(plan))
    page.write(tmp_path)
    assert "Videos are missing: cannot render" in (tmp_path / "report.md").read_text()
    assert starts(tmp_path / "start") == starts(tmp_path / "ppo-0") and len(starts(tmp_path / "start")) == 16


@pytest.mark.slow
def test_a_comparison_killed_at_random_goes_on_to_the_same_bits(compared: Path, tmp_path: Path) -> None:
    command = [
        *(str(Path(sys.executable).with_name("tercet")), "arm", "compare", "--preset", "lift"),
        *("--out", str(tmp_path / "out"), "--algorithms", ALGORITHMS, "--seeds", "1", "--steps", str(STEPS)),
        *SETTINGS,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert killed_at_random(command, environment, tmp_path / "out", most_rows=12) >= 2
    for name in ALGORITHMS.split(","):
        for file in ("metrics.jsonl", "compare/starts.json", "ppo/model/model.safetensors"):
            assert (tmp_path / "out" / f"{name}-0" / file).read_bytes() == (compared / f"{name}-0" / file).read_bytes()


def test_rounds_that_do_not_fit_into_the_budget_are_said() -> None:
    rounds = ["ppo.num_updates=11", "reward.num_rounds=4", "reward.round_every=2"]
    config = load_arm_config("lift", [*SETTINGS, *rounds])  # an update plays 160 steps
    (line,) = compare_arm.cut_short(config, 640)
    assert line == (
        "compare: 640 steps are 4 updates, so each run has 1 round of new judgements and not 4; --steps 1440 has them "
        "all, and a smaller reward.round_every asks earlier"
    )
    assert compare_arm.cut_short(config, 1440) == []
    assert len(compare_arm.cut_short(config, 1280)) == 1
