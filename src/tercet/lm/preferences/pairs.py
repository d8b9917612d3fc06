"""Preference pairs sampled from the SFT policy and judged by a function or a person."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import ceil, isnan
from typing import Any

import torch

from tercet.config.functions import PERSON
from tercet.config.lm import LmConfig
from tercet.errors import FailedError, InputError
from tercet.lm.data.columns import Function, columns_of
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.splits import Sets, StepExamples, flat
from tercet.lm.engines.choose import engine_of_frozen
from tercet.lm.models.roles import load_policy
from tercet.lm.preferences import human
from tercet.lm.preferences.functions import call_function, load_score_function
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.runs.intermediate import is_kept, keep_file
from tercet.runs.progress import progress, say
from tercet.runs.rounds import in_round
from tercet.train.chance import generator, round_seed

NO_JUDGE = "reward.num_sampled_pairs: sampled pairs need a judge; set judge=module:function, or person"
HELD_OUT_SHARE = 0.1  # held-out pairs (one per prompt) per sampled training pair

Row = dict[str, Any]  # Any: JSON


@dataclass(frozen=True)
class Judged:
    """A sampled response, whether it ended, and the judge's score, which is nan if it gave none."""

    text: str
    ended: bool
    score: float


Compare = Callable[[Example, Sequence[Judged]], list[Row]]


