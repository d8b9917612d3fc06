"""The report of an arm, from what a run folder holds and no more."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tercet.report import page

Tree = dict[str, Any]  # Any: JSON


def rate(mean: float, low: float, high: float) -> Tree:
    return {"mean": mean, "low": low, "high": high, "num_states": 256}


def results() -> Tree:
    return {
        "success": {
            "bc": rate(0.5, 0.44, 0.56),
            "bc_noise": rate(0.6, 0.54, 0.66),
            "ppo": rate(0.98, 0.955, 0.99),
        },
        "return": {"bc": rate(20.5, 19, 22), "ppo": rate(44.25, 43, 45)},
        "steps_to_success": {"bc": 30.5, "ppo": 17.25},
        "paired": {"both": 127, "only_ppo": 124, "only_start": 1, "neither": 4},
        "reward_model": {
            "accuracy": 0.9,
            "accuracy_low": 0.8,
            "accuracy_high": 0.95,
            "num_held_out": 50,
            "num_pairs": 450,
        },
        "demonstrations": {"num": 3},
        "best_checkpoint": {
            "update": 4,
            "score": 1.0,
            "kl": 12.0,
            "expected_shrinkage": 0.02,
            "num_candidates": 3,
            "num_scores": 64,
        },
        "self_check": {"ratio": 0.0, "kl": 1e-7},
        "env_steps": 150000,
        "seconds": {"bc": 5.0, "ppo": 60.0},
        "videos": [{"file": "videos/start-1.mp4", "shows": "only PPO succeeds"}],
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(found: Tree, *, updates: int = 6, ranked: float = 0.9, measure: str = "success") -> Path:
        config = {"env": "lift", "measure": measure, "ppo": {"reward": {"reward_model": 0.3}, "num_eval_states": 64}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        rows = [
            {"step": "ppo", "index": i, "ppo/success": i / 10, "ppo/score": float(i), "ppo/reward": i - 0.1}
            | {"ppo/validation_score": 0.5, "ppo/score_ranks_success": ranked, "ppo/episode_return": float(i)}
            | {"ppo/explained_variance": 0.5, "ppo/clip_fraction": 0.1, "ppo/blown_up": 0.0, "ppo/actor_loss": 0.01}
            for i in range(updates)
        ]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "results.json").write_text(json.dumps(found))
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / "start-1.mp4").write_bytes(b"not really a film")
        return page.write(tmp_path)

    return written


def test_a_run_that_did_not_help_says_why(write: Callable[..., Path]) -> None:
    found = results()
    found["success"]["ppo"], found["paired"] = rate(0.5, 0.44, 0.56), {"both": 120, "only_ppo": 8, "only_start": 8}
    page = write(found, updates=12, ranked=0.51)
    text = page.with_suffix(".md").read_text()
    why = "Why: the reward ranks the policy's own episodes no better than chance"
    assert "No significant difference" in text and why in text
    assert "Why:" not in write(results(), updates=12, ranked=0.51).with_suffix(".md").read_text()  # PPO helped


def test_a_run_by_return_is_compared_by_its_return(write: Callable[..., Path]) -> None:
    found = {name: value for name, value in results().items() if name not in ("success", "paired")}
    found["return"] |= {"start": found["return"].pop("bc")}
    found["return_gained"] = {"mean": 23.75, "low": 22.0, "high": 25.0, "num_states": 256}
    text = write(found, measure="return").with_suffix(".md").read_text()
    assert "PPO improved the policy: a return of 44.2 (95% interval 43.0 to 45.0) on 256 fresh starts, against" in text
    assert "On the same starts PPO gains 23.8 (95% interval 22.0 to 25.0)." in text
    assert "| PPO | 44.2 | 43.0 to 45.0 | 256 |" in text and "PPO improved the return in validation" in text
    lost = found | {"return_gained": {"mean": -3.0, "low": -5.0, "high": -1.0, "num_states": 256}}
    assert "PPO made the policy worse: a return" in write(lost, measure="return").with_suffix(".md").read_text()


def test_the_first_sentence_states_both_success_rates(write: Callable[..., Path]) -> None:
    text = write(results()).with_suffix(".md").read_text()
    assert "PPO improved the policy: success on 98% of 256 fresh starts (95% interval 96% to 99%), against" in text
    assert "learned from 450 judgements of segments" in text
    assert "| PPO | 98% (96% to 99%) | 256 | 44.2 | 17.2 |" in text
    assert "| only PPO succeeds | 124 |" in text
    assert "Update 4 was kept" in text
    assert "About 0.020 of it is chance, because it is the best of 3 validations on the same 64 starts" in text


@pytest.mark.parametrize(
    ("only_ppo", "only_start", "said"),
    [
        (17, 3, "PPO improved the policy: success on 55%"),  # the intervals of the two rates overlap
        (20, 10, "No significant difference between PPO and its initial policy"),
        (0, 0, "No significant difference between PPO and its initial policy"),
        (2, 9, "PPO made the policy worse"),
    ],
)
def test_the_verdict_follows_the_starts_on_which_only_one_policy_succeeds(
    only_ppo: int, only_start: int, said: str, write: Callable[..., Path]
) -> None:
    found = results()
    found["success"]["ppo"] = rate(0.55, 0.49, 0.61)
    found["paired"] = {"both": 120, "only_ppo": only_ppo, "only_start": only_start, "neither": 100}
    text = write(found).with_suffix(".md").read_text()
    assert said in text
    assert ("only one of the two succeeds" in text) == bool(only_ppo + only_start)


def test_the_share_of_starts_that_only_ppo_solves_has_an_interval(write: Callable[..., Path]) -> None:
    text = write(results()).with_suffix(".md").read_text()
    assert "On 125 of these starts only one of the two succeeds; that is PPO in 99%" in text


def test_the_limit_of_the_accuracy_interval_is_stated(write: Callable[..., Path]) -> None:
    text = write(results()).with_suffix(".md").read_text()
    assert "90% (80% to 95%)" in text and "assumes independent judgements and is too narrow" in text


def test_videos_are_embedded_in_html_and_linked_in_markdown(write: Callable[..., Path]) -> None:
    html = write(results())
    assert 'src="data:video/mp4;base64,bm90IHJlYWxseSBhIGZpbG0="' in html.read_text()
    assert "[only PPO succeeds](videos/start-1.mp4)" in html.with_suffix(".md").read_text()
    found = {**results(), "videos": [], "videos_missing": "cannot draw: install libegl1"}
    assert "No videos were made: cannot draw: install libegl1" in write(found).read_text()


def test_a_run_without_demonstrations_is_compared_with_its_start(write: Callable[..., Path]) -> None:
    found = results()
    found["success"] = {"start": rate(0.01, 0.0, 0.03), "ppo": rate(1.0, 0.98, 1.0)}
    text = write(found).with_suffix(".md").read_text()
    assert "against 1% for the policy before PPO" in text
    assert "only the policy before PPO succeeds" in text


def test_a_run_in_progress_shows_its_results_so_far(write: Callable[..., Path]) -> None:
    text = write({}).read_text()
    assert "In progress: ppo so far; " in text
    assert "Explained variance" in text
    assert "Success on fresh starts" not in text
    assert "No step has been run yet" in write({}, updates=0).read_text()


@pytest.mark.parametrize(
    ("update", "says"),
    [
        (0, "No update succeeded more often in validation than the initial policy within the KL bound of 20 nats"),
        (4, "Update 4 was kept within the KL bound of 20 nats"),
    ],
)
def test_the_kl_bound_is_stated_if_more_success_exceeded_it(update: int, says: str, write: Callable[..., Path]) -> None:
    found = results()
    found["best_checkpoint"] = {"update": update, "score": 0.5, "kl": 12.0}
    run = write(found).parent
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"ppo": config["ppo"] | {"max_kl": 20.0}}))
    rows = [
        {"step": "ppo", "index": i, "ppo/validation_score": score, "ppo/validation_kl": kl}
        for i, score, kl in ((0, 0.4, 0.0), (2, 0.5, 12.0), (4, 0.9, 30.0))
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert says in page.write(run).with_suffix(".md").read_text()


def test_failures_of_the_physics_are_stated(write: Callable[..., Path]) -> None:
    run = write(results()).parent
    (run / "metrics.jsonl").write_text('{"step": "ppo", "index": 1, "ppo/blown_up": 2.0}\n')
    assert "2 episodes ended because of a numerical failure of the physics; the failing step had reward 0" in (
        page.write(run).with_suffix(".md").read_text()
    )


@pytest.mark.parametrize(
    ("success", "pay", "says"),
    [
        ((1.001, 0.5, 0.25), (1.0, 2.0), "PPO did not improve the policy.*: success fell, from 100% to 25%"),
        (
            (1.001, 0.5, 0.25),
            (1.0, 2.0),
            "The reward rose while success fell.*from 100% to 25%.*rose from 1.* to 2.*more rounds",
        ),
        ((0.9, 0.5, 0.25), (2.0, 1.0), "Success fell.*from 90% to 25%, and the reward fell too"),
        ((1.001, 1.0, 1.0), (1.0, 2.0), "PPO did not improve the policy.*the initial policy already succeeds on 100%"),
        ((0.4, 0.4, 0.35), (1.0, 2.0), "PPO did not improve the policy.*success did not change"),
    ],
)
def test_the_report_explains_why_the_initial_policy_was_kept(
    success: tuple[float, ...], pay: tuple[float, ...], says: str, write: Callable[..., Path]
) -> None:
    found = results()
    found["best_checkpoint"]["update"] = 0
    run = write(found).parent
    rows = [{"step": "ppo", "index": i, "ppo/validation_score": one} for i, one in enumerate(success)]
    rows += [{"step": "ppo", "index": i, "ppo/score": one} for i, one in enumerate(pay)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = page.write(run).with_suffix(".md").read_text()
    assert re.search(says, text, re.DOTALL)
    assert ("no room" in text) == ("no room" in says)
    assert ("while success fell" in text) == (success[-1] == 0.25 and pay[1] > pay[0])


def test_different_starts_are_stated(write: Callable[..., Path]) -> None:
    text = write(results() | {"same_starts": False}).with_suffix(".md").read_text()
    assert "Each stage has different starts" in text and "The same starts for every stage" not in text
    assert "Each from a different start." in text and "Both from the same start" not in text
    assert "Start by start" not in text and "only one of the two succeeds" not in text
    assert "PPO improved the policy" in text  # the two intervals lie apart


def test_problems_come_first(write: Callable[..., Path]) -> None:
    found = results()
    found["best_checkpoint"]["update"] = 0
    text = write(found).with_suffix(".md").read_text()
    assert text.index("PPO did not improve the policy") < text.index("The simulation was stable")


def test_only_videos_of_the_run_are_embedded(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path.parent / "secret.mp4").write_bytes(b"a secret")
    names = [str(tmp_path.parent / "secret.mp4"), "videos/../../secret.mp4", "config.yaml"]
    html = write({**results(), "videos": [{"file": name, "shows": "what is not ours"} for name in names]})
    assert "what is not ours" not in html.read_text()


def test_a_reward_from_pictures_shows_its_audit_and_the_hacked_episodes(write: Callable[..., Path]) -> None:
    found = results()
    assert "right?" not in write(found).with_suffix(".md").read_text()
    found["reward_model"]["audit"] = {
        "precision": 0.9,
        "recall": None,
        "num_called": 40,
        "num_success": 0,
        "num_pictures": 1080,
        "num_episodes": 18,
        "threshold": 0.5,
    }
    found["hacked"] = {"bc": rate(0.02, 0.01, 0.05), "ppo": rate(0.25, 0.2, 0.31)}
    text = write(found).with_suffix(".md").read_text()
    assert "Is the reward from pictures right?" in text and "1,080 pictures of 18 held-out episodes" in text
    assert "| precision | 90% |" in text and "| recall | not measured |" in text
    assert "| hacked, PPO | 25% (95% interval 20% to 31%) |" in text and "hacked, BC |" in text
