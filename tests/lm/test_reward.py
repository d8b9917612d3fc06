"""Step 2 learns which answer is better, says how sure it may be, and brings its score to one scale."""

import json
import math
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from tercet.config.load import load_lm_config
from tercet.errors import InputError
from tercet.lm import batch
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.splits import step_examples
from tercet.lm.models import roles
from tercet.lm.models.roles import load_policy, load_score_model
from tercet.lm.pair_batches import PairBatches, score_pairs
from tercet.lm.preferences.pairs import HELD_OUT_SHARE
from tercet.lm.reward import from_first_difference, pair_loss
from tercet.lm.sampling.responses import respond_all
from tercet.lm.scoring import score_rows
from tercet.lm.text.encoder import Encoder
from tercet.train.chance import generator
from tercet.train.device import device_of

Tercet = Callable[..., Result]
Take = Callable[..., Path]
Tree = dict[str, Any]  # Any: JSON

LEARNING = [
    "reward.max_steps=30",
    "reward.lr=1e-2",
    "reward.batch_size=16",
    "reward.micro_batch_size=16",
    "reward.epochs=9",
]


def figures(run: Path) -> Tree:
    return json.loads((run / "results.json").read_text())["reward_model"]


def pairs_file(path: Path, start: int, num: int) -> Path:
    """Answers that say `yes` or `no` somewhere, behind questions that tell nothing."""
    rows = [
        {"prompt": f"Question {i}?", "chosen": f"{'ab'[i % 2]} yes {i}", "rejected": f"{'ab'[i % 2]} no {i}"}
        for i in range(start, start + num)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_reward_model_starts_from_reward_model(
    tiny: Tercet, small: list[str], sft_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    result = tiny("reward", tmp_path / "run", *small, f"reward.model={sft_folder('gpt2')}")
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "run" / "reward" / "model" / "config.json").read_text())
    assert saved["model_type"] == "gpt2"  # model.path of tiny is an OPT


@pytest.mark.parametrize("loss", ["last_token", "per_token"])
def test_a_separable_set_is_learned(tiny: Tercet, small: list[str], tmp_path: Path, loss: str) -> None:
    train, held_out = pairs_file(tmp_path / "train.jsonl", 0, 200), pairs_file(tmp_path / "held-out.jsonl", 500, 100)
    files = [f"data.train=[{train}]", f"data.eval=[{held_out}]", "reward.num_eval=100"]
    result = tiny("reward", tmp_path / "run", *small, *files, *LEARNING, f"reward.loss={loss}")
    assert result.exit_code == 0, result.output
    found = figures(tmp_path / "run")
    assert found["accuracy"]["held-out"]["mean"] > 0.95
    assert found["accuracy"]["held-out"]["low"] > 0.9
    assert found["accuracy"]["held-out"]["num_prompts"] == 100
    assert found["margin"]["held-out"] == pytest.approx(
        found["score_chosen"]["held-out"] - found["score_rejected"]["held-out"], rel=1e-4
    )


@pytest.mark.slow
def test_sets_learned_one_after_another_overwrite_each_other_and_it_shows(
    take: Take, small: list[str], tmp_path: Path
) -> None:
    # all of one length: where an answer ends must not tell which it is
    def file(name: str, chosen: str, rejected: str) -> Path:
        rows = [{"prompt": f"{name} {i}", "chosen": f"{i} {chosen}", "rejected": f"{i} {rejected}"} for i in range(100)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / f"{name}.jsonl"

    files = f"data.train=[{file('early', 'yes', 'nay')}, {file('later', 'nay', 'yes')}]"
    settings = [*small, files, *LEARNING, "data.order=sequential", "reward.num_eval=60", "reward.max_steps=0"]
    settings += ["reward.lr=3e-3", "reward.epochs=30"]  # the second set must have time to undo the first
    first, second = figures(take("reward", tmp_path / "run", *settings))["forgetting"]
    assert (first["after"], second["after"]) == ("early", "later")
    assert first["accuracy"]["early"] > 0.9 > 0.1 > first["accuracy"]["later"]
    assert second["accuracy"]["later"] > 0.9
    assert second["accuracy"]["early"] < first["accuracy"]["early"]


def test_the_saved_score_has_mean_0_and_variance_1_over_answers_of_the_policy(
    take: Take, small: list[str], tmp_path: Path
) -> None:
    settings = [*small, "reward.num_reference_samples=24"]
    take("sft", tmp_path, *settings)
    found = figures(take("reward", tmp_path, *settings))
    assert found["normalised"]["over"] == "answers of the SFT policy"
    assert found["normalised"]["num"] == 24
    config = load_lm_config("tiny", settings)
    encoder = Encoder.of(config)
    train = [e for rows in encoder.within_limits(step_examples(config.data, "reward").train, "").values() for e in rows]
    chosen = [train[i] for i in torch.randperm(len(train), generator=generator(config.seed, "reference"))[:24]]
    responses = respond_all(
        load_policy(config, path=str(tmp_path / "sft" / "model")),
        encoder,
        chosen,
        generator=generator(config.seed, "reference answers"),
        temperature=1.0,
        max_tokens=8,
        batch_size=32,
        title="",
    )
    model = load_score_model(config, path=str(tmp_path / "reward" / "model"))
    scores = torch.cat([score_rows(model, part.batch, 5) for part in responses])
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores.std(correction=0)) == pytest.approx(1, rel=0.03)


