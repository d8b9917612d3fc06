"""Rounds on an arm: tries are kept, a round that was killed goes on to the same bits, and what is refused."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.arm.conftest import SMALL, drawable
from typer.testing import CliRunner

from tercet.api.improve import improve
from tercet.api.run import run
from tercet.arm import experience
from tercet.arm import improve as step
from tercet.arm.policies.kinds import new_policy
from tercet.arm.policies.policy import Sizes
from tercet.arm.robot.control import SimulatedClock
from tercet.arm.robot.tries import MarkedTry, Rig
from tercet.cli import app
from tercet.config.load import load_arm_config, load_robot_config
from tercet.errors import InputError
from tercet.runs.folder import RunFolder
from tercet.runs.intermediate import is_kept

TINY = [
    "improve.compare=true",
    "horizon=20",
    "improve.num_ticks=90",
    "improve.max_steps=6",
    "improve.checkpoint_every=2",
    "improve.num_eval=2",
]
QUICK = ["person_delay=0.2"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has only been cloned."""
    path = tmp_path_factory.mktemp("improve") / "run"
    overrides = [*(one for one in SMALL if not one.startswith("horizon")), *TINY]
    run(load_arm_config("lift", overrides), path, step="bc", quiet=True)
    return path


@pytest.fixture
def run_path(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that run."""
    monkeypatch.setattr(experience, "_VALUE_STEPS", 3)
    shutil.copytree(clone, tmp_path / "run")
    return tmp_path / "run"


def digests(run: Path, name: str) -> dict[str, str]:
    """What a round has written, apart from times."""
    kept = [file for file in sorted((run / name).rglob("*")) if file.is_file() and "json" not in file.suffix]
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in kept}


def test_rounds_within_their_budget_and_more_of_them_later(run_path: Path) -> None:
    improve(run_path, QUICK, robot="simulated", rounds=1)
    first = digests(run_path, "improve-1")
    done = improve(run_path, QUICK, robot="simulated", rounds=2)
    assert digests(run_path, "improve-1") == first
    figures = done.results()["improve"]
    for number in (1, 2):
        tries = step.stored_tries(run_path, number)
        one = figures[str(number)]
        assert 0 <= 90 - sum(tried.num_ticks for tried in tries) < 40  # no room for another whole try
        assert one["num_ticks"] == sum(tried.num_ticks for tried in tries)
        assert one["num_tries"] == len(tries) and one["num_takeovers"] == sum(tried.num_takeovers for tried in tries)
        assert one["num_compared"] == sum(tried.better is not None for tried in tries) == len(tries) - 1 > 0
        assert [len(tried.by_person) for tried in tries] == [tried["num_steps"] for tried in one["tries"]]
        assert one["limits"]["any"] > 0  # the guard's interventions
    assert figures["2"]["minutes"] == round((figures["1"]["num_ticks"] + figures["2"]["num_ticks"]) / 1200, 2)
    assert figures["0"]["minutes"] == 0 and 0 <= figures["0"]["success"]["mean"] <= 1
    assert figures["2"]["num_rows"] > figures["1"]["num_rows"]
    assert sum(tried.num_takeovers for tried in tries) > 0  # a tiny clone needs help
    assert done.config["improve"]["num_rounds"] == 2
    assert done.finished == ("bc", "improve-1", "improve-2")


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("moment", ["try", pytest.param("row", marks=pytest.mark.slow)])
def test_a_round_killed_between_tries_or_while_it_learns_ends_with_the_same_bits(
    moment: str, run_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_path.parent / "whole"
    shutil.copytree(run_path, whole)
    improve(whole, QUICK, robot="simulated", rounds=1)
    with monkeypatch.context() as patched:
        if moment == "try":
            calls, attempt = list[int](), Rig.attempt

            def second_fails(self: Rig, *args: object, **more: object) -> MarkedTry | None:
                calls.append(1)
                if len(calls) == 2:
                    raise Killed
                return attempt(self, *args, **more)  # type: ignore[arg-type]  # passed on

            patched.setattr(Rig, "attempt", second_fails)
        else:

            def fails(*args: object, **more: object) -> None:
                raise Killed

            patched.setattr(step, "success_within", fails)  # the model is saved, and nothing is finished
        with pytest.raises(Killed):
            improve(run_path, QUICK, robot="simulated", rounds=1)
    assert is_kept(run_path / "improve-1", "try-0000")
    improve(run_path, QUICK, robot="simulated", rounds=1)
    assert digests(run_path, "improve-1") == digests(whole, "improve-1")
    ours, theirs = (json.loads((path / "results.json").read_text())["improve"] for path in (run_path, whole))
    assert ours == theirs


def test_a_round_goes_on_with_the_robot_and_the_person_that_it_began_with(run_path: Path) -> None:
    config = load_arm_config(run_path / "config.yaml", ["improve.num_rounds=1"])
    with RunFolder.open(run_path, config, preset="", may_grow=["improve.num_rounds"]) as folder:
        step._refuse_other_robot(folder.path / "improve-1", load_robot_config("simulated", QUICK))
    with pytest.raises(InputError, match="was begun with another person_delay"):
        improve(run_path, ["person_delay=0.3"], robot="simulated", rounds=1)


@pytest.mark.parametrize(
    ("config", "robot", "said"),
    [
        (["improve.num_ticks=39"], [], "improve.num_ticks=39: fewer than one try of 40 steps"),
        ([], ["person=keyboard"], "person=keyboard: run this command in a terminal"),
        ([], ["teacher=none"], "person=simulated: needs robot=simulated and teacher=simulated"),
    ],
)
def test_what_is_refused(config: list[str], robot: list[str], said: str, run_path: Path) -> None:
    if config:  # an own run, because a run keeps its settings
        shutil.rmtree(run_path)
        changed = load_arm_config("lift", ["horizon=20", *config])
        RunFolder.open(run_path, changed, preset="lift").close()
        (run_path / "bc").mkdir()
        (run_path / "bc" / "done.json").write_text("{}")
    result = CliRunner().invoke(app, ["arm", "improve", str(run_path), "--rounds", "1", *robot])
    assert result.exit_code == 2 and said in result.output.replace("\n", " "), result.output


def test_another_arm_and_other_limits_than_in_training_are_said(run_path: Path) -> None:
    words = ["arm", "improve", str(run_path), "--rounds", "1", "model=so101", "teacher=none"]
    said = " ".join(CliRunner().invoke(app, words).output.split())
    assert "trained with robot.model=primitive, and this robot is so101" in said
    assert "trained without limits, so it may fail within them" in said


def test_a_run_without_a_clone_is_refused(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", load_arm_config("lift", []), preset="lift").close()
    (tmp_path / "run" / "ppo").mkdir()
    with pytest.raises(InputError, match="has no clone to start from; run `tercet arm bc`"):
        improve(tmp_path / "run", [], robot="simulated", rounds=1)


@pytest.mark.slow
def test_a_minute_on_the_arm_teaches_a_clone_to_reach(tmp_path: Path) -> None:
    """The clone of one demonstration fails on most starts."""
    more = ["env=reach", "bc.num_demonstrations=1", "bc.epochs=20", "bc.num_eval=1", "safety.in_training=true"]
    more += ["threads=1", "improve.num_ticks=1200", "improve.max_steps=500", "improve.num_eval=64"]
    run(load_arm_config("lift", more), tmp_path / "run", step="bc", quiet=True)
    figures = improve(tmp_path / "run", [], robot="simulated", rounds=1).results()["improve"]
    before, after = (figures[number]["success"]["mean"] for number in ("0", "1"))
    assert before < 0.5 and after > before + 0.3, (before, after)


@pytest.mark.slow
def test_a_policy_with_eyes_learns_from_the_pictures_of_its_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after the first try changes nothing, and other pictures would have given another policy."""
    next(drawable("lift", 1)).close()
    monkeypatch.setattr(experience, "_VALUE_STEPS", 3)
    eyes = ["policy.kind=conv", "policy.cameras=[wrist]", "policy.image_size=[32,32]", "policy.sees=itself"]
    config = load_arm_config("lift", [*(one for one in SMALL if not one.startswith("horizon")), *TINY, *eyes])
    for name in ("whole", "killed", "dark"):
        run(config, tmp_path / name, step="bc", quiet=True)
    improve(tmp_path / "whole", QUICK, robot="simulated", rounds=1)
    tries = step.stored_tries(tmp_path / "whole", 1)
    assert all(one.pictures[0].shape == (len(one.by_person), 32, 32, 3) for one in tries)
    assert len({one.pictures[0].float().std().item() for one in tries}) == len(tries)
    with monkeypatch.context() as patched:
        attempt, calls = Rig.attempt, list[int]()

        def second_fails(self: Rig, *args: object, **more: object) -> MarkedTry | None:
            calls.append(1)
            if len(calls) == 2:
                raise Killed
            return attempt(self, *args, **more)  # type: ignore[arg-type]  # passed on

        patched.setattr(Rig, "attempt", second_fails)
        with pytest.raises(Killed):
            improve(tmp_path / "killed", QUICK, robot="simulated", rounds=1)
    improve(tmp_path / "killed", QUICK, robot="simulated", rounds=1)
    assert digests(tmp_path / "killed", "improve-1") == digests(tmp_path / "whole", "improve-1")
    load = MarkedTry.load

    def in_the_dark(folder: Path) -> MarkedTry:
        one = load(folder)
        return replace(one, pictures=(torch.zeros_like(one.pictures[0]),))

    monkeypatch.setattr(MarkedTry, "load", in_the_dark)
    improve(tmp_path / "dark", QUICK, robot="simulated", rounds=1)
    bright, dark = (digests(tmp_path / name, "improve-1") for name in ("whole", "dark"))
    file = "improve-1/model/model.safetensors"
    assert dark[file] != bright[file] and {**dark, file: ""} == {**bright, file: ""}


def test_the_simulated_robot_has_the_cameras_of_the_policy_unless_it_names_some() -> None:
    config = load_arm_config("lift-eyes", [])
    policy = new_policy(Sizes(20, 5, (True,) * 10 + (False,) * 10), config.policy, seed=0)

    def cameras(*overrides: str) -> dict[str, str]:
        robot = load_robot_config("simulated", list(overrides))
        return step._with_cameras(step.Session(robot, str, SimulatedClock(), print), policy).robot.cameras

    assert cameras() == {"wrist": "wrist"}
    assert cameras("cameras={wrist: front}") == {"wrist": "front"}
    assert cameras("robot=so101_follower", "port=/dev/x", "person=keyboard") == {}
