"""The loop of PPO, on a bandit with contexts: resuming, the kept actor, budgets and stops."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.train.ppo.bandit import LOOP, NUM_STATES, Bandit, Killed, measured, rows, run, skill, skills

from tercet.config.ppo import LoopConfig
from tercet.errors import FailedError
from tercet.runs.integrity import SEAL, sealed
from tercet.runs.stop import Ended, on_signal
from tercet.train.ppo.loop import Trained
from tercet.train.ppo.selection import Best, Shrinkage, Validation
from tercet.train.ppo.watch import Stopped, StopRule, Watched


@pytest.mark.parametrize("settings", [{"update_kl": 0.001}, pytest.param({"ema_decay": 0.5}, marks=pytest.mark.slow)])
def test_killed_run_resumes_to_the_same_bits(tmp_path: Path, settings: dict[str, float]) -> None:
    config = LoopConfig.model_validate(LOOP.model_dump() | settings)
    whole = Bandit()
    keep = (1, 4, 5, 7)
    trained = run(tmp_path / "whole", config, whole, keep=keep)
    kept = {path.parent.name: path.read_bytes() for path in (tmp_path / "whole" / "ppo" / "rollouts").glob("*/*")}
    assert sorted(kept) == ["1", "4", "5", "7"]
    assert 0 < trained.best.update <= 7 and trained.shrinkage is not None
    for kills in ([0], [2], [3], [4, 5], [6, 6]):  # before, between and right after checkpoints, also twice
        path = tmp_path / "-".join(map(str, kills))
        for kill_in in kills:
            with pytest.raises(Killed):
                run(path, config, Bandit(), kill_in=kill_in, keep=keep)
        again = Bandit()
        assert run(path, config, again, keep=keep) == trained
        rollouts = (path / "ppo" / "rollouts").glob("*/*")
        assert {file.parent.name: file.read_bytes() for file in rollouts} == kept
        for name in ("metrics.jsonl", "samples.jsonl"):
            assert (path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        assert torch.equal(again.policy.weight, whole.policy.weight)
        assert torch.equal(again.baseline.weight, whole.baseline.weight)


def test_the_update_that_reaches_the_budget_is_the_last_and_its_rollout_is_kept(tmp_path: Path) -> None:
    run(tmp_path / "kept", LOOP, Bandit(), budget=45, keep=(1, 7))
    logged = rows(tmp_path / "kept")
    assert [row["ppo/lr"] for row in logged[1:]] == pytest.approx([LOOP.lr * (1 - 10 * i / 45) for i in range(5)])
    kept = (tmp_path / "kept" / "ppo" / "rollouts").iterdir()
    assert sorted(path.name for path in kept) == ["1", "5"]
    run(tmp_path / "none", LOOP, Bandit(), budget=45)
    assert not (tmp_path / "none" / "ppo" / "rollouts").exists()


def test_learning_rates_fall_to_0_when_the_updates_end_before_the_budget(tmp_path: Path) -> None:
    run(tmp_path, LOOP, Bandit(), budget=1000)
    assert [row["ppo/lr"] for row in rows(tmp_path)[1:]] == pytest.approx([LOOP.lr * (1 - i / 7) for i in range(7)])


def test_run_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, LOOP, Bandit(), kill_in=5)
    collected: list[int] = []
    run(tmp_path, LOOP, Bandit(), watch=collected.append)
    assert collected == [3, 4, 5, 6]


def test_actor_starts_after_critic_warmup_and_learning_rates_fall_to_0(tmp_path: Path) -> None:
    bandit = Bandit()
    start, tables = bandit.policy.weight.detach().clone(), []
    run(tmp_path, LOOP, bandit, watch=lambda index: tables.append(bandit.policy.weight.detach().clone()))
    assert torch.equal(tables[2], start) and not torch.equal(tables[3], start)
    logged = rows(tmp_path)
    assert [row["index"] for row in logged] == list(range(8))
    assert ["ppo/actor_loss" in row for row in logged] == [False] * 3 + [True] * 5
    assert [row["ppo/lr"] for row in logged[1:]] == pytest.approx([0.05 * (1 - i / 7) for i in range(7)])
    assert [row["index"] for row in logged if "ppo/validation_score" in row] == [0, 2, 4, 6, 7]


def test_best_actor_within_the_kl_bound_is_kept(tmp_path: Path) -> None:
    config = LoopConfig.model_validate(LOOP.model_dump() | {"max_kl": 10.0, "critic_warmup_updates": 0})
    told = iter([(1.0, 0.0), (9.0, 10.5), (4.0, 9.5), (4.0, 1.0), (3.0, 1.0)])
    bandit, tables = Bandit(), {}

    def validate() -> Validation:
        tables[len(tables)] = bandit.policy.weight.detach().clone()
        return measured(*next(told))

    best = run(tmp_path, config, bandit, validate=validate).best
    assert best == Best(update=4, score=4.0, kl=9.5)  # the higher score lay too far away; an equal one is no better
    assert torch.equal(bandit.policy.weight, tables[2])


def test_initial_actor_is_kept_if_no_update_is_better(tmp_path: Path) -> None:
    bandit = Bandit()
    start = bandit.policy.weight.detach().clone()
    scores = iter([5.0, 1.0, 2.0, 3.0, 4.0])
    best = run(tmp_path, LOOP, bandit, validate=lambda: measured(next(scores), 0.0)).best
    assert best == Best(update=0, score=5.0, kl=0.0)
    assert torch.equal(bandit.policy.weight, start)


def test_the_average_is_what_is_measured_and_kept(tmp_path: Path) -> None:
    config = LoopConfig.model_validate(
        LOOP.model_dump() | {"ema_decay": 0.9, "critic_warmup_updates": 0, "eval_every": 1}
    )
    bandit, seen, averages = Bandit(), [], []

    def validate() -> Validation:
        averages.append(bandit.policy.weight.detach().clone())
        return measured(float(len(averages)), 0.0)

    run(tmp_path, config, bandit, validate=validate, watch=lambda i: seen.append(bandit.policy.weight.detach().clone()))
    mean = seen[0]
    assert torch.equal(averages[0], mean)
    for index in range(1, 7):
        mean = 0.9 * mean + 0.1 * seen[index]
        assert torch.allclose(averages[index], mean, atol=1e-6)
    assert torch.equal(bandit.policy.weight, averages[-1])


def uneven(scores: list[list[float]], kls: list[float]) -> Callable[[], Validation]:
    """Validations with these scores of two prompts, one after another."""
    told = iter([Validation(sum(row) / 2, torch.tensor(row), kl) for row, kl in zip(scores, kls, strict=True)])
    return lambda: next(told)


def test_the_shrinkage_is_that_of_the_actors_that_could_be_kept(tmp_path: Path) -> None:
    """Each prompt alone would choose another actor than both together: 1 - (-2) on the other prompt."""
    config = LoopConfig.model_validate(LOOP.model_dump() | {"max_kl": 10.0})
    scores = [[1.0, 1.0], [3.0, -2.0], [50.0, -49.0], [-2.0, 3.0], [-9.0, -9.0]]
    trained = run(tmp_path, config, Bandit(), validate=uneven(scores, [99.0, 1.0, 10.5, 10.0, 0.0]))
    assert trained.best == Best(update=0, score=1.0, kl=99.0)  # the start may be kept at any KL
    assert trained.shrinkage == Shrinkage(3.0, num_candidates=4, num_scores=2)
    assert trained.best_checkpoint == vars(trained.best) | {
        "expected_shrinkage": 3.0,
        "num_candidates": 4,
        "num_scores": 2,
    }
    assert trained.kept("prompts") == (
        "kept the policy of update 0: validation score 1, of which about 3 is chance "
        "(the best of 4 validations on 2 prompts)"
    )


def test_actors_under_which_a_watched_score_fell_are_no_candidates(tmp_path: Path) -> None:
    bandit = Bandit()
    trained = run(tmp_path, EVERY, bandit, validate=lambda: falling(bandit), stop=STOP)
    assert trained.shrinkage is not None and trained.shrinkage.num_candidates == len(rows(tmp_path)) - 2
    assert trained.shrinkage.num_scores == NUM_STATES


def test_one_prompt_says_nothing_about_the_shrinkage(tmp_path: Path) -> None:
    trained = run(tmp_path, LOOP, Bandit(), validate=lambda: Validation(1.0, torch.ones(1), 0.0))
    assert trained.shrinkage is None
    assert trained.best_checkpoint == {"update": 0, "score": 1.0, "kl": 0.0}
    assert trained.kept("prompts") == "kept the policy of update 0: validation score 1"


def test_a_checkpoint_from_before_the_scores_were_kept_goes_on_without_the_shrinkage(tmp_path: Path) -> None:
    whole = Bandit()
    best = run(tmp_path / "whole", LOOP, whole).best
    with pytest.raises(Killed):
        run(tmp_path / "old", LOOP, Bandit(), kill_in=4)
    state = tmp_path / "old" / "ppo" / "checkpoint" / "state.json"
    old = json.loads(state.read_text())
    del old["info"]["candidates"]
    state.write_text(sealed({key: value for key, value in old.items() if key != SEAL}))
    for kill_in in (6, -1):  # also after another checkpoint
        again = Bandit()
        if kill_in >= 0:
            with pytest.raises(Killed):
                run(tmp_path / "old", LOOP, again, kill_in=kill_in)
        else:
            assert run(tmp_path / "old", LOOP, again) == Trained(best, None, None)
    assert torch.equal(again.policy.weight, whole.policy.weight)


def falling(bandit: Bandit) -> Validation:
    """A score that rises with skill, and a watched one that falls with it."""
    return Validation(
        skill(bandit), skills(bandit), 1.0, {"asks": Watched(1.0 - skill(bandit), 0.01, 1.0 - skill(bandit))}
    )


STOP = StopRule({"asks": 0.02}, 2)


EVERY = LoopConfig.model_validate(LOOP.model_dump() | {"eval_every": 1, "critic_warmup_updates": 0})


def test_watched_scores_are_logged_and_change_nothing_else(tmp_path: Path) -> None:
    plain, watched = Bandit(), Bandit()
    before = run(tmp_path / "plain", LOOP, plain)
    after = run(tmp_path / "watched", LOOP, watched, validate=lambda: falling(watched))
    assert after == before and after.stopped is None
    logged = rows(tmp_path / "watched")
    validated = [row for row in logged if "ppo/validation_score" in row]
    assert [row["ppo/watch/asks"] for row in validated] == [1.0 - row["ppo/validation_score"] for row in validated]
    assert all(row["ppo/watch_error/asks"] == 0.01 for row in validated)
    assert [{k: v for k, v in row.items() if "watch" not in k} for row in logged] == rows(tmp_path / "plain")
    assert torch.equal(plain.policy.weight, watched.policy.weight)


def test_training_stops_when_a_watched_score_has_fallen_and_keeps_a_policy_from_before(tmp_path: Path) -> None:
    bandit, free = Bandit(), Bandit()
    trained = run(tmp_path / "stopped", EVERY, bandit, validate=lambda: falling(bandit), stop=STOP)
    run(tmp_path / "free", EVERY, free, validate=lambda: falling(free))
    logged = rows(tmp_path / "stopped")
    assert logged == rows(tmp_path / "free")[: len(logged)]  # until it stops, the rule changes nothing
    falls = [logged[0]["ppo/watch/asks"] - row["ppo/watch/asks"] for row in logged]
    assert len(logged) < 8 and min(falls[-2:]) > 0.02 and max(falls[:-2]) <= 0.02
    assert trained.stopped == Stopped(logged[-1]["index"], {"asks": falls[-1]})
    assert trained.best.update == len(logged) - 3  # later ones have a higher score, and a fall
    assert skill(bandit) == pytest.approx(trained.best.score)


def test_a_stopped_run_stays_stopped(tmp_path: Path) -> None:
    whole = Bandit()
    expected = run(tmp_path / "whole", EVERY, whole, validate=lambda: falling(whole), stop=STOP)
    assert expected.stopped is not None
    for kill_in in (1, expected.stopped.update - 1, -1):  # before it stops, and after its last checkpoint
        path = tmp_path / str(kill_in)
        first, again = Bandit(), Bandit()
        if kill_in >= 0:
            with pytest.raises(Killed):
                run(path, EVERY, first, validate=lambda b=first: falling(b), stop=STOP, kill_in=kill_in)
        else:
            run(path, EVERY, first, validate=lambda b=first: falling(b), stop=STOP, finishes=False)
        trained = run(
            path, EVERY, again, validate=lambda b=again: falling(b), stop=STOP, kill_in=expected.stopped.update
        )
        assert trained == expected
        assert (path / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
        assert torch.equal(again.policy.weight, whole.policy.weight)


def test_a_fall_at_the_last_update_stops_nothing(tmp_path: Path) -> None:
    bandit = Bandit()
    values = iter([0.9, 0.9, 0.9, 0.1, 0.1])
    told = run(
        tmp_path,
        LOOP,
        bandit,
        validate=lambda: measured(1.0, 0.0, {"asks": Watched.of(torch.tensor([next(values)]))}),
        stop=STOP,
    )
    assert told.stopped is None and len(rows(tmp_path)) == 8


def test_a_watched_judge_that_changes_which_prompts_it_scores_stops_nothing_and_a_resumed_run_knows_its_prompts(
    tmp_path: Path,
) -> None:
    nan = float("nan")
    few, other, more, none = [0.9, 0.9, nan, nan], [nan, nan, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1], [nan] * 4
    fallen = [0.8, 0.8, 1.0, 1.0]

    def validate(num_done: int, *seen: list[float]) -> Callable[[], Validation]:
        values = iter(seen[num_done:])
        return lambda: measured(1.0, 0.0, {"asks": Watched.of(torch.tensor(next(values)))})

    steady = [few, more, none, other, few, more, none, more]  # update 0 and 7 more
    assert run(tmp_path / "steady", EVERY, Bandit(), validate=validate(0, *steady), stop=STOP).stopped is None
    assert ["ppo/watch/asks" in row for row in rows(tmp_path / "steady")] == [one is not none for one in steady]
    falls = [few, more, more, more, fallen, fallen]
    with pytest.raises(Killed):
        run(tmp_path / "falls", EVERY, Bandit(), validate=validate(0, *falls), stop=STOP, kill_in=3)
    stopped = run(tmp_path / "falls", EVERY, Bandit(), validate=validate(4, *falls), stop=STOP).stopped
    assert stopped is not None and stopped.update == 5 and stopped.falls["asks"] == pytest.approx(0.1)


def test_a_watched_judge_without_any_score_is_refused_before_training(tmp_path: Path) -> None:
    def validate() -> Validation:
        return measured(1.0, 0.0, {"asks": Watched.of(torch.tensor([float("nan")]))})

    with pytest.raises(FailedError, match="asks gave no score to any validation answer"):
        run(tmp_path, EVERY, Bandit(), validate=validate)


def test_sigterm_ends_it_after_the_update_and_it_continues_to_the_same_bits(tmp_path: Path) -> None:
    def ends(index: int) -> None:
        if index == 4:  # update 5 has no checkpoint of its own
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, on_signal)
    with pytest.raises(Ended):
        run(tmp_path / "ended", LOOP, Bandit(), watch=ends)
    signal.signal(signal.SIGTERM, before)
    collected: list[int] = []
    again, whole = Bandit(), Bandit()
    assert run(tmp_path / "ended", LOOP, again, watch=collected.append) == run(tmp_path / "whole", LOOP, whole)
    assert collected == [5, 6]
    assert torch.equal(again.policy.weight, whole.policy.weight)
    assert rows(tmp_path / "ended") == rows(tmp_path / "whole")
