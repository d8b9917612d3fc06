"""DPO learns from the pairs of step 2, with the SFT policy as its reference; its loss is what transformers computes."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from tests.on_ranks import on_ranks
from transformers import AutoModelForCausalLM

import tercet as api
from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.errors import FailedError, InputError
from tercet.lm import dpo
from tercet.lm.data.examples import Example, Message
from tercet.lm.dpo import LearnedReward, dpo_loss
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.pair_batches import PairBatches, pair_length, pair_prompt
from tercet.lm.quiet import hush
from tercet.lm.rollout import reference_logprobs
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.runs.progress import silent
from tercet.train.device import device_of

Take = Callable[..., Path]
Tercet = Callable[..., Result]
MakeConfig = Callable[..., LmConfig]
Row = dict[str, Any]  # Any: JSON
LEARNS = ["dpo.lr=1e-2", "dpo.epochs=3", "dpo.eval_every=5", "dpo.batch_size=8", "dpo.micro_batch_size=4"]


def rows(run: Path, step: str = "dpo") -> list[Row]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["step"] == step]


def taught(out: Path, overrides: list[str]) -> Path:
    config = load_lm_config("tiny", overrides)
    with silent(), RunFolder.open(out, config, preset="tiny") as folder:
        dpo.run(folder, config)
    return out


@pytest.fixture(scope="module")
def learned(take: Take, longer: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of SFT and DPO without a reward model, and its overrides."""
    path, settings = tmp_path_factory.mktemp("runs") / "dpo", [*longer, *LEARNS]
    return taught(take("sft", path, *settings), settings), settings


def test_the_policy_learns_to_prefer_the_better_answers(learned: tuple[Path, list[str]]) -> None:
    metrics = rows(learned[0])
    last = metrics[-1]
    assert last["dpo/accuracy"] > 0.9 and last["dpo/loss"] < 0.5 * metrics[0]["dpo/loss"]
    assert last["dpo/margin"] == pytest.approx(last["dpo/reward_chosen"] - last["dpo/reward_rejected"], abs=1e-5)
    results = json.loads((learned[0] / "results.json").read_text())["dpo"]
    assert results["accuracy"]["toy"]["low"] > 0.5 and results["margin"]["toy"] > 0
    kls = [row["dpo/validation_kl"] for row in metrics if "dpo/validation_kl" in row]
    assert len(kls) > 2 and kls[-1] > kls[0] > -0.1 and kls[-1] > 0.1


def test_before_the_first_step_the_policy_is_the_reference(learned: tuple[Path, list[str]]) -> None:
    first = rows(learned[0])[0]
    assert first["dpo/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["dpo/margin"] == pytest.approx(0.0, abs=1e-5)


QUESTION = (Message("user", "Is it?"),)
PAIRS = [
    Example(QUESTION, "Yes.", "No.", "made up", "row 0"),
    Example(QUESTION, "Yes.", "Perhap", "made up", "row 1", True, False),  # the last one was cut off
    Example((Message("user", "Why?"),), "", "No, no.", "made up", "row 2"),
]


@contextmanager
def policies(config: LmConfig, disturbed: Callable[[LmConfig], Policy]) -> Iterator[tuple[LearnedReward, Policy]]:
    """A policy that has moved from its reference, and a frozen copy of that."""
    policy, frozen = disturbed(config), load_policy(config)
    temperature = config.ppo.temperature
    reference = reference_logprobs(policy, None if config.lora.rank else frozen, temperature=temperature)
    yield LearnedReward(policy, reference, temperature), frozen


@pytest.mark.parametrize("lora", [{}, {"rank": 4}], ids=["all weights", "adapters"])
def test_the_loss_is_the_one_that_transformers_and_a_loop_give(
    lora: dict[str, int], make_config: MakeConfig, disturbed: Callable[[LmConfig], Policy], tmp_path: Path
) -> None:
    config = make_config(lora=lora, ppo={"max_response_tokens": 8, "temperature": 0.7})
    encoder = Encoder.of(config)
    (pairs,) = PairBatches(encoder, torch.device("cpu"), 8).of(PAIRS)
    with policies(config, disturbed) as (reward, frozen):
        found = dpo_loss(reward, pairs, beta=0.3)
        reward.policy.save(tmp_path / "policy", encoder.tokenizer, encoder.ends.ids)
        frozen.save(tmp_path / "reference", encoder.tokenizer, encoder.ends.ids)
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name).eval() for name in ("policy", "reference")]

    def total(model: torch.nn.Module, prompt: list[int], response: list[int]) -> float:
        with torch.no_grad():
            logprobs = (model(torch.tensor([prompt + response])).logits[0].float() / 0.7).log_softmax(-1)
        return sum(float(logprobs[len(prompt) + t - 1, token]) for t, token in enumerate(response))

    loss = right = 0.0
    for pair in PAIRS:
        prompt = encoder.prompt(pair)
        ratios = [
            total(models[0], prompt, ids) - total(models[1], prompt, ids)
            for ids in (encoder.chosen(pair), encoder.rejected(pair))
        ]
        loss += math.log(1 + math.exp(-0.3 * (ratios[0] - ratios[1])))
        right += ratios[0] > ratios[1]
    assert encoder.chosen(PAIRS[0])[-1] == encoder.ends.written != encoder.rejected(PAIRS[1])[-1]  # EOS is an action
    assert found.total.item() == pytest.approx(loss, rel=1e-4) != pytest.approx(3 * math.log(2), abs=0.01)
    assert found.metrics["accuracy"] == right


