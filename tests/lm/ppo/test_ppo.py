"""Step 3 earns what the reward pays for, stays near the reference, and keeps the best of what it was."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Take = Callable[..., Path]
Row = dict[str, Any]  # Any: JSON

# a reward that any policy can learn to earn: the share of the answer that is the letter e
MODULE = """
def share_of_e(prompts, responses):
    return [response.count("e") / 8 for response in responses]

def share_of_others(prompts, responses):
    return [1.0 - response.count("e") / 8 for response in responses]

def nothing(prompts, responses):
    return [0.0] * len(responses)

def for_e(prompts, responses):
    return [50.0 + 10.0 * response.count("e") for response in responses]

def against_e(prompts, responses):
    return [150.0 - 10.0 * response.count("e") for response in responses]
"""
WATCH = "ppo.watch=['letter_rewards:share_of_others']"
FREE = ["ppo.missing_eos_penalty=0", "ppo.kl_coef=0.0", "ppo.max_kl=1000"]
FAST = ["ppo.lr=1e-2", "ppo.critic_lr=1e-2", "ppo.batch_size=32", "ppo.micro_batch_size=32", "ppo.num_eval_prompts=16"]


@pytest.fixture(scope="module")
def policy(take: Take, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that has learned to answer `Yes, ...`."""
    path = tmp_path_factory.mktemp("runs") / "sft"
    settings = [*small, "sft.max_steps=0", "sft.epochs=6", "sft.lr=1e-2"]
    return take("sft", path, *settings) / "sft" / "model"


@pytest.fixture(scope="module")
def improve(
    take: Take, small: list[str], policy: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, list[Row]]]:
    """PPO alone from that policy: `improve("share_of_e", "ppo.lr=1e-2")` gives the run and its rows of metrics."""
    work = tmp_path_factory.mktemp("work")
    (work / "letter_rewards.py").write_text(MODULE)

    @functools.cache  # some tests compare with the same plain run
    def run(function: str, *overrides: str) -> tuple[Path, list[Row]]:
        out = tmp_path_factory.mktemp("runs") / "ppo"
        reward = f"ppo.reward={{'letter_rewards:{function}': 1.0}}"
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(work)
            take("ppo", out, *small, f"ppo.policy={policy}", reward, *overrides)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert [row["index"] for row in rows] == list(range(len(rows)))
        return out, rows

    return run


Improve = Callable[..., tuple[Path, list[Row]]]


def results(run: Path) -> Row:
    return json.loads((run / "results.json").read_text())


def as_given(run: Path, score: float) -> float:
    """What the function gave in the mean, from the mean of its scaled scores."""
    (scale,) = results(run)["reward_scale"].values()
    return (score - scale["bias"]) / scale["gain"]


@pytest.mark.slow
def test_what_the_reward_pays_for_is_learned(improve: Improve) -> None:
    run, rows = improve("share_of_e", *FREE, *FAST, "ppo.num_updates=25", "ppo.reward_clip=20")
    scores = [as_given(run, row["ppo/score"]) for row in rows[1:]]
    assert scores[0] < 0.25
    assert sum(scores[-3:]) / 3 > 0.7  # 6 letters of 8
    assert as_given(run, rows[-1]["ppo/validation_score"]) > 0.7  # on prompts that it did not learn from
    assert rows[-1]["ppo/kl"] > 5  # that has its price


@pytest.mark.slow
def test_opposite_wishes_lead_apart_however_large_their_numbers_are(improve: Improve) -> None:
    """All their numbers lie far beyond ppo.reward_clip: paid as they come, all answers would earn the same."""
    runs = {wish: improve(wish, *FREE, *FAST, "ppo.num_updates=6") for wish in ("for_e", "against_e")}
    for run, rows in runs.values():
        first, last = rows[1], rows[-1]
        assert abs(first["ppo/score"]) < 1
        assert first["ppo/reward_clip_fraction"] < 0.1
        assert as_given(run, last["ppo/score"]) > as_given(run, first["ppo/score"]) + 3
    found = {wish: results(run)["reward_scale"][f"letter_rewards:{wish}"] for wish, (run, _) in runs.items()}
    assert found["for_e"]["gain"] == pytest.approx(found["against_e"]["gain"])
    more, fewer = (load_file(run / "ppo" / "model" / "model.safetensors") for run, _ in runs.values())
    assert any(not torch.equal(more[name], fewer[name]) for name in more)


