"""What is measured at the end: answers side by side, scores of fixed texts, paired comparisons on held-out prompts."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from pydantic import ValidationError

from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.errors import InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.splits import step_examples
from tercet.lm.eval import fixed_prompts, held_out_prompts, reward_texts, win_rates
from tercet.lm.models.roles import load_policy, load_score_model
from tercet.lm.pipeline import STEPS
from tercet.lm.preferences.asks import answers_what_is_asked
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.scoring import score_rows
from tercet.lm.text.encoder import Encoder
from tercet.train.chance import generator

Tercet = Callable[..., Result]
Take = Callable[..., Path]
Tree = Any  # Any: JSON


def read(path: Path) -> Tree:
    return json.loads(path.read_text())


def test_win_rates_are_paired_and_a_tie_counts_half() -> None:
    found = win_rates({"base": {"judge": [0.0, 1.0, 2.0, 3.0]}, "sft": {"judge": [1.0, 1.0, 3.0, 2.0]}})
    assert list(found) == ["sft_vs_base"]
    interval = found["sft_vs_base"]["judge"]
    assert interval["mean"] == (1 + 0.5 + 1 + 0) / 4
    assert interval["num_prompts"] == 4
    assert 0 < interval["low"] < interval["mean"] < interval["high"] < 1


def test_a_prompt_counts_if_both_responses_have_a_score() -> None:
    none = float("nan")
    found = win_rates(
        {"sft": {"a": [0.0, none, 2.0, 1.0], "b": [none]}, "ppo": {"a": [1.0, 1.0, none, 0.0], "b": [1.0]}}
    )
    assert found["ppo_vs_sft"].keys() == {"a"}  # nothing can be said about b
    assert (found["ppo_vs_sft"]["a"]["mean"], found["ppo_vs_sft"]["a"]["num_prompts"]) == (0.5, 2)


def test_every_two_stages_are_compared_the_later_one_first() -> None:
    stages = {
        name: {"judge": [value], "reward_model": [-value]}
        for name, value in (("base", 0.0), ("sft", 1.0), ("ppo", 2.0))
    }
    found = win_rates(stages)
    assert list(found) == ["sft_vs_base", "ppo_vs_base", "ppo_vs_sft"]
    assert all(pair["judge"]["mean"] == 1 and pair["reward_model"]["mean"] == 0 for pair in found.values())


def test_the_default_prompts_are_the_six_of_deepspeed_chat() -> None:
    texts = [example.prompt for example in fixed_prompts(LmConfig().eval.prompts)]
    assert len(texts) == 6
    for word in ("Microsoft", "moon", "frog", "1955", "telescope", "birds"):
        assert sum(word in text for text in texts) == 1
    chinese = [
        example.prompt
        for example in fixed_prompts(load_lm_config("tiny", ['eval.prompts=[chinese, "Why?"]']).eval.prompts)
    ]
    assert len(chinese) == 7
    assert chinese[-1] == "Why?"
    assert all(any("一" <= character <= "鿿" for character in text) for text in chinese[:-1])


def test_a_blank_prompt_of_the_config_is_refused() -> None:
    with pytest.raises(InputError, match=r"eval\.prompts: ' ' is blank"):
        fixed_prompts(["Why?", " "])


def test_the_default_texts_to_score_have_the_published_scores_beside_them() -> None:
    texts = reward_texts("")
    published = [row["published"][source] for row in texts for source in ("official", "article")]
    assert published == [[-1.0, 8.0], [3.08, 7.97], [-12.4, 14.6], [1.7, 12.88]]


def test_texts_to_score_may_hold_what_unicode_calls_the_end_of_a_line(tmp_path: Path) -> None:
    row = {"prompt": "Is it\u2028red?", "good": "Yes.\x85", "bad": "\u2029No."}
    (tmp_path / "texts.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    config = LmConfig.model_validate({"eval": {"reward_texts": str(tmp_path / "texts.jsonl")}})
    assert reward_texts(config.eval.reward_texts) == [row]


def test_texts_to_score_are_read_whatever_editor_wrote_them(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    rows = [{"prompt": f"Hi {i}?", "good": "Hel\nlo.", "bad": ""} for i in range(2)]
    written = [json.dumps(row).replace("\\n", "\\r\\n") for row in rows]
    texts.write_bytes(("\ufeff" + "\r\n\r\n".join(written) + "\r\n\r\n").encode())
    config = LmConfig.model_validate({"eval": {"reward_texts": str(texts)}})
    assert reward_texts(config.eval.reward_texts) == rows
    for row, said in (
        ('{"prompt": "Hi?", "good": "Hello."}', r"texts\.jsonl:2: needs prompt, good and bad; there is no bad"),
        ('{"prompt": "Hi?", "good": NaN, "bad": "x"}', r"texts\.jsonl:2: .* there is no good"),
        ('{"prompt": "Hi?", "good": "\\ud83d", "bad": "x"}', r"texts\.jsonl:2: good: the text holds \\ud83d"),
        ('{"prompt": [{"role": "user", "content": "Hi?"}], "good": "Yes.", "bad": "x"}', "prompt is a list; give one"),
        ("oops", r"texts\.jsonl:2: invalid JSON"),
        ('{"prompt": "Hi?", "good": true, "bad": "x"}', r"texts\.jsonl:2: good: expected text, found the boolean"),
        ('{"prompt": "Hi?", "good": "x", "bad": 1e999}', r"texts\.jsonl:2: 1e999 is too large"),
        ('{"prompt": "Hi?", "good": "x", "good": "y", "bad": ""}', r"texts\.jsonl:2: the name 'good' is given twice"),
    ):
        texts.write_text(f"\n{row}\n", encoding="utf-8")
        with pytest.raises(InputError, match=said):
            reward_texts(config.eval.reward_texts)
    texts.write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no rows"):
        reward_texts(config.eval.reward_texts)


def test_held_out_prompts_are_learned_from_by_no_step(small: list[str]) -> None:
    config = load_lm_config("tiny", [*small, "eval.num_prompts=99"])
    measured = {example.key for example in held_out_prompts(Encoder.of(config), config.data, 99, seed=config.seed)}
    assert len(measured) > 10
    for step in ("sft", "reward", "ppo"):
        dealt = step_examples(config.data, step)
        seen = [*dealt.train.values(), *dealt.validation.values()]  # validation prompts choose the best checkpoint
        assert not measured & {example.key for rows in seen for example in rows}


def test_answers_of_every_stage_stand_side_by_side(small_run: Path) -> None:
    rows = read(small_run / "eval" / "answers.json")
    assert [row["prompt"] for row in rows] == [example.prompt for example in fixed_prompts(LmConfig().eval.prompts)]
    for row in rows:
        assert list(row["answers"]) == ["base", "sft", "ppo"]
        assert all(set(kinds) == {"greedy", "sampled"} for kinds in row["answers"].values())
    base, sft = ([row["answers"][stage] for row in rows] for stage in ("base", "sft"))
    for kind in ("greedy", "sampled"):
        assert [answers[kind] for answers in base] != [answers[kind] for answers in sft]


def test_the_win_rate_follows_from_the_scores_that_are_kept(small_run: Path) -> None:
    rows, results = read(small_run / "eval" / "held_out.json"), read(small_run / "results.json")
    for name in ("judge", "reward_model"):
        ours = [(row["scores"]["ppo"][name], row["scores"]["sft"][name]) for row in rows]
        won = sum((a > b) + 0.5 * (a == b) for a, b in ours) / len(ours)
        assert results["win_rate"]["ppo_vs_sft"][name]["mean"] == pytest.approx(won)
        mean = sum(a for a, _ in ours) / len(ours)
        assert results["mean_score"]["ppo"][name] == pytest.approx(mean)
    assert len(rows) == results["win_rate"]["ppo_vs_sft"]["judge"]["num_prompts"] == 8


def test_scores_of_good_and_bad_texts_are_the_saved_models(small_run: Path, longer: list[str]) -> None:
    config = load_lm_config("tiny", longer)
    encoder, model = Encoder.of(config), load_score_model(config, path=str(small_run / "reward" / "model"))
    for row in read(small_run / "eval" / "reward_texts.json"):
        prompt = encoder.prompt(Example((Message("user", row["prompt"]),), "", None, "", ""))
        for kind in ("good", "bad"):
            alone = encoder.batch([prompt], [encoder.response(row[kind])])
            assert row[f"score_{kind}"] == pytest.approx(float(model.scores(alone)), abs=1e-4)


def test_texts_of_ones_own_are_scored(take: Take, small: list[str], tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"prompt": "Is the door red?", "good": "Yes, red.", "bad": "No, not red."}) + "\n")
    settings = [*small, f"eval.reward_texts={texts}"]
    for step in ("reward", "eval"):
        take(step, tmp_path / "run", *settings)
    (row,) = read(tmp_path / "run" / "eval" / "reward_texts.json")
    assert row["good"] == "Yes, red."
    assert "published" not in row
    assert row["score_good"] != row["score_bad"]


def test_an_actor_that_never_moved_ties_with_sft_at_no_kl(take: Take, small: list[str], tmp_path: Path) -> None:
    still = [*small, "ppo.num_updates=1", "ppo.critic_warmup_updates=1"]
    for step in STEPS:
        take(step, tmp_path / "run", *still)
    results = read(tmp_path / "run" / "results.json")
    assert results["kl_to_reference"] == pytest.approx(0, abs=1e-5)
    for interval in results["win_rate"]["ppo_vs_sft"].values():
        assert interval["mean"] == 0.5
    assert all(
        row["answers"]["sft"] == row["answers"]["ppo"] for row in read(tmp_path / "run" / "eval" / "answers.json")
    )


def test_the_best_of_n_is_the_answer_that_the_reward_model_scores_highest(
    take: Take, small: list[str], tmp_path: Path
) -> None:
    settings = [*small, "eval.best_of_n=4", "eval.num_prompts=16"]
    for step in ("sft", "reward", "eval"):
        take(step, tmp_path / "run", *settings)
    results = read(tmp_path / "run" / "results.json")
    assert {"best-of-4_vs_sft", "best-of-4_vs_base"} <= results["win_rate"].keys()
    assert results["best_of_n"] == {"n": 4, "kl_to_reference": pytest.approx(2 * math.log(2) - 0.75)}
    assert results["mean_score"]["best-of-4"]["reward_model"] > results["mean_score"]["sft"]["reward_model"]
    rows = read(tmp_path / "run" / "eval" / "held_out.json")
    config = load_lm_config("tiny", settings)
    policy = load_policy(config, path=str(tmp_path / "run" / "sft" / "model"))
    model = load_score_model(config, path=str(tmp_path / "run" / "reward" / "model"), trained=True)
    encoder = Encoder.of(config)
    sampler = Sampler(policy, encoder, config.ppo.temperature, config.eval.batch_size)
    prompts = held_out_prompts(encoder, config.data, 16, seed=config.seed)
    chance = generator(config.seed, "best of n")
    for row, example in zip(rows, prompts, strict=True):  # one prompt after the other draws the same numbers
        responses = sampler.sample([example] * 4, chance)
        scores = score_rows(model, responses.batch, 4)
        best = int(scores.argmax())
        assert (row["prompt"], row["answers"]["best-of-4"]) == (example.prompt, responses.texts[best])
        assert row["scores"]["best-of-4"]["reward_model"] == pytest.approx(float(scores[best]), abs=1e-4)


def test_best_of_n_needs_a_reward_model(take: Take, small: list[str], tmp_path: Path) -> None:
    take("sft", tmp_path / "run", *small, "eval.best_of_n=4")
    with pytest.raises(InputError, match=r"eval\.best_of_n: this run has no SFT policy or no reward model yet"):
        take("eval", tmp_path / "run", *small, "eval.best_of_n=4")
    with pytest.raises(ValidationError, match="chooses by the run's reward model"):
        LmConfig.model_validate({"eval": {"best_of_n": 4}, "ppo": {"reward": {"mine:paid": 1.0}}})


def test_eval_measures_the_stages_that_there_are(take: Take, small: list[str], tmp_path: Path) -> None:
    for step in ("sft", "eval"):
        take(step, tmp_path, *small)
    results = read(tmp_path / "results.json")
    assert list(results["win_rate"]) == ["sft_vs_base"]
    assert list(results["win_rate"]["sft_vs_base"]) == ["judge"]  # no reward model yet
    assert read(tmp_path / "eval" / "reward_texts.json") == []


def test_eval_again_finds_the_same(tiny: Tercet, longer: list[str], small_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    before = (run / "eval" / "held_out.json").read_bytes()
    shutil.rmtree(run / "eval")  # what a step that is done says to remove to do it again
    assert tiny("eval", run, *longer).exit_code == 0
    assert (run / "eval" / "held_out.json").read_bytes() == before
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps.count("eval") == 3


def test_unseen_judges_compare_the_stages(take: Take, small: list[str], tmp_path: Path) -> None:
    asks = "tercet.lm.preferences.asks:answers_what_is_asked"
    for step in ("sft", "eval"):
        take(step, tmp_path, *small, f"eval.unseen_judges=[base_model, {asks}]")
    results = read(tmp_path / "results.json")
    assert set(results["win_rate"]["sft_vs_base"]) == {"judge", "base_model", "answers_what_is_asked"}
    row = read(tmp_path / "eval" / "held_out.json")[0]
    (expected,) = answers_what_is_asked([row["prompt"]], [row["answers"]["sft"]])
    assert row["scores"]["sft"]["answers_what_is_asked"] == expected


def test_an_unseen_judge_may_be_a_reward_model(take: Take, small: list[str], tmp_path: Path) -> None:
    config = load_lm_config("tiny", small)
    gold = tmp_path / "gold"
    load_score_model(config).save(gold, Encoder.of(config).tokenizer)
    for step in ("sft", "eval"):
        take(step, tmp_path / "run", *small, f"eval.unseen_judges=[{gold}]")
    assert set(read(tmp_path / "run" / "results.json")["win_rate"]["sft_vs_base"]) == {"judge", str(gold)}
    rows = read(tmp_path / "run" / "eval" / "held_out.json")
    assert len({row["scores"]["sft"][str(gold)] for row in rows}) > 1


@pytest.mark.parametrize(
    ("judges", "says"),
    [
        (["mine:taught"], "'mine:taught' takes part in training"),
        (["mine:paid"], "'mine:paid' takes part in training"),
        (["mine:other", "theirs:other"], "two judges have the name 'other'"),
        (["mine:reward_model"], "two judges have the name 'reward_model'"),
    ],
)
def test_an_unseen_judge_takes_no_part_in_training(judges: list[str], says: str) -> None:
    config = {"judge": "mine:taught", "ppo": {"reward": {"mine:paid": 1.0}}, "eval": {"unseen_judges": judges}}
    with pytest.raises(ValidationError, match=says):
        LmConfig.model_validate(config)