def sampled_pairs(
    folder: RunFolder, config: LmConfig, encoder: Encoder, prompts: StepExamples, policy_path: str, *, number: int = 0
) -> StepExamples:
    """Sample responses to the examples' prompts and pair them by the judge's scores.

    Training pairs are all pairs of a prompt's responses with different scores; test prompts get two responses each.
    They are saved in DIR/reward/pairs.jsonl, or that of round `number`, which a resumed run reads. A round of which all
    responses tie adds none and says so; before the first, where there are no other pairs, that is a FailedError.
    """
    if not config.judge:
        raise InputError(NO_JUDGE)
    if not policy_path:
        raise InputError("reward: pairs are sampled from the SFT model; run `tercet lm sft` with the same --out first")
    step = in_round("reward", number)
    file = folder.path / step / "pairs.jsonl"
    if not is_kept(file.parent, file.name):
        num_train = config.reward.pairs_per_round if number else config.reward.num_sampled_pairs
        num_test = ceil(num_train * HELD_OUT_SHARE)

        def sample() -> list[Row]:
            policy = load_policy(config, path=policy_path)
            seed = round_seed(config.seed, number)
            compare = neighbours if config.judge == PERSON else every_two
            with (
                folder.timed(step, in_round("pairs", number)),
                engine_of_frozen(config, policy, encoder, folder.path, "pairs") as engine,
            ):
                sampler = Sampler(policy, encoder, config.ppo.temperature, config.eval.batch_size, engine)
                pairs = _PairSampler(
                    sampler, config.judge, compare, seed, config.function_timeout_seconds, needed=not number
                )
                train = pairs.rows(prompts.train, num_train, "train", config.reward.samples_per_prompt)
                # pairs that share responses would make an interval too narrow
                return train + pairs.rows(prompts.test, num_test, "test", samples_per_prompt=2)

        sheet = f"round-{number}" if number else "answers"
        is_person = config.judge == PERSON
        rows = human.judged_rows(folder.path, sample, sheet_name=sheet, needed=not number) if is_person else sample()
        if not any(row["part"] == "train" for row in rows):
            say(f"{step}: the judge preferred no answer of this round; the reward model learns from the earlier pairs")
        keep_file(file.parent, file.name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    with file.open(encoding="utf-8") as lines:  # str.splitlines would also split at characters such as U+2028
        rows = [json.loads(line) for line in lines]
    return StepExamples(
        train=_sets(rows, "train", prompts.train, f"{step}/{file.name}"),
        validation={name: [] for name in prompts.test},
        test=_sets(rows, "test", prompts.test, f"{step}/{file.name}"),
        dropped={},
    )


def with_round(pairs: StepExamples, new: StepExamples, number: int) -> StepExamples:
    """Add the pairs of a round; its test pairs become a set of their own, to measure how its responses are ranked."""
    name = round_set(number)
    return StepExamples(
        train={name: [*rows, *new.train[name]] for name, rows in pairs.train.items()},
        validation=pairs.validation | {name: []},
        test=pairs.test | {name: flat(new.test)},
        dropped=pairs.dropped,
    )


def no_prompts(part: str) -> str:
    """Return the message for data without prompts to `train` or `test` on."""
    return f"reward: there are no prompts to {part} on; give more data, or raise data.eval_fraction"


def round_set(number: int) -> str:
    """Return the name of the held-out set of a round."""
    return f"round-{number}"


def _sets(rows: Sequence[Row], part: str, names: Iterable[str], location: str) -> Sets:
    return {
        name: [_example(row, location) for row in rows if (row["part"], row["set"]) == (part, name)] for name in names
    }


@dataclass(frozen=True)
class _PairSampler:
    """Sample responses, score them with the judge `module:function`, and pair them."""

    sampler: Sampler
    judge: str
    compare: Compare
    seed: int
    timeout_seconds: float
    needed: bool = True  # True if it is an error that there is no pair

    def rows(self, sets: Sets, num_pairs: int, part: str, samples_per_prompt: int) -> list[Row]:
        """Sample at most `num_pairs` pairs to train or test on; fewer if too many responses tie."""
        prompts = _unique(self.sampler.encoder.within_limits(sets, f"pairs to {part} on"))
        if not prompts:
            raise InputError(no_prompts(part))
        score, chance = _score_function(self.judge), generator(self.seed, "pairs", part)
        num_prompts = num_pairs * 2  # twice as many: prompts whose responses tie give no pair
        if part == "test":
            num_prompts = min(num_prompts, len(prompts))  # a repeated prompt would make the interval too narrow
        stream = _repeated(prompts, num_prompts, chance)
        rows: list[Row] = []
        with progress(f"pairs to {part} on", total=num_pairs, unit="pairs") as bar:
            per_batch = max(1, self.sampler.batch_size // samples_per_prompt)
            for start in range(0, len(stream), per_batch):
                if len(rows) >= num_pairs:
                    break
                pairs = self._pairs(stream[start : start + per_batch], score, chance, samples_per_prompt)
                pairs = pairs[: num_pairs - len(rows)]
                rows += pairs
                bar.advance(len(pairs))
        if self.needed and not rows:
            raise FailedError(
                f"{self.judge} gave every answer to a prompt the same score, or none: there are no pairs to learn from"
            )
        return [row | {"part": part} for row in rows]

    def _pairs(self, prompts: Sequence[Example], score: Function, chance: torch.Generator, size: int) -> list[Row]:
        responses = self.sampler.sample([example for example in prompts for _ in range(size)], chance)
        columns = columns_of(responses.examples)
        scores = call_function(score, responses.prompts, responses.texts, columns, timeout_seconds=self.timeout_seconds)
        judged = list(map(Judged, responses.texts, responses.ended.tolist(), scores.total))
        return [
            row
            for number, example in enumerate(prompts)
            for row in self.compare(example, judged[number * size : (number + 1) * size])
        ]


def every_two(example: Example, responses: Sequence[Judged]) -> list[Row]:
    """Return all pairs of responses with different scores (Ouyang et al. 2022, section 3.5)."""
    scored = [response for response in responses if not isnan(response.score)]
    best_first = sorted(scored, key=lambda response: -response.score)
    return [_row(example, a, b) for a, b in combinations(best_first, 2) if a.score > b.score]


def neighbours(example: Example, responses: Sequence[Judged]) -> list[Row]:
    """Pair neighbouring responses for a person to judge; no response is in two pairs."""
    pairs = zip(responses[::2], responses[1::2], strict=False)
    return [_row(example, a, b) for a, b in pairs if a.text != b.text]


def _score_function(judge: str) -> Function:
    return _zeros if judge == PERSON else load_score_function(judge)


def _zeros(prompts: list[str], responses: list[str]) -> list[float]:
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


def _example(row: Row, location: str) -> Example:
    messages = tuple(Message(**message) for message in row["messages"])
    responses = (row["chosen"], row["rejected"])
    return Example(messages, *responses, row["set"], location, row["chosen_ended"], row["rejected_ended"])


def _unique(sets: Sets) -> list[Example]:
    return list({example.key: example for example in flat(sets)}.values())


def _repeated(examples: Sequence[Example], num: int, chance: torch.Generator) -> list[Example]:
    stream: list[Example] = []
    while len(stream) < num and examples:
        stream += [examples[i] for i in torch.randperm(len(examples), generator=chance).tolist()]
    return stream[:num]