@pytest.mark.slow
def test_several_epochs_and_minibatches_learn_more_from_the_same_answers(improve: Improve) -> None:
    few = [*FREE, *FAST, "ppo.lr=3e-3", "ppo.num_updates=12"]
    _, once = improve("share_of_e", *few, "ppo.epochs=1", "ppo.num_minibatches=1")
    _, often = improve("share_of_e", *few, "ppo.epochs=4", "ppo.num_minibatches=2")
    assert often[-1]["ppo/validation_score"] > 0.5
    assert often[-1]["ppo/validation_score"] > once[-1]["ppo/validation_score"] + 0.1
    assert max(row.get("ppo/clip_fraction", 0.0) for row in often) < 0.6  # far steps were held back, none ran away
    assert once[1]["ppo/clip_fraction"] == 0  # the first update has ratio 1
    assert once[1]["ppo/approx_kl"] == pytest.approx(0, abs=1e-8)


@pytest.mark.slow
def test_the_price_of_kl_holds_the_actor_back(improve: Improve) -> None:
    _, free = improve("share_of_e", *FREE, *FAST, "ppo.num_updates=12")
    settings = [*FREE, *FAST, "ppo.num_updates=12", "ppo.reward_clip=100"]
    _, priced = improve("share_of_e", *settings, "ppo.kl_coef=2.0")
    assert priced[-1]["ppo/validation_kl"] < 0.5 * free[-1]["ppo/validation_kl"]
    for row in priced[1:]:
        assert row["ppo/reward"] == pytest.approx(row["ppo/score"] - 2.0 * row["ppo/kl"], abs=1e-4)


@pytest.mark.slow
def test_an_adaptive_price_falls_below_the_target_and_rises_above_it(improve: Improve) -> None:
    adaptive = ["ppo.kl_target=1.0", "ppo.kl_horizon=64", "ppo.num_updates=12"]
    _, rows = improve("share_of_e", *FREE, *FAST, *adaptive, "ppo.kl_coef=0.05")
    coefs = [row["ppo/kl_coef"] for row in rows[1:]]
    kls = [row["ppo/kl"] for row in rows[1:]]
    assert coefs[0] == 0.05
    for kl, before, after in zip(kls, coefs, coefs[1:], strict=False):
        error = min(max(kl / 1.0 - 1, -0.2), 0.2)
        assert after == pytest.approx(before * (1 + error * 32 / 64), rel=1e-6)
    assert min(kls) < 1 < max(kls)


@pytest.mark.slow
def test_the_best_actor_within_the_bound_is_kept_not_the_last(improve: Improve, policy: Path) -> None:
    run, rows = improve("share_of_e", *FREE, *FAST, "ppo.num_updates=8", "ppo.eval_every=1", "ppo.max_kl=2")
    inside = [row for row in rows if row["ppo/validation_kl"] <= 2]
    best = max(inside, key=lambda row: row["ppo/validation_score"])
    kept = results(run)["best_checkpoint"]
    assert 0 <= kept.pop("expected_shrinkage") < 1
    assert kept == {
        "update": best["index"],
        "score": best["ppo/validation_score"],
        "kl": best["ppo/validation_kl"],
        "num_candidates": len(inside),
        "num_scores": 15,  # all prompts that are held out
    }
    assert best["index"] < rows[-1]["index"]
    assert max(row["ppo/validation_score"] for row in rows) > best["ppo/validation_score"]


