"""What the three steps made: answers side by side, reward-model scores of fixed texts, paired win rates."""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import yaml

from tercet.config.functions import PERSON
from tercet.config.lm import LmConfig
from tercet.core.intervals import wilson, win
from tercet.core.kl import k1
from tercet.errors import InputError
from tercet.lm.data.digests import digests
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.files import local_rows, require_file
from tercet.lm.data.splits import flat, step_examples
from tercet.lm.data.turns import is_null, plain, text_of
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy, device_of, load_policy, load_score_model
from tercet.lm.models.weights import config_at, fresh, named_by_key, window_of
from tercet.lm.sampling.responses import Answers, answer_all
from tercet.lm.scoring import Score, by_function, by_model, score_rows
from tercet.lm.stages import Stage, stages_of
from tercet.lm.text.encoder import Encoder
from tercet.runs.atomic import write_text
from tercet.runs.folder import RunFolder
from tercet.train.chance import generator

TOO_FEW = "eval: fewer than 2 prompts are held out; raise data.eval_fraction or give data.eval"
FIXED = Path(__file__).parent / "fixed_texts.yaml"
Rows = list[dict[str, Any]]  # Any: JSON


def run(folder: RunFolder, config: LmConfig) -> None:
    """Measure every stage that exists; writes DIR/eval/*.json and the figures of results.json."""
    stages = stages_of(folder, config)
    held_out, fixed, texts = held_out_prompts(config), fixed_prompts(config), reward_texts(config)
    encoder, scores = Encoder.of(config), _scores(folder, config)
    data = digests(config, "eval")
    with folder.step("eval", total=len(stages), shown=[], data=data) as step:
        answered: dict[str, list[Answers]] = {}
        shown: dict[str, dict[str, list[str]]] = {}
        figures: dict[str, Any] = {}
        ours: list[torch.Tensor] = []
        for index, stage in enumerate(reversed(stages)):  # ppo before sft: the reference then reads its answers
            policy = load_policy(config, path=stage.path)
            encoder.check_window(policy.model)
            shown[stage.name] = _answers_to_fixed(policy, encoder, fixed, config, stage.name)
            answered[stage.name] = _sampled(policy, encoder, held_out, config, f"{stage.name}: held-out prompts")
            if stage.name == "ppo":
                ours = _logprobs(policy, answered["ppo"], config)
            if stage.name == "sft" and "ppo" in answered:
                theirs = _logprobs(policy, answered["ppo"], config)
                figures["kl_to_reference"] = _mean([k1(a, b).sum(1) for a, b in zip(ours, theirs, strict=True)])
            step.log(index, {f"eval/eos_fraction/{stage.name}": _mean([a.ended.float() for a in answered[stage.name]])})
        by_stage = {
            stage.name: {name: _all([score(part) for part in answered[stage.name]]) for name, score in scores.items()}
            for stage in stages
        }
        lengths = {s.name: _mean([a.batch.response_mask.sum(1).float() for a in answered[s.name]]) for s in stages}
        _write(step.path / "answers.json", _side_by_side(fixed, shown, stages))
        _write(step.path / "held_out.json", _held_out_rows(held_out, answered, by_stage, stages))
        _write(step.path / "reward_texts.json", _scored_texts(texts, encoder, folder, config))
        step.finish(
            figures
            | {
                "win_rate": win_rates(by_stage),
                "mean_score": {s: {n: sum(v) / len(v) for n, v in rows.items()} for s, rows in by_stage.items()},
                "response_length": lengths,
            }
        )


def check(config: LmConfig) -> None:
    """InputError, before anything is trained, where the evaluation at the end could not be done."""
    examples = step_examples(config.data, "ppo")
    if sum(map(len, examples.test.values())) < 2:
        raise InputError(TOO_FEW)
    encoder = Encoder.of(config)
    stages = {path: config_at(config.model, path) for path in ("", config.ppo.policy)}
    for path, hf_config in stages.items():
        with named_by_key(config, path):
            encoder.check_window(fresh(hf_config, scores=False))
    window = min(filter(None, map(window_of, stages.values())), default=None)
    most = config.eval.max_response_tokens
    needs = {e.prompt: len(encoder.prompt(e)) + most for e in fixed_prompts(config)}
    for row in reward_texts(config):
        prompt = len(encoder.prompt(_question(row["prompt"])))
        needs[row["prompt"]] = prompt + max(len(encoder.response(row[kind])) for kind in ("good", "bad"))
    text, needed = max(needs.items(), key=lambda item: item[1])
    if window is not None and needed > window:
        raise InputError(
            f"eval.prompts, eval.reward_texts: {text[:60]!r} with its answer needs {needed} tokens, but the model "
            f"reads {window}; shorten it, or lower eval.max_response_tokens={most}"
        )


def held_out_prompts(config: LmConfig) -> list[Example]:
    """Test prompts: no step has learned from them, and no checkpoint was chosen by them."""
    encoder = Encoder.of(config)
    test = encoder.within_limits(step_examples(config.data, "ppo").test, "held-out prompts")
    prompts = flat(test)
    if len(prompts) < 2:
        raise InputError(TOO_FEW)
    order = torch.randperm(len(prompts), generator=generator(config.seed, "held-out prompts"))
    return [prompts[i] for i in order[: config.eval.num_prompts].tolist()]


def fixed_prompts(config: LmConfig) -> list[Example]:
    """The prompts of eval.prompts, built-in lists written out."""
    lists = yaml.safe_load(FIXED.read_text(encoding="utf-8"))["prompts"]
    texts = [text for name in config.eval.prompts for text in lists.get(name, [name])]
    if blank := next((text for text in texts if not text.strip()), None):
        raise InputError(f"eval.prompts: {blank!r} is blank; write a prompt, or leave it out")
    return [_question(plain(text)) for text in texts]


