"""Preference pairs: sampled from the SFT policy and judged by a rule or a person."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import ceil
from typing import Any

import torch

from tercet.config.functions import PERSON
from tercet.config.lm import LmConfig
from tercet.errors import FailedError, InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.splits import Sets, StepExamples, flat
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.preferences import human
from tercet.lm.preferences.functions import ScoreFunction, call_function, load_score_function
from tercet.lm.sampling.responses import answer
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.runs.kept import is_kept, keep_file
from tercet.runs.progress import progress
from tercet.train.chance import generator

NO_JUDGE = "reward.num_sampled_pairs: sampled pairs need a judge; set judge=module:function, or person"
HELD_OUT_SHARE = 0.1  # held-out pairs, one a prompt, for each training pair that is sampled

Row = dict[str, Any]  # Any: JSON


@dataclass(frozen=True)
class Judged:
    """One sampled answer, whether it came to its end, and the judge's score."""

    text: str
    ended: bool
    score: float


Compare = Callable[[Example, Sequence[Judged]], list[Row]]


def sampled_pairs(
    folder: RunFolder, config: LmConfig, encoder: Encoder, prompts: StepExamples, policy_path: str
) -> StepExamples:
    """Pairs of answers to the examples' prompts: to learn from, every two of a few that the judge tells apart; to
    measure, the best and the worst.

    They are kept in DIR/reward/pairs.jsonl, from where a run that goes on takes them.
    """
    if not config.judge:
        raise InputError(NO_JUDGE)
    if not policy_path:
        raise InputError("reward: pairs are sampled from the SFT model; run `tercet lm sft` with the same --out first")
    file = folder.path / "reward" / "pairs.jsonl"
    if not is_kept(file.parent, file.name):
        wanted, few = config.reward.num_sampled_pairs, ceil(config.reward.num_sampled_pairs * HELD_OUT_SHARE)

        def sample() -> list[Row]:
            policy, by_person = load_policy(config, path=policy_path), config.judge == PERSON
            many, one = (next_to_each_other, the_first_two) if by_person else (every_two, best_and_worst)
            with folder.timed("reward", "pairs"):
                rows = _sample(policy, config, encoder, prompts.train, wanted, "train", many)
                return rows + _sample(policy, config, encoder, prompts.test, few, "test", one)

        rows = human.told(folder.path, sample) if config.judge == PERSON else sample()
        keep_file(file.parent, file.name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    with file.open(encoding="utf-8") as lines:  # str.splitlines would also cut at what a text may hold, as U+2028
        rows = [json.loads(line) for line in lines]
    return StepExamples(
        train=_sets(rows, "train", prompts.train),
        validation={name: [] for name in prompts.test},
        test=_sets(rows, "test", prompts.test),
        dropped={},
    )


def _sets(rows: Sequence[Row], part: str, names: Iterable[str]) -> Sets:
    return {name: [_example(row) for row in rows if (row["part"], row["set"]) == (part, name)] for name in names}


def _sample(
    policy: Policy, config: LmConfig, encoder: Encoder, sets: Sets, num_pairs: int, part: str, compare: Compare
) -> list[Row]:
    prompts = _unique(encoder.within_limits(sets, f"pairs to {part} on"))
    if not prompts:
        raise InputError(f"reward: there are no prompts to {part} on; give more data, or raise data.eval_fraction")
    judge, size = _judge(config.judge), config.reward.samples_per_prompt
    chance = generator(config.seed, "pairs", part)
    num_asked = num_pairs * 2  # twice: prompts whose answers tie give no pair
    if part == "test":
        num_asked = min(num_asked, len(prompts))  # a prompt asked again would make the interval too narrow
    stream = _endless(prompts, num_asked, chance)
    rows: list[dict[str, Any]] = []
    with progress(f"pairs to {part} on", total=num_pairs, unit="pairs") as bar:
        per_batch = max(1, config.eval.batch_size // size)
        for start in range(0, len(stream), per_batch):
            if len(rows) >= num_pairs:
                break
            asked = [example for example in stream[start : start + per_batch] for _ in range(size)]
            answers = answer(
                policy,
                encoder,
                asked,
                generator=chance,
                temperature=config.ppo.temperature,
                max_tokens=encoder.max_sampled_tokens,
            )
            scores = call_function(judge, answers.prompts, answers.texts)
            judged = list(map(Judged, answers.texts, answers.ended.tolist(), scores))
            found = [
                row
                for first in range(0, len(asked), size)
                for row in compare(asked[first], judged[first : first + size])
            ][: num_pairs - len(rows)]
            rows += found
            bar.advance(len(found))
    if not rows:
        raise FailedError(
            f"{config.judge} gave every answer to a prompt the same score: there are no pairs to learn from"
        )
    return [row | {"part": part} for row in rows]


def every_two(example: Example, answers: Sequence[Judged]) -> list[Row]:
    """Every two answers that the judge tells apart: all that can be learned from them (Ouyang et al. 2022, 3.5)."""
    best_first = sorted(answers, key=lambda answer: -answer.score)
    return [_row(example, a, b) for a, b in combinations(best_first, 2) if a.score > b.score]


def best_and_worst(example: Example, answers: Sequence[Judged]) -> list[Row]:
    """At most one pair a prompt: pairs that share answers would make an interval too narrow."""
    best_first = sorted(answers, key=lambda answer: -answer.score)
    return every_two(example, [best_first[0], best_first[-1]])


def next_to_each_other(example: Example, answers: Sequence[Judged]) -> list[Row]:
    """Pairs for a person, no answer in two of them; in the order of sampling, for nobody has judged yet."""
    pairs = zip(answers[::2], answers[1::2], strict=False)
    return [_row(example, a, b) for a, b in pairs if a.text != b.text]


def the_first_two(example: Example, answers: Sequence[Judged]) -> list[Row]:
    """At most one such pair a prompt."""
    return next_to_each_other(example, answers[:2])


def _judge(spec: str) -> ScoreFunction:
    return _no_opinion if spec == PERSON else load_score_function(spec)


def _no_opinion(prompts: list[str], responses: list[str]) -> list[float]:
    return [0.0] * len(responses)


def _row(example: Example, better: Judged, worse: Judged) -> Row:
    return {
        "set": example.source,
        "messages": [asdict(message) for message in example.messages],
        "chosen": better.text,
        "rejected": worse.text,
        "chosen_ended": better.ended,
        "rejected_ended": worse.ended,
        "score_chosen": better.score,
        "score_rejected": worse.score,
    }


def _example(row: Row) -> Example:
    messages = tuple(Message(**message) for message in row["messages"])
    said = (row["chosen"], row["rejected"], row["set"], "reward/pairs.jsonl")
    return Example(messages, *said, row["chosen_ended"], row["rejected_ended"])


def _unique(sets: Sets) -> list[Example]:
    return list({example.key: example for example in flat(sets)}.values())


def _endless(examples: Sequence[Example], num: int, chance: torch.Generator) -> list[Example]:
    stream: list[Example] = []
    while len(stream) < num and examples:
        stream += [examples[i] for i in torch.randperm(len(examples), generator=chance).tolist()]
    return stream[:num]