def test_a_reference_that_is_not_the_start_is_refused(
    make_config: MakeConfig, disturbed: Callable[[LmConfig], Policy]
) -> None:
    config = make_config()
    batches = PairBatches(Encoder.of(config), device_of(config.device), 8).of(PAIRS)
    with (
        policies(config, disturbed) as (reward, _),
        pytest.raises(FailedError, match=r"differs from its reference by .* nats per token before the first step"),
    ):
        dpo._check_start(reward, batches)


def test_a_response_without_tokens_does_not_differ_from_the_reference(make_config: MakeConfig) -> None:
    config = make_config()
    encoder, policy = Encoder.of(config), load_policy(config)
    cut_off = Example(QUESTION, "Yes.", "", "made up", "row 0", True, False)
    assert encoder.rejected(cut_off) == []
    batches = PairBatches(encoder, device_of(config.device), 8).of([cut_off])
    temperature = config.ppo.temperature
    reward = LearnedReward(policy, reference_logprobs(policy, policy, temperature=temperature), temperature)
    dpo._check_start(reward, batches)


@pytest.mark.slow
def test_micro_batches_change_nothing(small: list[str], take: Take, tmp_path: Path) -> None:
    found = {}
    for size in (1, 3, 8):
        settings = [*small, "dpo.batch_size=8", "dpo.max_steps=3", f"dpo.micro_batch_size={size}", "dpo.lr=1e-2"]
        out = taught(take("sft", tmp_path / str(size), *settings), settings)
        found[size] = [(row["dpo/loss"], row["dpo/margin"], row["dpo/grad_norm"]) for row in rows(out)]
    for size in (1, 3):
        for ours, whole in zip(found[size], found[8], strict=True):
            assert ours == pytest.approx(whole, rel=1e-4, abs=1e-6)


def _on_rank(folder: Path, overrides: list[str]) -> None:
    hush()
    taught(folder, overrides)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(take: Take, small: list[str], tmp_path: Path) -> None:
    settings = [*small, "dpo.batch_size=5", "dpo.max_steps=3", "dpo.lr=1e-2", "dpo.eval_every=1"]
    one, two = (take("sft", tmp_path / name, *settings) for name in ("one", "two"))
    taught(one, settings)
    on_ranks(2, _on_rank, two, settings)
    for ours, theirs in zip(rows(two), rows(one), strict=True):
        assert ours.pop("step") == theirs.pop("step") == "dpo"
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)


def test_dpo_is_one_more_stage_that_everything_knows(
    learned: tuple[Path, list[str]], tiny: Tercet, tercet: Tercet, tmp_path: Path
) -> None:
    path, settings = learned
    result = tiny("eval", path, *settings)
    assert result.exit_code == 0, result.output
    results = json.loads((path / "results.json").read_text())
    assert {"dpo_vs_sft", "dpo_vs_base"} <= results["win_rate"].keys()
    assert results["dpo"]["kl_to_reference"] > 0 and "kl_to_reference" not in results
    run = api.Run(path)
    assert run.finished == ("sft", "dpo", "eval")
    assert len(api.sample(run, ["Is the door red?"], stage="dpo")) == 1
    assert "dpo responds now" in tercet("lm", "chat", path, "--stage", "dpo", typed="/quit\n").output
    report = (path / "report.md").read_text()
    assert "In place of PPO: DPO" in report and "DPO won" in report and "DPO against SFT" in report