def _one_text(value: object, place: str) -> str:
    """A text as it stands, or a number as a text; InputError with the place where the value is neither."""
    if isinstance(value, list):
        raise InputError(f"{place} is a list; give one text")
    try:
        return plain(value) if isinstance(value, str) else text_of(value)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _question(text: str) -> Example:
    return Example((Message("user", text),), "", None, "eval", "eval")


def reward_texts(config: LmConfig) -> Rows:
    """Good and bad answers to the same prompt, from eval.reward_texts or DeepSpeed-Chat's four."""
    if not config.eval.reward_texts:
        return yaml.safe_load(FIXED.read_text(encoding="utf-8"))["reward_texts"]
    path = Path(config.eval.reward_texts)
    try:
        require_file(path)
    except InputError as error:
        raise InputError(f"eval.reward_texts: {error}") from error
    rows: Rows = []
    for place, row in local_rows(path, ".jsonl"):
        missing = [name for name in ("prompt", "good", "bad") if is_null(row.get(name))]
        if missing:
            raise InputError(f"{place}: needs prompt, good and bad; there is no {', no '.join(missing)}")
        rows.append({name: _one_text(row[name], f"{place}: {name}") for name in ("prompt", "good", "bad")})
    if not rows:
        raise InputError(f"{path}: holds no row; give lines of JSON with prompt, good and bad")
    return rows


def win_rates(by_stage: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, Any]]:
    """Of every two stages: how often the later one scores higher on the same prompt; a tie counts half."""
    found: dict[str, dict[str, Any]] = {}
    for before, after in combinations(by_stage, 2):
        found[f"{after}_vs_{before}"] = {
            name: wilson([win(*both) for both in zip(scores, by_stage[before][name], strict=True)]).as_json("prompts")
            for name, scores in by_stage[after].items()
        }
    return found


def _scores(folder: RunFolder, config: LmConfig) -> dict[str, Score]:
    scores: dict[str, Score] = {}
    if config.judge and config.judge != PERSON:
        scores["judge"] = by_function(config.judge)
    if folder.is_done("reward"):
        model = load_score_model(config, path=str(folder.path / "reward" / "model"), trained=True)
        scores["reward_model"] = by_model(model, config.eval.batch_size)
    return scores


def _sampled(
    policy: Policy, encoder: Encoder, examples: Sequence[Example], config: LmConfig, title: str
) -> list[Answers]:
    return answer_all(
        policy,
        encoder,
        examples,
        generator=generator(config.seed, "held-out answers"),
        temperature=config.ppo.temperature,
        max_tokens=encoder.max_sampled_tokens,
        batch_size=config.eval.batch_size,
        title=title,
    )


def _answers_to_fixed(
    policy: Policy, encoder: Encoder, fixed: Sequence[Example], config: LmConfig, stage: str
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for kind, temperature in (("greedy", 0.0), ("sampled", config.ppo.temperature)):
        parts = answer_all(
            policy,
            encoder,
            fixed,
            generator=generator(config.seed, "fixed prompts"),
            temperature=temperature,
            max_tokens=config.eval.max_response_tokens,
            batch_size=config.eval.batch_size,
            title=f"{stage}: fixed prompts, {kind}",
        )
        found[kind] = [text for part in parts for text in part.texts]
    return found


@torch.no_grad()
def _logprobs(policy: Policy, answers: Sequence[Answers], config: LmConfig) -> list[torch.Tensor]:
    """Log-probability of every token of the answers; not the sampler's, which in bf16 are those of other shapes."""
    parts = [p.batch.rows(rows) for p in answers for rows in torch.arange(len(p.texts)).split(config.eval.batch_size)]
    return [response_logprobs(policy, part, temperature=config.ppo.temperature).logprobs for part in parts]


def _scored_texts(texts: Rows, encoder: Encoder, folder: RunFolder, config: LmConfig) -> Rows:
    if not folder.is_done("reward"):
        return []
    model = load_score_model(config, path=str(folder.path / "reward" / "model"), trained=True)
    prompts = [encoder.prompt(_question(row["prompt"])) for row in texts]
    scored = [dict(row) for row in texts]
    for kind in ("good", "bad"):
        batch = encoder.batch(prompts, [encoder.response(row[kind]) for row in texts]).to(device_of(config))
        for row, score in zip(scored, score_rows(model, batch, config.eval.batch_size).tolist(), strict=True):
            row[f"score_{kind}"] = score
    return scored


def _side_by_side(fixed: Sequence[Example], shown: dict[str, dict[str, list[str]]], stages: Sequence[Stage]) -> Rows:
    return [
        {
            "prompt": example.prompt,
            "answers": {s.name: {kind: texts[i] for kind, texts in shown[s.name].items()} for s in stages},
        }
        for i, example in enumerate(fixed)
    ]


def _held_out_rows(
    held_out: Sequence[Example],
    answered: dict[str, list[Answers]],
    by_stage: dict[str, dict[str, list[float]]],
    stages: Sequence[Stage],
) -> Rows:
    texts = {name: [text for part in parts for text in part.texts] for name, parts in answered.items()}
    return [
        {
            "prompt": example.prompt,
            "answers": {s.name: texts[s.name][i] for s in stages},
            "scores": {s.name: {name: scores[i] for name, scores in by_stage[s.name].items()} for s in stages},
        }
        for i, example in enumerate(held_out)
    ]


def _all(parts: Sequence[torch.Tensor]) -> list[float]:
    return torch.cat(list(parts)).tolist()


def _mean(parts: Sequence[torch.Tensor]) -> float:
    return float(torch.cat(list(parts)).mean())


def _write(path: Path, rows: Rows) -> None:
    write_text(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
