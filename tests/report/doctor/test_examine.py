"""Every check names its sickness in a series that is sick, and says nothing of a sound one."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tercet.config.arm import EXPLORE_BY_PROBABILITIES
from tercet.report.doctor.examine import CHECKS, examine, problems
from tercet.report.doctor.finding import Finding
from tercet.report.records import Record

DOCS = Path(__file__).parents[3] / "docs"
Curve = Callable[[int], float]
Tree = dict[str, Any]  # Any: JSON

# metric, its values by index, name of the finding
LANGUAGE: list[tuple[str, Curve, str]] = [
    ("ppo/kl", lambda i: i - 1.0, "kl_running_away"),  # beyond 1.5 * 15
    ("ppo/kl", lambda i: -0.2 - 0.01 * (i % 3) if i > 2 else 0.0, "kl_negative"),
    ("ppo/kl", lambda i: 0.4, "reference_is_not_the_start"),
    ("ppo/explained_variance", lambda i: 0.01, "critic_explains_nothing"),
    ("ppo/clip_fraction", lambda i: 0.4, "updates_too_large"),
    ("ppo/approx_kl", lambda i: 0.3, "updates_too_large"),
    ("ppo/num_minibatches", lambda i: 1.0, "updates_too_large"),  # of 4
    ("ppo/entropy", lambda i: 2.0 if i < 20 else 0.5, "entropy_collapse"),
    ("ppo/actor_grad_norm", lambda i: 50.0 if i in (20, 30) else 1.0, "gradient_spikes"),
    ("ppo/critic_grad_norm", lambda i: 50.0 if i in (20, 30) else 1.0, "gradient_spikes"),
    ("ppo/score_std", lambda i: 0.0 if i > 30 else 1.0, "no_advantages"),
    ("ppo/reward_clip_fraction", lambda i: 0.3, "reward_saturated"),
    ("ppo/eos_fraction", lambda i: 0.2, "no_eos"),
    ("ppo/eos_fraction", lambda i: 0.0, "no_eos"),
    ("ppo/response_length", lambda i: 5 + i, "length_changes"),
    ("ppo/response_length", lambda i: max(30 - i, 4), "length_changes"),
    ("ppo/duplicate_fraction", lambda i: 0.6, "duplicate_responses"),
    ("ppo/copied_fraction", lambda i: 0.4, "copied_responses"),
    ("ppo/validation_score", lambda i: 0.5 - 0.05 * i, "validation_falls"),
    ("ppo/watch/asks", lambda i: 0.6 - 0.01 * i, "watched_judge_falls"),
    ("sft/loss", lambda i: 2.0 + i / 30, "sft_lr"),
    ("sft/grad_norm", lambda i: 20.0 if i in (20, 30) else 1.0, "sft_gradient_spikes"),
    ("reward/loss", lambda i: 0.7 + i / 20, "reward_lr"),
    ("dpo/loss", lambda i: 0.7 + i / 20, "dpo_lr"),
]
ARM: list[tuple[str, Curve, str]] = [
    ("ppo/kl", lambda i: 50.0 * i, "kl_running_away"),
    ("ppo/clip_fraction", lambda i: 0.4, "updates_too_large"),
    ("ppo/entropy", lambda i: 1.0 - 0.2 * i, "entropy_collapse"),
    ("ppo/explained_variance", lambda i: -0.2, "critic_explains_nothing"),
    ("ppo/score_std", lambda i: 0.0, "no_advantages"),
    ("ppo/validation_score", lambda i: 0.8 - 0.02 * i, "success_falls"),
    ("ppo/score_ranks_success", lambda i: 0.5 + 0.02 * (i % 3), "reward_ranks"),
    ("ppo/progress_ranks_success", lambda i: 0.5 + 0.02 * (i % 3), "judge_ranks"),
    ("ppo/success", lambda i: 0.2, "leaves_success"),
    ("ppo/blown_up", lambda i: float(i == 20), "simulation_failed"),
    ("bc/loss", lambda i: 0.5 + 0.01 * i, "bc_lr"),
    ("bc/loss", lambda i: 0.5, "bc_lr"),
    ("bc/loss", lambda i: 0.2 if i == 0 else 400.0 / i, "bc_lr"),  # lost at once
    ("bc/grad_norm", lambda i: 20.0 if i in (20, 30) else 0.5, "bc_gradient_spikes"),
    ("reward/loss", lambda i: 0.7 + i / 20, "reward_lr"),
]
RESULTS: list[tuple[str, object, str]] = [
    ("kl_to_reference", 15.2, "kl_of_the_kept_policy"),
    ("prompt_overlap.ppo", 0.5, "data_leaks"),
    ("perplexity.sft", 38.2, "sft_lr"),  # 38.21 before
    ("perplexity.sft", 50.0, "sft_lr"),
    ("reward_model.accuracy.chatterbot.low", 0.49, "reward_model_chance"),
    ("reward_model.length_correlation.chatterbot", -0.85, "reward_model_length"),
    ("response_length.ppo", 40.0, "answer_length"),
    ("best_checkpoint.update", 0, "ppo_not_improved"),
    ("win_rate.ppo_vs_sft.judge", {"mean": 0.5, "low": 0.41, "high": 0.59}, "judge_and_reward_model"),
    ("win_rate.ppo_vs_sft.reward_model.mean", 0.4, "judge_and_reward_model"),
]


@pytest.mark.parametrize("name", ["sound", "sound_arm"])
def test_a_sound_run_has_no_problem_after_any_row(name: str, request: pytest.FixtureRequest) -> None:
    record: Record = request.getfixturevalue(name)
    for end in range(len(record.metrics) + 1):
        so_far = record.with_rows(metrics=record.metrics[:end], timings=record.timings[:end])
        assert problems(so_far) == []
    assert len(examine(record)) > (25 if name == "sound" else 12)


def test_a_run_without_rows_has_no_findings(sound: Record) -> None:
    assert examine(replace(sound, metrics=[], timings=[], results={}, held_out=[])) == []


@pytest.mark.parametrize(("metric", "value", "name"), LANGUAGE)
def test_a_sick_curve_is_named(
    sound: Record, with_curve: Callable[..., Record], metric: str, value: Curve, name: str
) -> None:
    found = _problems(with_curve(sound, metric, value, step=metric.partition("/")[0]))
    assert set(found) == {name}


@pytest.mark.parametrize(("metric", "value", "name"), ARM)
def test_a_sick_curve_of_an_arm_is_named(
    sound_arm: Record, with_curve: Callable[..., Record], metric: str, value: Curve, name: str
) -> None:
    found = _problems(with_curve(sound_arm, metric, value, step=metric.partition("/")[0]))
    assert set(found) == {name}


@pytest.mark.parametrize(("place", "value", "name"), RESULTS)
def test_a_sick_result_is_named(sound: Record, place: str, value: object, name: str) -> None:
    assert set(_problems(replace(sound, results=_changed(sound.results, place, value)))) == {name}


def test_tiny_updates_are_named(sound: Record, with_curve: Callable[..., Record]) -> None:
    still = with_curve(sound, "ppo/clip_fraction", lambda i: 0.0)
    assert _problems(still) == {}  # few tokens are clipped in sound runs too
    (found,) = _problems(with_curve(still, "ppo/approx_kl", lambda i: 1e-7)).values()
    assert (found.name, found.level) == ("updates_too_small", "advice")


def test_a_critic_is_named_if_it_never_explains_anything_and_stops_the_run_only_if_it_adds_noise(
    sound: Record, with_curve: Callable[..., Record]
) -> None:
    # single updates of a sound run of SmolLM2, whose mean was below 0.02 from update 10 to 14
    noisy = [0.0, 0.03, 0.02, 0.09, 0.06, 0.09, 0.16, -0.13, -0.15, -0.03, 0.12, 0.12, 0.04, 0.14]
    record = with_curve(sound, "ppo/explained_variance", lambda i: noisy[i % 14])
    for end in range(10, 15):
        rows = [row for row in record.metrics if row["step"] != "ppo" or row["index"] < end]
        assert "critic_explains_nothing" not in _problems(record.with_rows(metrics=rows, timings=record.timings))
    for value, level in {0.0: "advice", 0.049: "advice", -0.9: "advice", -1.1: "alarm"}.items():
        found = _problems(with_curve(sound, "ppo/explained_variance", lambda i, value=value: value))
        assert found["critic_explains_nothing"].level == level
    one_update = with_curve(sound, "ppo/explained_variance", lambda i: -50.0 if i == 25 else 0.3)
    assert _problems(one_update) == {}


def test_groups_of_equal_scores_are_named(sound: Record) -> None:
    rows = [row | {"ppo/equal_groups": 0.8} if row["step"] == "ppo" else row for row in sound.metrics]
    assert set(_problems(sound.with_rows(metrics=rows, timings=sound.timings))) == {"no_advantages"}


def test_a_task_that_is_learned_is_no_reason_for_an_alarm(sound: Record, with_curve: Callable[..., Record]) -> None:
    certain = with_curve(sound, "ppo/entropy", lambda i: 2.0 if i < 20 else 0.01)
    rows = [row | {"ppo/equal_groups": 0.9} if row["step"] == "ppo" else row for row in certain.metrics]
    certain = certain.with_rows(metrics=rows, timings=certain.timings)
    learned = with_curve(certain, "ppo/score", lambda i: 0.1 if i < 10 else 3.9)
    repeated = with_curve(learned, "ppo/duplicate_fraction", lambda i: 0.3)

    def levels(record: Record) -> dict[str, str]:
        return {one.name: one.level for one in _problems(record).values()}

    assert levels(learned) == {"entropy_collapse": "advice", "no_advantages": "advice"}
    assert levels(repeated) == {"entropy_collapse": "alarm", "no_advantages": "alarm"}
    unlearned = with_curve(certain, "ppo/score", lambda i: 0.1 * (i % 3))
    assert levels(unlearned) == {"entropy_collapse": "alarm", "no_advantages": "alarm"}


def test_a_reward_model_that_ranks_as_length_does_is_named(sound: Record) -> None:
    results = _changed(sound.results, "reward_model.length_correlation.chatterbot", 0.6)
    assert _problems(replace(sound, results=results)) == {}
    no_better = _changed(results, "reward_model.length_accuracy.chatterbot", 0.8)
    (found,) = _problems(replace(sound, results=no_better)).values()
    assert found.name == "reward_model_length" and "length alone 80%" in found.text
    few = _changed(no_better, "reward_model.accuracy.chatterbot.num_prompts", 7)
    assert _problems(replace(sound, results=few)) == {}


def test_an_arm_at_chance_and_one_that_did_not_improve_are_named(sound_arm: Record) -> None:
    by_chance = _changed(sound_arm.results, "reward_model.accuracy_low", 0.45)
    assert set(_problems(replace(sound_arm, results=by_chance))) == {"reward_model_chance"}
    kept = _changed(sound_arm.results, "best_checkpoint.update", 0)
    assert set(_problems(replace(sound_arm, results=kept))) == {"arm_not_improved"}


def test_the_reason_why_an_arm_did_not_improve_is_said(sound_arm: Record, with_curve: Callable[..., Record]) -> None:
    kept = replace(sound_arm, results=_changed(sound_arm.results, "best_checkpoint.update", 0))
    flat = with_curve(kept, "ppo/validation_score", lambda i: 0.5)

    def text(record: Record) -> str:
        return _problems(record)["arm_not_improved"].text

    assert text(flat).endswith("than the initial policy: success did not change")
    at_chance = with_curve(flat, "ppo/score_ranks_success", lambda i: 0.52)
    assert text(at_chance).endswith(": the reward ranks the policy's own episodes no better than chance")
    found = _problems(at_chance)["reward_ranks"]
    assert found.level == "alarm" and "higher reward in 52% of the pairs" in found.text
    hardly = _problems(with_curve(flat, "ppo/score_ranks_success", lambda i: 0.6))["reward_ranks"]
    assert hardly.level == "advice" and hardly.title.endswith("hardly better than chance")
    too_noisy = with_curve(flat, "ppo/success", lambda i: 0.1)
    why = "with exploration the initial policy succeeds on 10% and without it on 50%"
    assert f"{why}, so lower it (`ppo.keep_success=0.8`)" in text(too_noisy)
    for kind in EXPLORE_BY_PROBABILITIES:  # the config refuses ppo.keep_success for them
        by_tokens = replace(too_noisy, config=_changed(too_noisy.config, "policy.kind", kind))
        assert f"{why}, so lower it (clone again with a lower `policy.log_std`)" in text(by_tokens)
    kept_some = replace(too_noisy, config=_changed(too_noisy.config, "ppo.keep_success", 0.5))
    assert f"{why}, so lower it (raise `ppo.keep_success`)" in text(kept_some)
    reached = with_curve(with_curve(flat, "ppo/success", lambda i: 0.3), "ppo/reached", lambda i: 0.6)
    assert text(reached).endswith(": episodes reach success and leave it again")
    assert (
        "60% of the episodes of the last 20 rollouts reach success, and 30% end in it"
        in _problems(reached)["leaves_success"].text
    )
    rare = with_curve(kept, "ppo/validation_score", lambda i: 0.01)
    assert text(rare).endswith(": the policies succeed on at most 1%, which leaves little to compare")
    by_chance = with_curve(kept, "ppo/validation_score", lambda i: 0.5 + 0.03 * (i > 10))
    assert "rose only from 50% to 53%, which can be chance" in text(by_chance)
    large = with_curve(flat, "ppo/clip_fraction", lambda i: 0.5)
    assert text(large).endswith(": updates are too large")
    assert _problems(large)["updates_too_large"].remedy == "lower `ppo.lr` or `ppo.epochs`"
    adapted = replace(large, config=_changed(large.config, "ppo.update_kl", 0.02))
    assert _problems(adapted)["updates_too_large"].remedy == "lower `ppo.update_kl` or `ppo.epochs`"
    both = with_curve(at_chance, "ppo/validation_score", lambda i: 0.5 - 0.01 * i)
    assert "no better than chance and success fell, from 50% to" in text(both)


def test_a_judge_that_ranks_the_policys_own_episodes_wrongly_is_named(
    sound_arm: Record, with_curve: Callable[..., Record]
) -> None:
    misled = with_curve(sound_arm, "ppo/progress_ranks_success", lambda i: 0.25)
    misled = with_curve(misled, "ppo/score_ranks_success", lambda i: 0.3)
    problems = _problems(misled)
    found, reward = problems["judge_ranks"], problems["reward_ranks"]
    assert found.level == "alarm" and found.title.endswith("the wrong way round")
    assert "higher mean `progress`, which the judge compares, in 25% of the pairs" in found.text
    assert "use another judge" in found.remedy and "add success to the reward" in found.remedy
    assert "judgements" not in reward.remedy  # it has learned what it was told
    counted = replace(misled, config=_changed(misled.config, "ppo.reward", {"reward_model": 0.3, "success": 1.0}))
    assert _problems(counted)["judge_ranks"].remedy.endswith("raise the weight of `success` in `ppo.reward`, now 1.00")
    # the figure says nothing of another judge, nor of a reward that does not learn from one
    for key, value in [("reward.judge", "my:judge"), ("reward.judge", "person"), ("ppo.reward", {"dense": 1.0})]:
        assert "judge_ranks" not in _problems(replace(misled, config=_changed(misled.config, key, value)))
    kept = replace(misled, results=_changed(misled.results, "best_checkpoint.update", 0))
    assert "the judge ranks the policy's own episodes the wrong way round" in _problems(kept)["arm_not_improved"].text


def test_the_reward_is_judged_by_the_second_half_of_a_run_that_has_ended(
    sound_arm: Record, with_curve: Callable[..., Record]
) -> None:
    learned = with_curve(sound_arm, "ppo/score_ranks_success", lambda i: 0.4 if i < 15 else 0.9)
    assert _problems(learned) == {}
    running = with_curve(sound_arm, "ppo/score_ranks_success", lambda i: 0.4)
    results = {name: value for name, value in running.results.items() if name != "best_checkpoint"}
    assert "reward_ranks" not in _problems(replace(running, results=results))


@pytest.mark.parametrize(
    ("mean", "low", "high", "num", "level"),
    [
        (0.7, 0.4, 0.85, 7, "advice"),
        (0.55, 0.41, 0.68, 49, "advice"),
        (0.55, 0.41, 0.68, 50, "alarm"),
        (0.25, 0.07, 0.59, 8, "alarm"),  # poor for certain, with few pairs too
        (0.9, 0.6, 0.98, 10, "good"),
    ],
)
def test_few_held_out_pairs_are_no_alarm(
    sound: Record, sound_arm: Record, mean: float, low: float, high: float, num: int, level: str
) -> None:
    small = {"mean": mean, "low": low, "high": high, "num_prompts": num}
    language = _changed(sound.results, "reward_model.accuracy.small", small)  # the other set is sound
    arm = {"accuracy": mean, "accuracy_low": low, "accuracy_high": high, "num_held_out": num}
    for record in (replace(sound, results=language), replace(sound_arm, results={"reward_model": arm})):
        (found,) = [one for one in examine(record) if one.name == "reward_model_chance"]
        assert found.level == level and (level == "good" or f"{num} held-out pairs" in found.text)


def test_an_alarm_about_one_set_does_not_name_a_set_that_is_only_small(sound: Record) -> None:
    results = _changed(sound.results, "reward_model.accuracy.chatterbot.low", 0.49)
    small = {"mean": 0.7, "low": 0.4, "high": 0.85, "num_prompts": 7}
    found = _problems(replace(sound, results=_changed(results, "reward_model.accuracy.small", small)))
    (one,) = found.values()
    assert one.level == "alarm" and "chatterbot" in one.text and "small" not in one.text


def test_ppo_that_loses_against_sft_is_an_alarm_and_no_agreement(sound: Record) -> None:
    lost = {"mean": 0.1, "low": 0.05, "high": 0.17, "num_prompts": 128}
    for judges in (("judge",), ("reward_model",), ("judge", "reward_model")):
        results = sound.results | {"win_rate": {"ppo_vs_sft": dict.fromkeys(judges, lost)}}
        record = replace(sound, results=results)
        (found,) = _problems(record).values()
        assert (found.name, found.level) == ("ppo_worse", "alarm") and "10% by the" in found.text
        assert not any(one.name == "judge_and_reward_model" for one in examine(record))


def test_a_reward_model_that_is_not_the_reward_does_not_tell_that_ppo_is_worse(sound: Record) -> None:
    lost = {"mean": 0.1, "low": 0.05, "high": 0.17, "num_prompts": 128}
    config = sound.config | {"ppo": sound.config["ppo"] | {"reward": {"mine:f": 1.0}}}
    results = sound.results | {"win_rate": {"ppo_vs_sft": {"reward_model": lost}}}
    assert _problems(replace(sound, results=results, config=config)) == {}


def test_a_fall_of_the_validation_score_within_chance_is_no_alarm(
    sound: Record, with_curve: Callable[..., Record]
) -> None:
    def named(fall: Curve, *, num: int | None = None) -> set[str]:
        record = with_curve(sound, "ppo/validation_score", lambda i: 0.5 - fall(i))
        best = {"update": 5} | ({} if num is None else {"num_scores": num})
        return set(_problems(replace(record, results=record.results | {"best_checkpoint": best})))

    assert named(lambda i: 0.9 if i else 0.0) == set()  # two standard errors of 8 prompts are 1.0
    assert named(lambda i: 1.1 if i else 0.0) == {"validation_falls"}
    assert named(lambda i: 1.1 if i and i != 35 else 0.0) == set()  # not at each of the last three
    assert named(lambda i: 0.4 if i else 0.0, num=32) == set()
    assert named(lambda i: 0.6 if i else 0.0, num=32) == {"validation_falls"}


def test_success_that_falls_with_the_reward_has_another_title(
    sound_arm: Record, with_curve: Callable[..., Record]
) -> None:
    fell = with_curve(sound_arm, "ppo/validation_score", lambda i: 0.8 - 0.02 * i)
    assert _problems(fell)["success_falls"].title == "The reward rose while success fell"
    both = with_curve(fell, "ppo/score", lambda i: 5.0 - 0.1 * i)
    assert _problems(both)["success_falls"].title == "Success fell"


def test_an_unseen_judge_that_finds_ppo_worse_is_an_alarm(sound: Record) -> None:
    judges = {"eval": sound.config["eval"] | {"unseen_judges": ["mine:gold"]}}
    record = replace(sound, config=sound.config | judges)

    def judged(mean: float, low: float, high: float) -> Finding:
        won = {"mean": mean, "low": low, "high": high, "num_prompts": 128}
        found = examine(replace(record, results=_changed(sound.results, "win_rate.ppo_vs_sft.gold", won)))
        return next(one for one in found if one.name == "unseen_judges")

    assert judged(0.7, 0.6, 0.8).level == "good"
    assert judged(0.5, 0.4, 0.6).level == "advice"
    assert judged(0.4, 0.3, 0.48).level == "alarm"


def test_slower_updates_and_slow_rewards_are_named(sound: Record) -> None:
    def timed(seconds: Curve, rewards: Curve) -> dict[str, Finding]:
        times = [
            row | {"seconds": seconds(row["index"]), "reward_seconds": rewards(row["index"])} for row in sound.timings
        ]
        return _problems(sound.with_rows(metrics=sound.metrics, timings=times))

    assert set(timed(lambda i: 5.0 + 2 * i, lambda i: 1.0)) == {"throughput_falls"}
    assert set(timed(lambda i: 20.0, lambda i: 11.0)) == {"reward_takes_most_time"}
    assert timed(lambda i: 0.01 + 0.01 * i, lambda i: 0.4) == {}  # too short to matter
    assert timed(lambda i: 200.0 if i % 5 == 0 else 20.0, lambda i: 1.0) == {}  # validations


def test_other_programs_explain_longer_updates_unless_the_work_grew_too(sound: Record) -> None:
    def busy(others: float, work: Curve) -> dict[str, Finding]:
        times = [
            row | {"seconds": 5.0 + 2 * row["index"], "other_cpus": others, "cpu_seconds": work(row["index"])}
            for row in sound.timings
        ]
        return _problems(sound.with_rows(metrics=sound.metrics, timings=times))

    assert busy(2.0, lambda i: 4.0) == {}
    assert set(busy(0.1, lambda i: 4.0)) == {"throughput_falls"}
    assert set(busy(2.0, lambda i: 4.0 + i)) == {"throughput_falls"}


def test_longer_responses_explain_longer_updates(sound: Record, with_curve: Callable[..., Record]) -> None:
    times = [row | {"seconds": 5.0 + row["index"]} for row in sound.timings]
    grown = with_curve(sound, "ppo/response_length", lambda i: 5.0 + i)
    assert "throughput_falls" not in _problems(grown.with_rows(metrics=grown.metrics, timings=times))


def test_a_round_may_start_away_from_its_reference(sound: Record, with_curve: Callable[..., Record]) -> None:
    away = with_curve(sound, "ppo/kl", lambda i: 3.0)
    assert set(_problems(away)) == {"reference_is_not_the_start"}
    assert _problems(replace(away, number=1)) == {}


def test_every_check_can_find_something_wrong(sound: Record, sound_arm: Record) -> None:
    """The cases of this file cover the checks: a new one needs a sick series here."""
    named = {name for _, _, name in (*LANGUAGE, *ARM, *RESULTS)}
    named |= {"updates_too_small", "throughput_falls", "reward_takes_most_time", "unseen_judges", "arm_not_improved"}
    named |= {"ppo_worse", "held_out_duplicates"}  # tests/report/test_checks.py
    assert {one.name for record in (sound, sound_arm) for one in examine(record)} <= named
    assert len(CHECKS) == len(set(CHECKS))


def test_every_problem_has_a_remedy_with_a_key_and_a_page(
    sound: Record, sound_arm: Record, with_curve: Callable[..., Record]
) -> None:
    found: list[Finding] = []
    for record, cases in ((sound, LANGUAGE), (sound_arm, ARM)):
        for metric, value, _ in cases:
            found += _problems(with_curve(record, metric, value, step=metric.partition("/")[0])).values()
    for place, value, _ in RESULTS:
        found += _problems(replace(sound, results=_changed(sound.results, place, value))).values()
    for one in found:
        page, _, anchor = one.docs.partition("#")
        headings = re.findall(r"^#+ (.*)$", (DOCS / page).read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}, one.docs
        assert one.remedy and re.search(r"\d", one.text), one


def _problems(record: Record) -> dict[str, Finding]:
    return {finding.name: finding for finding in problems(record)}


def _changed(tree: Tree, place: str, value: object) -> Tree:
    key, _, rest = place.partition(".")
    return tree | {key: _changed(tree.get(key, {}), rest, value) if rest else value}


@pytest.mark.parametrize(("share", "level"), [(0.05, "good"), (0.5, "advice")])
def test_answers_without_a_score_are_reported_if_there_are_any(sound: Record, share: float, level: str) -> None:
    rows = [row | ({"ppo/unscored/mine:f": share} if "ppo/score" in row else {}) for row in sound.metrics]
    config = sound.config | {"ppo": sound.config["ppo"] | {"reward": {"reward_model": 1.0, "mine:f": 1.0}}}
    (finding,) = [one for one in examine(replace(sound, metrics=rows, config=config)) if one.name == "unscored"]
    assert finding.level == level and f"mine:f gave no score to {share:.0%}" in finding.text
    assert not [one for one in examine(replace(sound, config=config)) if one.name == "unscored"]


def test_cloning_is_not_judged_before_its_end(sound_arm: Record, with_curve: Callable[..., Record]) -> None:
    flat = with_curve(sound_arm, "bc/loss", lambda i: 0.5, step="bc")
    assert set(_problems(flat)) == {"bc_lr"}
    assert _problems(replace(flat, results={})) == {}
