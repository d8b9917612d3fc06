"""Evaluate all stages: responses side by side, reward-model scores of fixed texts, paired win rates."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from math import isnan
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from tercet.config.functions import PERSON
from tercet.config.lm import BASE_MODEL, DataConfig, LmConfig, NetworkConfig, judge_name
from tercet.core.intervals import wilson, win
from tercet.core.kl import best_of_n_kl, k1
from tercet.errors import InputError
from tercet.lm.data.columns import columns_of_run
from tercet.lm.data.digests import digests
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.files import local_rows, require_file
from tercet.lm.data.splits import flat, step_examples
from tercet.lm.data.turns import is_null, plain, text_of
from tercet.lm.engines.choose import engine_of_frozen
from tercet.lm.models.configs import config_at, fresh, named_by_key, window_of
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import ScoreModel, load_policy, load_score_model
from tercet.lm.preferences.likelihood import mutual_information
from tercet.lm.sampling.best_of_n import best_of_n
from tercet.lm.sampling.responses import Responses
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.scoring import Score, by_judge, by_model, score_rows
from tercet.lm.stages import Stage, last_reward_model, stages_of
from tercet.lm.text.encoder import Encoder
from tercet.runs.atomic import write_text
from tercet.runs.folder import RunFolder
from tercet.runs.ranks import first_only
from tercet.runs.results import merged
from tercet.runs.rounds import kind_of, results_in_round, round_of
from tercet.train.chance import generator
from tercet.train.parallel import combined, own_batches

TOO_FEW = "eval: fewer than 2 prompts are held out; raise data.eval_fraction or give data.eval"
FIXED = Path(__file__).parent / "fixed_texts.yaml"
Rows = list[dict[str, Any]]  # Any: JSON


def run(folder: RunFolder, config: LmConfig) -> None:
    """Measure every stage; write DIR/eval/*.json and the metrics of results.json."""
    stages = stages_of(folder, config.ppo.policy, config.reward.num_rounds)
    encoder = Encoder.of(config)
    columns = columns_of_run(config)
    held_out = held_out_prompts(encoder, config.data, config.eval.num_prompts, seed=config.seed, columns=columns)
    fixed, texts = fixed_prompts(config.eval.prompts), reward_texts(config.eval.reward_texts)
    reward_model = reward_model_of(folder, config, config.reward.num_rounds)
    scores = judge_scores(config, encoder, reward_model)
    if config.eval.best_of_n and not (reward_model and any(stage.name == "sft" for stage in stages)):
        raise InputError("eval.best_of_n: this run has no SFT policy or no reward model yet; run these steps first")
    data = digests(config, "eval")
    with folder.step("eval", total=len(stages), shown=[], data=data) as step:
        answers = Answers()
        for index, stage in enumerate(reversed(stages)):  # sft after them: the reference then reads their responses
            _answer(answers, stage, folder, config, encoder, held_out, fixed, scores.get("reward_model"))
            ended = _mean([part.ended.float() for part in answers.held_out[stage.name]])
            step.log(index, {f"eval/eos_fraction/{stage.name}": ended})
        scores |= unseen_scores(config, encoder)
        responses, best_of = answers.held_out, best_of_name(config.eval.best_of_n)
        compared = [*(stage.name for stage in stages), *([best_of] if best_of in responses else [])]
        by_stage = {
            stage: {name: _all([score(part) for part in responses[stage]]) for name, score in scores.items()}
            for stage in compared
        }
        lengths = {s: _mean([a.batch.response_mask.sum(1).float() for a in responses[s]]) for s in compared}
        _write(step.path / "answers.json", _side_by_side(fixed, answers.fixed, stages))
        _write(step.path / "held_out.json", _held_out_rows(held_out, responses, by_stage))
        scored = score_texts(texts, encoder, reward_model, config.eval.batch_size) if reward_model else []
        _write(step.path / "reward_texts.json", scored)
        step.finish(
            _kl_results(answers.kl, config.eval.best_of_n)
            | {
                "win_rate": win_rates(by_stage),
                "mean_score": {stage: _means(rows) for stage, rows in by_stage.items()},
                "response_length": lengths,
            }
        )


@dataclass(frozen=True)
class Answers:
    """Responses of the stages by their names, and what is known about them."""

    held_out: dict[str, list[Responses]] = field(default_factory=dict)  # best-of-n's too
    fixed: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # greedy and sampled
    logprobs: dict[str, list[Tensor]] = field(default_factory=dict)  # of their own responses: PPO's and DPO's
    kl: dict[str, float] = field(default_factory=dict)  # of these to the SFT policy, in nats per response


def _answer(
    answers: Answers,
    stage: Stage,
    folder: RunFolder,
    config: LmConfig,
    encoder: Encoder,
    held_out: Sequence[Example],
    fixed: Sequence[Example],
    reward: Score | None,
) -> None:
    """Add the responses of a stage. SFT comes after PPO and DPO, whose KL it completes; it samples best-of-n too."""
    policy = load_policy(config, path=stage.path)
    encoder.check_window(policy.model)
    sampler = Sampler(policy, encoder, config.ppo.temperature, config.eval.batch_size)
    answers.fixed[stage.name] = _fixed_responses(
        sampler, fixed, stage.name, max_tokens=config.eval.max_response_tokens, seed=config.seed
    )
    n = config.eval.best_of_n if stage.name == "sft" else 0
    with engine_of_frozen(config, policy, encoder, folder.path, "eval") as engine:
        by_engine = replace(sampler, engine=engine)
        answers.held_out[stage.name] = by_engine.sample_all(
            held_out, generator(config.seed, "held-out answers"), title=f"{stage.name}: held-out prompts"
        )
        if n:
            assert reward  # checked before the step
            best = best_of_n(by_engine, held_out, reward, generator(config.seed, "best of n"), n=n)
            answers.held_out[best_of_name(n)] = [best]
    if kind_of(stage.name) in ("ppo", "dpo"):
        answers.logprobs[stage.name] = all_logprobs(sampler, answers.held_out[stage.name])
    if stage.name == "sft":
        for name, own in answers.logprobs.items():
            pairs = zip(own, all_logprobs(sampler, answers.held_out[name]), strict=True)
            answers.kl[name] = _mean([k1(one, reference).sum(1) for one, reference in pairs])


def best_of_name(n: int) -> str:
    """Return the name of the best of n responses of the SFT policy, beside the names of stages."""
    return f"best-of-{n}"


def _kl_results(kl: Mapping[str, float], n: int) -> dict[str, Any]:  # Any: JSON
    """Return the KL to the SFT policy for results.json, and that of the best of `n` responses, if `n` is not 0."""
    results: dict[str, Any] = {"best_of_n": {"n": n, "kl_to_reference": best_of_n_kl(n)}} if n else {}
    for name, value in kl.items():
        one = {"kl_to_reference": value}
        results = merged(results, {"dpo": one} if name == "dpo" else results_in_round(one, round_of(name)))
    return results


def check(config: LmConfig, encoder: Encoder) -> None:
    """Raise InputError before training if the evaluation at the end could not be done."""
    examples = step_examples(config.data, "ppo", columns_of_run(config))
    if sum(map(len, examples.test.values())) < 2:
        raise InputError(TOO_FEW)
    stages = {path: config_at(config.model, path) for path in ("", config.ppo.policy)}
    for path, hf_config in stages.items():
        with named_by_key(config, path):
            encoder.check_window(fresh(hf_config, scores=False))
    window = min(filter(None, map(window_of, stages.values())), default=None)
    most = config.eval.max_response_tokens
    needs = {e.prompt: len(encoder.prompt(e)) + most for e in fixed_prompts(config.eval.prompts)}
    for row in reward_texts(config.eval.reward_texts):
        prompt = len(encoder.prompt(_question(row["prompt"])))
        needs[row["prompt"]] = prompt + max(len(encoder.response(row[kind])) for kind in ("good", "bad"))
    text, needed = max(needs.items(), key=lambda item: item[1])
    if window is not None and needed > window:
        raise InputError(
            f"eval.prompts, eval.reward_texts: {text[:60]!r} with its response needs {needed} tokens, but the model "
            f"reads {window}; shorten it, or lower eval.max_response_tokens={most}"
        )


def held_out_prompts(
    encoder: Encoder, data: DataConfig, num: int, *, seed: int, columns: tuple[str, ...] = ()
) -> list[Example]:
    """Draw at most `num` test prompts, which no step has learned from and no checkpoint was selected by."""
    test = encoder.within_limits(step_examples(data, "ppo", columns).test, "held-out prompts")
    prompts = flat(test)
    if len(prompts) < 2:
        raise InputError(TOO_FEW)
    order = torch.randperm(len(prompts), generator=generator(seed, "held-out prompts"))
    return [prompts[i] for i in order[:num].tolist()]


def fixed_prompts(prompts: Sequence[str]) -> list[Example]:
    """Make the prompts of eval.prompts, with the names of built-in lists replaced by their prompts."""
    lists = yaml.safe_load(FIXED.read_text(encoding="utf-8"))["prompts"]
    texts = [text for name in prompts for text in lists.get(name, [name])]
    if blank := next((text for text in texts if not text.strip()), None):
        raise InputError(f"eval.prompts: {blank!r} is blank; write a prompt, or remove it")
    return [_question(plain(text)) for text in texts]


def _one_text(value: object, location: str) -> str:
    """Return a text, or a number as a text; InputError for other values."""
    if isinstance(value, list):
        raise InputError(f"{location} is a list; give one text")
    try:
        return plain(value) if isinstance(value, str) else text_of(value)
    except InputError as error:
        raise InputError(f"{location}: {error}") from error


def _question(text: str) -> Example:
    return Example((Message("user", text),), "", None, "eval", "eval")


def reward_texts(file: str) -> Rows:
    """Read prompts with a good and a bad response from `file` (eval.reward_texts), or take DeepSpeed-Chat's four."""
    if not file:
        return yaml.safe_load(FIXED.read_text(encoding="utf-8"))["reward_texts"]
    path = Path(file)
    try:
        require_file(path)
    except InputError as error:
        raise InputError(f"eval.reward_texts: {error}") from error
    rows: Rows = []
    for location, row in local_rows(path, ".jsonl"):
        missing = [name for name in ("prompt", "good", "bad") if is_null(row.get(name))]
        if missing:
            raise InputError(f"{location}: needs prompt, good and bad; there is no {', no '.join(missing)}")
        rows.append({name: _one_text(row[name], f"{location}: {name}") for name in ("prompt", "good", "bad")})
    if not rows:
        raise InputError(f"{path}: has no rows; give lines of JSON with prompt, good and bad")
    return rows


def win_rates(by_stage: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, Any]]:
    """Compute for every two stages how often the later one scores higher on the same prompt; a tie counts half.

    A prompt counts if both responses have a score; a judge that has no such prompt is left out.
    """
    rates: dict[str, dict[str, Any]] = {}
    for before, after in combinations(by_stage, 2):
        wins = {
            name: [win(*both) for both in zip(scores, by_stage[before][name], strict=True) if not any(map(isnan, both))]
            for name, scores in by_stage[after].items()
        }
        rates[f"{after}_vs_{before}"] = {name: wilson(won).as_json("prompts") for name, won in wins.items() if won}
    return rates


def _means(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the mean of each judge's scores; a judge without any is left out."""
    given = {name: [value for value in values if not isnan(value)] for name, values in scores.items()}
    return {name: sum(values) / len(values) for name, values in given.items() if values}


def reward_model_of(folder: RunFolder, networks: NetworkConfig, num_rounds: int) -> ScoreModel | None:
    """Load the reward model of the last finished round; None if the run has none."""
    path = last_reward_model(folder, num_rounds)
    return load_score_model(networks, path=path, trained=True) if path else None


def judge_scores(config: LmConfig, encoder: Encoder, reward_model: ScoreModel | None) -> dict[str, Score]:
    """Return the judge of the config and the reward model, as far as there are these, by their names in results."""
    scores: dict[str, Score] = {}
    if config.judge and config.judge != PERSON:
        scores["judge"] = by_judge(config.judge, config, encoder, config.eval.batch_size)
    if reward_model:
        scores["reward_model"] = by_model(reward_model, config.eval.batch_size)
    return scores


def unseen_scores(config: LmConfig, encoder: Encoder) -> dict[str, Score]:
    """Load the judges of eval.unseen_judges by their names in results."""
    scores: dict[str, Score] = {}
    for judge in config.eval.unseen_judges:
        if judge == BASE_MODEL:
            scores[judge] = partial(mutual_information, load_policy(config), encoder)
        else:
            scores[judge_name(judge)] = by_judge(judge, config, encoder, config.eval.batch_size)
    return scores


def _fixed_responses(
    sampler: Sampler, fixed: Sequence[Example], stage: str, *, max_tokens: int, seed: int
) -> dict[str, list[str]]:
    """Sample a greedy response and one at the sampler's temperature to each fixed prompt."""
    texts: dict[str, list[str]] = {}
    for kind, temperature in (("greedy", 0.0), ("sampled", sampler.temperature)):
        parts = replace(sampler, temperature=temperature).sample_all(
            fixed,
            generator(seed, "fixed prompts"),
            title=f"{stage}: fixed prompts, {kind}",
            max_tokens=max_tokens,
        )
        texts[kind] = [text for part in parts for text in part.texts]
    return texts


@torch.no_grad()
def all_logprobs(sampler: Sampler, responses: Sequence[Responses]) -> list[Tensor]:
    """Compute the log-probability of every response token; in bf16 and fp16 the sampler's own differ by rounding."""
    all_logprobs = []
    for part in responses:
        logprobs = torch.zeros_like(part.logprobs)
        for rows in own_batches(part.batch.lengths.tolist(), sampler.batch_size):
            few = part.batch.rows(rows)
            logprobs[rows] = response_logprobs(sampler.policy, few, temperature=sampler.temperature).logprobs
        all_logprobs.append(combined(logprobs))
    return all_logprobs


def score_texts(texts: Rows, encoder: Encoder, model: ScoreModel, batch_size: int) -> Rows:
    """Add the reward model's scores of the good and the bad response to each row of texts."""
    prompts = [encoder.prompt(_question(row["prompt"])) for row in texts]
    scored = [dict(row) for row in texts]
    for kind in ("good", "bad"):
        batch = encoder.batch(prompts, [encoder.response(row[kind]) for row in texts]).to(model.model.device)
        for row, score in zip(scored, score_rows(model, batch, batch_size).tolist(), strict=True):
            row[f"score_{kind}"] = score
    return scored


def _side_by_side(
    fixed: Sequence[Example], responses: dict[str, dict[str, list[str]]], stages: Sequence[Stage]
) -> Rows:
    return [
        {
            "prompt": example.prompt,
            "answers": {s.name: {kind: texts[i] for kind, texts in responses[s.name].items()} for s in stages},
        }
        for i, example in enumerate(fixed)
    ]


def _held_out_rows(
    held_out: Sequence[Example],
    responses: dict[str, list[Responses]],
    by_stage: dict[str, dict[str, list[float]]],
) -> Rows:
    texts = {name: [text for part in parts for text in part.texts] for name, parts in responses.items()}
    return [
        {
            "prompt": example.prompt,
            "answers": {stage: texts[stage][i] for stage in by_stage},
            "scores": {stage: {name: known(v[i]) for name, v in rows.items()} for stage, rows in by_stage.items()},
        }
        for i, example in enumerate(held_out)
    ]


def known(score: float) -> float | None:
    """Return a score for JSON; None if the judge gave none."""
    return None if isnan(score) else score


def _all(parts: Sequence[Tensor]) -> list[float]:
    return torch.cat(list(parts)).tolist()


def _mean(parts: Sequence[Tensor]) -> float:
    return float(torch.cat(list(parts)).mean())


@first_only
def _write(path: Path, rows: Rows) -> None:
    write_text(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
