"""A step is done once, and again where what it was built on is another."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.runs.folder import RunFolder
from tercet.runs.once import check_data, is_up_to_date, run_once

NAMES = ["sft", "reward", "ppo", "eval"]


@pytest.fixture
def give(tmp_path: Path) -> Callable[..., list[str]]:
    """Give commands one after the other: `give("eval", "ppo")` returns the steps that were worked at."""

    def given(*names: str, needed: list[str] = NAMES) -> list[str]:
        worked: list[str] = []

        def step_of(name: str) -> Callable[[RunFolder, LmConfig], None]:
            def run(folder: RunFolder, config: LmConfig) -> None:
                with folder.step(name, total=1, shown=[]) as step:
                    step.finish({name: 1.0})
                worked.append(name)

            return run

        def write(run: Path) -> None:
            (run / "report.html").touch()

        config, steps = LmConfig(), {name: step_of(name) for name in NAMES}
        with RunFolder.open(tmp_path / "run", config, preset="tiny") as folder:
            for name in names:
                run_once(folder, config, name, steps, needed, write)
                assert is_up_to_date(folder, name, needed)
        return worked

    return given


def test_an_up_to_date_step_is_not_repeated(give: Callable[..., list[str]]) -> None:
    assert give(*NAMES) == NAMES
    assert give(*NAMES) == []


def test_an_evaluation_is_repeated_after_later_steps(
    give: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert give("sft", "eval") == ["sft", "eval"]
    assert give(*NAMES) == ["reward", "ppo", "eval"]
    assert "eval: older than reward, ppo, so it is repeated" in capsys.readouterr().out
    assert give(*NAMES) == []


def test_steps_that_depend_on_a_repeated_step_are_repeated(give: Callable[..., list[str]], tmp_path: Path) -> None:
    give(*NAMES)
    (tmp_path / "run" / "ppo" / "round-1").mkdir()
    shutil.rmtree(tmp_path / "run" / "reward")
    assert give(*NAMES) == ["reward", "ppo", "eval"]
    assert not (tmp_path / "run" / "ppo" / "round-1").exists()


def test_an_unfinished_step_is_restarted_after_a_step_that_it_depends_on(
    give: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    give("sft", "reward")
    with (
        RunFolder.open(tmp_path / "run", LmConfig(), preset="tiny") as folder,
        folder.step("ppo", total=2, shown=[]) as step,
    ):
        step.log(0, {"ppo/score": 1.0})
        step.save({}, lambda path: None)
    shutil.rmtree(tmp_path / "run" / "sft")
    assert give("sft", "reward") == ["sft", "reward"]
    assert "ppo: started before sft, which runs now, so it is restarted" in capsys.readouterr().out
    assert not (tmp_path / "run" / "ppo").exists()
    assert give(*NAMES) == ["ppo", "eval"]
    assert RunFolder.read(tmp_path / "run").metrics() == []


def test_an_unneeded_step_makes_no_other_out_of_date(give: Callable[..., list[str]]) -> None:
    needed = ["sft", "ppo", "eval"]
    give(*needed, needed=needed)
    assert give("reward", needed=needed) == ["reward"]
    assert give(*needed, needed=needed) == []


def test_changed_data_is_refused_for_finished_and_unfinished_steps(tmp_path: Path) -> None:
    config, now = LmConfig(), {"sft": {"toy": "a"}, "reward": {"toy": "a", "more": "b"}}
    with RunFolder.open(tmp_path / "run", config, preset="tiny") as folder:
        with folder.step("sft", total=1, shown=[], data=now["sft"]) as step:
            step.finish({})
        with folder.step("reward", total=1, shown=[], data=now["reward"]) as step:
            step.save({}, lambda path: None)
        with folder.step("ppo", total=1, shown=[]) as step:  # as an earlier version did it: nothing was noted
            step.finish({})
        assert folder.results()["data"] == {"sft": {"toy": "a"}}

        def check() -> None:
            check_data(folder, config, ["sft", "reward", "ppo", "eval"], lambda _, name: now[name])

        check()
        now["reward"] = {"toy": "a", "more": "c"}
        with pytest.raises(InputError, match=r"(?s)data has changed.*/run/reward: more\n.*remove these folders"):
            check()
        with (
            pytest.raises(InputError, match="/run/reward: more"),
            folder.step("reward", total=1, shown=[], data=now["reward"]),
        ):
            pass
        assert (folder.path / "reward" / "checkpoint").exists()
        now["sft"] = {"other": "a"}
        with pytest.raises(InputError, match=r"(?s)/run/sft: toy, other\n.*/run/reward: more"):
            check()


def test_copied_runs_and_runs_of_an_earlier_version_are_up_to_date(
    give: Callable[..., list[str]], tmp_path: Path
) -> None:
    give(*NAMES)
    for name in reversed(NAMES):
        (tmp_path / "run" / name / "done.json").touch()  # a copy may bear any time
    assert give(*NAMES) == []
    for name in NAMES:
        (tmp_path / "run" / name / "done.json").write_text('{"seconds": 1.0}')
    assert give(*NAMES) == []