def test_the_figures_are_those_of_the_saved_model(take: Take, small: list[str], tmp_path: Path) -> None:
    found = figures(take("reward", tmp_path, *small, *LEARNING))
    assert found["normalised"]["over"] == "training answers, chosen and rejected"
    config = load_lm_config("tiny", [*small, *LEARNING])
    examples = step_examples(config.data, "reward")
    pairs = [*examples.test["toy"], *examples.validation["toy"]][: config.reward.num_eval]
    model = load_score_model(config, path=str(tmp_path / "reward" / "model"))
    scores = score_pairs(model.scores, pairs, PairBatches(Encoder.of(config), device_of(config.device), 3))
    assert found["score_chosen"]["toy"] == pytest.approx(float(scores.chosen.mean()), abs=1e-4)
    assert found["score_rejected"]["toy"] == pytest.approx(float(scores.rejected.mean()), abs=1e-4)
    assert found["accuracy"]["toy"]["mean"] == float((scores.chosen > scores.rejected).double().mean())


def test_pairs_are_sampled_judged_and_kept(
    take: Take, small: list[str], toy_questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "high_letters.py").write_text(
        "def score(prompts, responses):\n    return [sum(map(ord, response)) for response in responses]\n"
    )
    asked = [f"data.train=[{toy_questions}]", "reward.num_sampled_pairs=12", "judge=high_letters:score"]
    # some prompts are too long: the number of pairs holds all the same
    settings = [*small, *asked, "data.max_prompt_tokens=21", "reward.samples_per_prompt=3"]
    for step in ("sft", "reward"):
        take(step, tmp_path / "run", *settings)
    rows = [json.loads(line) for line in (tmp_path / "run" / "reward" / "pairs.jsonl").read_text().splitlines()]
    parts = [row["part"] for row in rows]
    assert (parts.count("train"), parts.count("test")) == (12, ceil(12 * HELD_OUT_SHARE))
    for row in rows:
        assert sum(map(ord, row["chosen"])) == row["score_chosen"]
        assert sum(map(ord, row["rejected"])) == row["score_rejected"] < row["score_chosen"]
    asked_in = {part: {row["messages"][0]["text"] for row in rows if row["part"] == part} for part in parts}
    assert not asked_in["train"] & asked_in["test"]
    assert all(len(text) + 1 <= 21 for texts in asked_in.values() for text in texts)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["step"] == "reward" for row in logged) == 2  # 12 pairs in batches of 8