def test_an_actor_that_earns_nothing_stays_what_it_was(improve: Improve, policy: Path) -> None:
    run, _ = improve("nothing", *FREE, *FAST, "ppo.num_updates=2")
    assert results(run)["best_checkpoint"]["update"] == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (policy, run / "ppo" / "model"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_critic_alone_learns_while_it_warms_up(improve: Improve) -> None:
    settings = [*FREE, *FAST, "ppo.num_updates=6", "ppo.critic_warmup_updates=5", "ppo.eval_every=1", "ppo.lam=1.0"]
    settings += ["ppo.missing_eos_penalty=3"]  # so that the mean return is far from 0, where the critic starts
    _, rows = improve("share_of_e", *settings)
    assert all(row["ppo/validation_kl"] == pytest.approx(0, abs=1e-5) for row in rows[:6])
    assert all("ppo/actor_loss" not in row for row in rows[:6])
    assert rows[6]["ppo/validation_kl"] > 1e-3
    assert rows[5]["ppo/critic_loss"] < 0.7 * rows[1]["ppo/critic_loss"]


def test_an_answer_that_is_cut_off_pays_the_penalty(improve: Improve) -> None:
    _, rows = improve("nothing", *FAST, "ppo.missing_eos_penalty=3", "ppo.num_updates=1", "ppo.kl_coef=0.0")
    for row in rows[1:]:
        assert row["ppo/score"] == 0
        assert row["ppo/reward"] == pytest.approx(-3 * (1 - row["ppo/eos_fraction"]), abs=1e-5)
    assert rows[1]["ppo/eos_fraction"] < 1


@pytest.mark.slow
def test_scores_are_clipped(improve: Improve) -> None:
    _, rows = improve("share_of_e", *FREE, *FAST, "ppo.reward_clip=0.7", "ppo.num_updates=8")
    assert rows[-1]["ppo/reward"] <= 0.7 < rows[-1]["ppo/score"]
    assert rows[1]["ppo/reward_clip_fraction"] < rows[-1]["ppo/reward_clip_fraction"] <= 1


@pytest.mark.slow
def test_an_average_of_actors_lags_behind_them(improve: Improve) -> None:
    few = [*FREE, *FAST, "ppo.num_updates=6"]
    _, plain = improve("share_of_e", *few)
    _, averaged = improve("share_of_e", *few, "ppo.ema_decay=0.9")
    assert 0 < averaged[-1]["ppo/validation_kl"] < 0.5 * plain[-1]["ppo/validation_kl"]
    assert averaged[-1]["ppo/score"] == plain[-1]["ppo/score"]  # what collects is the actor itself


@pytest.mark.slow
def test_the_pretraining_mix_keeps_the_actor_near_the_data(improve: Improve) -> None:
    few = [*FREE, *FAST, "ppo.num_updates=12"]
    _, plain = improve("share_of_e", *few)
    _, mixed = improve("share_of_e", *few, "ppo.ptx_coef=1.0")
    assert mixed[-1]["ppo/validation_kl"] < 0.7 * plain[-1]["ppo/validation_kl"]
    assert all(row["ppo/extra_loss"] > 0 for row in mixed[1:])


@pytest.mark.slow
def test_an_entropy_bonus_keeps_the_policy_open(improve: Improve) -> None:
    few = [*FREE, *FAST, "ppo.num_updates=6"]
    _, plain = improve("nothing", *few)
    _, bonus = improve("nothing", *few, "ppo.entropy_coef=0.1")
    assert bonus[-1]["ppo/entropy"] > plain[-1]["ppo/entropy"] + 0.2


@pytest.mark.slow
def test_a_kl_stop_ends_an_update_early(improve: Improve) -> None:
    often = [*FREE, *FAST, "ppo.num_updates=3", "ppo.epochs=8", "ppo.num_minibatches=2"]
    _, rows = improve("share_of_e", *often, "ppo.kl_stop=0.01")
    assert min(row["ppo/num_minibatches"] for row in rows[1:]) < 16
    _, rows = improve("share_of_e", *often)
    assert all(row["ppo/num_minibatches"] == 16 for row in rows[1:])


@pytest.mark.slow
def test_a_reward_may_be_a_sum_of_models_and_functions(
    take: Take, small: list[str], policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two_rewards.py").write_text(
        "def two(prompts, responses):\n    return [2.0 + ('e' in response) for response in responses]\n"
    )
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "own" / "reward" / "model"
    scores = {}
    for name, reward in {
        "own": "{reward_model: 1.0}",
        "foreign": f"{{{model}: 1.0}}",  # reads the answers' text with a tokenizer of its own
        "two": "{'two_rewards:two': 1.0}",
        "sum": "{reward_model: 0.75, 'two_rewards:two': -1.0}",
    }.items():
        settings = [*small, f"ppo.policy={policy}", f"ppo.reward={reward}", "ppo.num_updates=1"]
        for step in ("reward", "ppo") if "reward_model" in reward else ("ppo",):
            take(step, tmp_path / name, *settings)
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        row = next(row for row in rows if "ppo/score" in row)
        scores[name], terms = row["ppo/score"], {key: row[key] for key in row if key.startswith("ppo/term/")}
        assert len(terms) == (2 if name == "sum" else 0)  # a single term is the score
        assert not terms or sum(terms.values()) == pytest.approx(scores[name], abs=1e-5)
    assert scores["foreign"] == pytest.approx(scores["own"], abs=1)  # not all that a random policy says is UTF-8
    assert scores["sum"] == pytest.approx(0.75 * scores["own"] - scores["two"], abs=1e-4)
    assert terms["ppo/term/two_rewards:two"] == pytest.approx(-scores["two"], abs=1e-4)


def test_more_samples_per_validation_prompt_change_the_validation_only(improve: Improve) -> None:
    few = [*FREE, *FAST, "ppo.num_updates=1", "ppo.num_eval_prompts=5", "ppo.reward_clip=20", WATCH]
    one, rows = improve("share_of_e", *few)
    run, more = improve("share_of_e", *few, "ppo.samples_per_eval_prompt=20", "eval.batch_size=16")  # 6.25 batches
    for row, other in zip(rows, more, strict=True):
        changed = {name for name in row if row[name] != other[name]}
        assert changed >= {"ppo/validation_score", "ppo/validation_kl"}
        assert all("validation" in name or "watch" in name for name in changed)
        mean = as_given(run, other["ppo/validation_score"])
        assert other["ppo/watch/share_of_others"] == pytest.approx(1.0 - mean, abs=1e-5)
        # the error is that of the means of 5 prompts, which vary less than single responses
        assert 0 < other["ppo/watch_error/share_of_others"] < row["ppo/watch_error/share_of_others"]
    assert [results(path)["best_checkpoint"]["num_scores"] for path in (one, run)] == [5, 5]


LEARNS = [*FREE, *FAST, "ppo.num_updates=8", "ppo.reward_clip=20", "ppo.eval_every=1", "ppo.checkpoint_every=50"]


@pytest.mark.slow
def test_a_watched_judge_is_measured_on_the_validation_responses_and_changes_nothing(improve: Improve) -> None:
    plain, before = improve("share_of_e", *LEARNS)
    run, rows = improve("share_of_e", *LEARNS, WATCH)
    name = "ppo/watch/share_of_others"
    for row in rows:
        assert row[name] == pytest.approx(1.0 - as_given(run, row["ppo/validation_score"]), abs=1e-5)
        assert 0 < row["ppo/watch_error/share_of_others"] < 0.5 / 15**0.5  # of 16 responses, in [0, 1]
    assert [{key: value for key, value in row.items() if "watch" not in key} for row in rows] == before
    models = [path / "ppo" / "model" / "model.safetensors" for path in (plain, run)]
    assert models[0].read_bytes() == models[1].read_bytes()
    assert "stopped" not in results(run)


def test_a_reward_model_may_be_watched(improve: Improve, take: Take, small: list[str], tmp_path: Path) -> None:
    take("reward", tmp_path, *small)
    gold = tmp_path / "reward" / "model"
    _, plain = improve("share_of_e", *FREE, *FAST, "ppo.num_updates=1")
    _, rows = improve("share_of_e", *FREE, *FAST, "ppo.num_updates=1", f"ppo.watch=[{gold}]")
    watched = [row[f"ppo/watch/{gold}"] for row in rows]
    assert [{key: value for key, value in row.items() if "watch" not in key} for row in rows] == plain
    assert len(watched) == 2 and watched[0] != watched[1]


@pytest.mark.slow
def test_training_stops_on_a_watched_judge_and_keeps_no_policy_under_which_it_fell(improve: Improve) -> None:
    _, free = improve("share_of_e", *LEARNS, WATCH)
    stop = ["ppo.stop_on={'letter_rewards:share_of_others': 0.1}", "ppo.stop_after=2"]
    run, rows = improve("share_of_e", *LEARNS, WATCH, *stop)
    falls = [rows[0]["ppo/watch/share_of_others"] - row["ppo/watch/share_of_others"] for row in rows]
    assert len(rows) < len(free) and rows == free[: len(rows)]
    assert min(falls[-2:]) > 0.1 >= max(falls[:-2])
    assert results(run)["stopped"] == {"update": rows[-1]["index"], "falls": {"share_of_others": falls[-1]}}
    assert results(run)["best_checkpoint"]["update"] <= rows[-3]["index"]


# without a critic

GROUPS = [*FREE, *FAST, "ppo.reward_clip=20", "ppo.num_updates=12"]


@pytest.mark.parametrize(
    "algorithm", ["rloo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("grpo", "dapo"))]
)
def test_groups_learn_what_the_reward_pays_for_without_a_critic(improve: Improve, algorithm: str) -> None:
    run, rows = improve("share_of_e", f"ppo.algorithm={algorithm}", *GROUPS)
    scores = [as_given(run, row["ppo/score"]) for row in rows[1:]]
    assert scores[-1] > scores[0] + 0.15
    assert all(0 <= row["ppo/equal_groups"] <= 1 for row in rows[1:])
    assert not any("critic" in name or "value" in name or "variance" in name for row in rows for name in row)
    assert not any("critic" in path.name for path in run.rglob("*"))
    assert rows[1]["ppo/actor_grad_norm"] > 0  # no warm-up: there is nothing to warm up


def test_the_responses_of_a_group_answer_one_prompt(improve: Improve) -> None:
    run, _ = improve("share_of_e", "ppo.algorithm=rloo", *GROUPS, "ppo.num_updates=1")
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    shown = [sample for sample in samples if sample["step"] == "ppo"]
    assert len({sample["prompt"] for sample in shown}) == 1 < len({sample["response"] for sample in shown})


def test_a_reward_that_tells_nothing_apart_leaves_the_policy_alone_and_is_counted(improve: Improve) -> None:
    free = [*FREE, *FAST, "ppo.num_updates=1", "ppo.kl_penalty=none"]
    _, rows = improve("nothing", "ppo.algorithm=grpo", *free)
    assert rows[1]["ppo/equal_groups"] == 1 and rows[1]["ppo/drawn_groups"] == 4
    assert rows[1]["ppo/actor_grad_norm"] == 0 and rows[1]["ppo/validation_kl"] == pytest.approx(0, abs=1e-6)
    _, rows = improve("nothing", "ppo.algorithm=dapo", *free, "ppo.max_redraws=2")
    assert rows[1]["ppo/drawn_groups"] == 12


@pytest.mark.slow
def test_a_kl_penalty_in_the_loss_holds_the_actor_back_and_not_the_reward(improve: Improve) -> None:
    _, free = improve("share_of_e", "ppo.algorithm=dr_grpo", *GROUPS)
    settings = ["ppo.algorithm=dr_grpo", *GROUPS, "ppo.kl_coef=2.0"]
    _, rows = improve("share_of_e", *settings, "ppo.kl_penalty=k2")
    assert rows[-1]["ppo/validation_kl"] < 0.5 * free[-1]["ppo/validation_kl"]
    assert all(row["ppo/kl_loss"] > 0 for row in rows[1:])
    assert all(row["ppo/reward"] == pytest.approx(row["ppo/score"], abs=1e-4) for row in rows[1:])
    _, rows = improve("share_of_e", *settings)
    assert [row["ppo/score"] for row in rows[1:]] == [row["ppo/score"] for row in free[1:]]  # none: kl_coef is not used
    assert all(row["ppo/kl_coef"] == 0 and "ppo/kl_loss" not in row for row in rows[1:])