@pytest.mark.slow
def test_the_pairs_are_those_of_the_reward_model_whichever_comes_first(
    tiny: Tercet, small: list[str], toy_questions: Path, tmp_path: Path
) -> None:
    settings = [*small, f"data.train=[{toy_questions}]", "reward.num_sampled_pairs=24", "dpo.max_steps=2"]
    for name, steps in (("dpo first", ("dpo", "reward")), ("reward first", ("reward", "dpo"))):
        for step in ("sft", *steps):
            result = tiny(step, tmp_path / name, *settings)
            assert result.exit_code == 0, result.output
        again = tiny("dpo", tmp_path / name, *settings)
        assert "dpo: already done" in again.output  # a reward model that came later changes nothing
    for file in ("reward/pairs.jsonl", "dpo/model/model.safetensors", "reward/model/model.safetensors"):
        first, second = ((tmp_path / name / file).read_bytes() for name in ("dpo first", "reward first"))
        assert first == second, file


@pytest.mark.slow
def test_a_run_finishes_the_dpo_that_was_begun_and_repeats_it_after_another_sft(
    tiny: Tercet, small: list[str], tmp_path: Path
) -> None:
    settings, path = [*small, "dpo.max_steps=2"], tmp_path / "run"
    assert tiny("sft", path, *settings).exit_code == 0
    assert tiny("dpo", path, *settings).exit_code == 0
    result = tiny("run", path, *settings)
    assert result.exit_code == 0, result.output
    assert "dpo: already done" in result.output
    assert api.Run(path).finished == ("sft", "reward", "ppo", "dpo", "eval")
    assert "dpo_vs_ppo" in api.Run(path).results()["win_rate"]
    assert "eval: already done" in tiny("run", path, *settings).output
    assert tiny("sft", path, *settings).exit_code == 0  # nothing to do
    (path / "sft" / "done.json").unlink()
    again = tiny("run", path, *settings)
    assert again.exit_code == 0 and "dpo: older than sft, so it is repeated" in again.output


def test_dpo_needs_a_policy_to_start_from_and_prompts_to_measure_on(tiny: Tercet, small: list[str], tmp_path: Path):
    result = tiny("dpo", tmp_path / "run", *small)
    assert result.exit_code == 2 and "run `tercet lm sft` with the same --out" in result.output
    result = tiny("dpo", tmp_path / "none", *small, "data.eval_fraction=0")
    assert result.exit_code == 2 and "dpo: no validation prompts are held out" in result.output


def test_pairs_of_one_prompt_stay_in_one_process() -> None:
    assert pair_prompt(PAIRS[0]) == pair_prompt(PAIRS[1]) != pair_prompt(PAIRS[2])
    assert pair_length(PAIRS[2]) == len("Why?") + len("No, no.")


def test_a_run_of_an_earlier_version_takes_the_section_of_dpo(take: Take, small: list[str], tmp_path: Path) -> None:
    path = take("sft", tmp_path / "run", *small)
    lines = (path / "config.yaml").read_text().splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line == "dpo:\n")
    end = next(i for i in range(start + 1, len(lines)) if not lines[i].startswith(" "))
    (path / "config.yaml").write_text("".join(lines[:start] + lines[end:]))
    (path / "run.json").unlink()
    config = load_lm_config("tiny", [*small, "dpo.max_steps=2", "dpo.beta=0.25"])
    with pytest.raises(InputError, match=r"dpo\.beta"):
        RunFolder.open(path, config, preset="tiny")
    api.run(config, path, step="dpo", quiet=True)
    assert api.Run(path).config["dpo"]["beta"] == 0.25
    other = load_lm_config("tiny", [*small, "dpo.max_steps=2", "dpo.beta=0.5"])
    with pytest.raises(InputError, match=r"dpo.beta: 0.25 in the run, 0.5 now"):
        api.run(other, path, step="dpo", quiet=True)