def test_answers_that_differ_behind_the_cut_alone_are_no_pairs(take: Take, small: list[str], tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "chosen": "x" * (9 * (i < 30)) + "yes", "rejected": "xxxxxxxxxno"} for i in range(40)]
    for name, some in (("all", rows[:30]), ("some", rows)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    with pytest.raises(InputError, match=r"all\.jsonl:1: .* equal after data\.max_response_tokens=8"):
        take("reward", tmp_path / "a", *small, f"data.train=[{tmp_path / 'all.jsonl'}]")
    done = take("reward", tmp_path / "b", *small, f"data.train=[{tmp_path / 'some.jsonl'}]")
    held_out = figures(done)["accuracy"]["some"]["num_prompts"]
    learned = sum(row["step"] == "reward" for row in map(json.loads, (done / "metrics.jsonl").open()))
    assert 0 < held_out < 10 and learned == 1  # of 40 pairs 10, a batch of 8 at most: one step an epoch


def test_the_pairs_mask_begins_at_the_first_difference(small: list[str]) -> None:
    encoder = Encoder.of(load_lm_config("tiny", small))
    example = Example((Message("user", "a"),), "xyz", "xw", "made up", "row 0")
    (pairs,) = PairBatches(encoder, torch.device("cpu"), 4).of([example])
    # a \n x y z EOS
    # a \n x w EOS pad
    assert from_first_difference(pairs).tolist() == [[False, False, False, True, True, True]]


def test_an_answer_that_is_the_start_of_the_other_differs_where_it_ends(small: list[str]) -> None:
    encoder = Encoder.of(load_lm_config("tiny", [*small, "data.max_response_tokens=3"]))
    example = Example((Message("user", "a"),), "xyz", "xy", "made up", "row 0")  # cut: no EOS behind xyz
    (pairs,) = PairBatches(encoder, torch.device("cpu"), 4).of([example])
    assert from_first_difference(pairs).tolist() == [[False, False, False, False, True]]


def test_the_loss_of_a_pair_by_hand(small: list[str]) -> None:
    config = load_lm_config("tiny", small)
    model = load_score_model(config)
    example = Example((Message("user", "a"),), "yes", "no!!", "made up", "row 0")
    (pairs,) = PairBatches(Encoder.of(config), torch.device("cpu"), 4).of([example])
    with torch.no_grad():
        alone = [model.scores(pairs.batch.rows(torch.tensor([row]))) for row in (0, 1)]
        found = pair_loss(model, pairs, "last_token")
    margin = float(alone[0] - alone[1])
    assert found.metrics == pytest.approx({"accuracy": float(margin > 0), "margin": margin}, abs=1e-5)
    assert float(found.total) == pytest.approx(float(torch.log1p(torch.exp(torch.tensor(-margin)))), abs=1e-5)


@pytest.mark.parametrize("kind", ["last_token", "per_token"])
def test_a_response_of_several_pairs_is_computed_once(kind: str, small: list[str]) -> None:
    config = load_lm_config("tiny", small)
    model, batches = load_score_model(config), PairBatches(Encoder.of(config), torch.device("cpu"), 8)
    asked = (Message("user", "a"),)
    texts = [("good", "fair"), ("good", "bad!!!"), ("fair", "bad!!!")]
    examples = [Example(asked, *pair, "made up", "row") for pair in texts]
    examples.append(Example((Message("user", "b"),), "good", "fair", "made up", "row"))  # another prompt: other rows
    (together,) = batches.of(examples)
    assert len(together.batch.ids) == 5
    alone = [pair_loss(model, pairs, kind) for example in examples for pairs in batches.of([example])]
    found = pair_loss(model, together, kind)
    assert float(found.total) == pytest.approx(sum(float(loss.total) for loss in alone), abs=1e-5)
    assert found.metrics["margin"] == pytest.approx(sum(loss.metrics["margin"] for loss in alone), abs=1e-5)
    scores = score_pairs(model.scores, examples[:3], batches)
    assert float(scores.rejected[0]) == pytest.approx(float(scores.chosen[2]), abs=1e-6)  # fair


def test_the_loss_by_token_of_a_pair_by_hand(small: list[str]) -> None:
    config = load_lm_config("tiny", small)
    model = load_score_model(config)
    example = Example((Message("user", "a"),), "yes", "no!!", "made up", "row 0")
    (pairs,) = PairBatches(Encoder.of(config), torch.device("cpu"), 4).of([example])
    with torch.no_grad():
        chosen, rejected = (model(pairs.batch.rows(torch.tensor([row])))[0] for row in (0, 1))
        found = float(pair_loss(model, pairs, "per_token").total)
    # a \n are the same, then come y e s EOS and n o ! ! EOS: the score behind the EOS of the shorter stays
    assert (len(chosen), len(rejected)) == (6, 7)
    losses = torch.log1p(torch.exp(-(torch.cat([chosen, chosen[-1:]]) - rejected)[2:]))
    assert found == pytest.approx(float(losses.mean()), abs=1e-5)


@pytest.mark.parametrize("is_unpadded", [True, False])
@pytest.mark.parametrize("few_tokens", [0, 128])  # rows of unlike length apart, or together with padding
def test_the_loss_by_token_is_the_same_on_every_path(
    is_unpadded: bool, few_tokens: int, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_lm_config("tiny", [*small, "model.architecture.init_std=0.5"])
    model = load_score_model(config)
    texts = [("yes", "no!!"), ("a long answer, whatever was asked", "x"), ("no", "nope")]
    examples = [Example((Message("user", "a"),), *pair, "made up", "row") for pair in texts]
    (pairs,) = PairBatches(Encoder.of(config), torch.device("cpu"), 4).of(examples)
    alone = [model(pairs.batch.rows(torch.tensor([row])))[0].tolist() for row in range(6)]
    expected = 0.0
    for chosen, rejected in zip(alone[:3], alone[3:], strict=True):
        length = max(len(chosen), len(rejected))
        chosen, rejected = (scores + scores[-1:] * (length - len(scores)) for scores in (chosen, rejected))
        losses = [math.log1p(math.exp(r - c)) for c, r in zip(chosen[2:], rejected[2:], strict=True)]
        first = next(i for i, (c, r) in enumerate(zip(chosen[2:], rejected[2:], strict=True)) if c != r)
        expected += sum(losses[first:]) / len(losses[first:])

    monkeypatch.setattr(batch, "_FEW_TOKENS", few_tokens)
    if not is_unpadded:
        monkeypatch.setattr(roles, "can_be_unpadded", lambda _: False)
    assert float(pair_loss(model, pairs, "per_token").total) == pytest.approx(expected, abs=1e-4)
