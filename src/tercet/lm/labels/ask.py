"""`tercet label DIR SOURCE ...`: a sheet of questions about a data set, or about what stages of runs answer."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.core.statistics import disagreement
from tercet.errors import InputError
from tercet.feedback.answers import by_question, read_answers
from tercet.feedback.pairs import ROWS, read_question_rows
from tercet.feedback.sheets import Entry, Kind, Sheet, read_sheet, sheets, write_sheet
from tercet.lm.data.examples import Example
from tercet.lm.labels.sources import OpenRun, Pair, StageOfRun, Text, pairs_of_set, sampled_pairs, sheet_name
from tercet.lm.preferences.human import turns_shown
from tercet.lm.sampling.responses import Responses
from tercet.lm.scoring import by_foreign_model
from tercet.lm.stages import model_of
from tercet.runs.rounds import in_round
from tercet.runs.rows import Row, dump
from tercet.train.chance import generator
from tercet.train.device import device_of

T = TypeVar("T")
CANDIDATES = 4  # pairs drawn for each that is asked, if the most disputed are asked
_PARTS = ("first", "second")
_SOURCES = "give one data set, or one stage (sft, or RUN:sft), or two stages to compare"


def ask(run: Path, names: Sequence[str], kind: Kind, num: int, *, disputed: bool) -> Sheet:
    """Return a sheet of at most `num` questions of this kind (answers or thumbs) about the sources of these names.

    That is the last sheet about them as long as one of its questions is open, else a new one with other questions. With
    `disputed`, they are those on which the reward models of the runs disagree most.
    """
    title = sheet_name("asked", names, kind)
    earlier = [sheet for sheet in sheets(run / "feedback") if re.fullmatch(rf"{title}(-part-\d+)?", sheet.path.name)]
    if earlier and None in earlier[-1].answers(by_question(read_answers(run / "feedback"))):
        return earlier[-1]
    seed = len(earlier)
    asked = {_key(row) for sheet in earlier for row in read_question_rows(sheet)}
    stages = _stages(run, names)
    num_pairs = ceil(num / 2) if kind == "thumbs" else num
    pairs = sampled_pairs(stages, num_pairs * (CANDIDATES if disputed else 1), seed) if stages else []
    pairs = pairs or _shuffled(pairs_of_set(names[0]), 0)
    pairs = [pair for pair in pairs if not {_key(row) for row in _rows(pair, kind, flip=False)} <= asked]
    if not pairs:
        raise InputError(f"{' '.join(names)}: no pair is left whose answers differ and that has not been asked")
    if disputed:
        runs = {stage.run.folder.path: stage.run for stage in stages} or {run: OpenRun.at(run)}
        pairs = most_disputed(pairs, margins_of(pairs, list(runs.values())))
    rows = _questions(pairs[:num_pairs], kind, seed)[:num]
    path = run / "feedback" / (f"{title}-part-{seed + 1}" if seed else title)
    write_rows(path, kind, [row for row in rows if _key(row) not in asked])
    return read_sheet(path)


def write_rows(path: Path, kind: Kind, rows: Sequence[Row]) -> None:
    """Write a sheet with a question for each row."""
    parts = {"answer": "answer"} if kind == "thumbs" else {"left": "chosen", "right": "rejected"}

    def question(row: Row) -> Entry:
        return {"prompt": turns_shown(row["messages"]), **{part: row[name] for part, name in parts.items()}}

    def write(folder: Path) -> list[Entry]:
        (folder / ROWS).write_text(dump(rows), encoding="utf-8")
        return [question(row) for row in rows]

    write_sheet(path, kind, "", write)


def comparison(pair: Pair, *, flip: bool) -> Row:
    """Return the row of a comparison. Its left answer is `chosen`: the first of the pair, or with `flip` the second."""
    row: Row = {"messages": [asdict(message) for message in pair.messages]}
    both = (pair.second, pair.first) if flip else (pair.first, pair.second)
    for name, answer in zip(("chosen", "rejected"), both, strict=True):
        row |= {name: answer.text, f"{name}_ended": answer.ended, f"{name}_stage": answer.stage}
    return row


def _rows(pair: Pair, kind: Kind, *, flip: bool) -> list[Row]:
    if kind != "thumbs":
        return [comparison(pair, flip=flip)]
    messages = [asdict(message) for message in pair.messages]
    return [
        {"messages": messages, "answer": one.text, "ended": one.ended, "stage": one.stage}
        for one in (pair.first, pair.second)
    ]


def _questions(pairs: Sequence[Pair], kind: Kind, seed: int) -> list[Row]:
    """Return the rows of the questions.

    Either answer of a pair is on the left by chance, because a data set has the better one first. Thumbs are asked in
    random order, so that the two answers to a prompt are not side by side.
    """
    flips = (torch.rand(len(pairs), generator=generator(seed, "label", "sides")) < 0.5).tolist()
    rows = [row for pair, flip in zip(pairs, flips, strict=True) for row in _rows(pair, kind, flip=flip)]
    unique = list({_key(row): row for row in rows}.values())
    return _shuffled(unique, seed) if kind == "thumbs" else unique


def _key(row: Row) -> tuple[object, ...]:
    """Return what makes two questions the same: their prompts, and their answers in any order."""
    texts = frozenset(row[name] for name in ("chosen", "rejected", "answer") if name in row)
    return tuple(message["text"] for message in row["messages"]), texts


def _stages(run: Path, names: Sequence[str]) -> list[StageOfRun]:
    stages = [stage for name in names if (stage := StageOfRun.of(name, run))]
    if len(names) > 2 or (len(names) == 2 and len(stages) < 2):
        raise InputError(f"{' '.join(names)}: {_SOURCES}")
    return stages


def _shuffled(items: Sequence[T], seed: int) -> list[T]:
    order = torch.randperm(len(items), generator=generator(seed, "label", "order"))
    return [items[number] for number in order.tolist()]


def most_disputed(pairs: Sequence[Pair], margins: Float[Tensor, "models n"]) -> list[Pair]:
    """Put the pairs first on which the reward models disagree most; with one, those of which it is least sure."""
    doubts = disagreement(margins) if len(margins) > 1 else -margins[0].abs()
    return [pairs[number] for number in doubts.argsort(descending=True, stable=True).tolist()]


def margins_of(pairs: Sequence[Pair], runs: Sequence[OpenRun]) -> Float[Tensor, "models n"]:
    """Return by how much each reward model of the runs, of every round, prefers the first answer."""
    margins = []
    for run in runs:
        steps = [in_round("reward", number) for number in range(run.config.reward.num_rounds + 1)]
        for step in filter(run.folder.has_ended, steps):
            score = by_foreign_model(model_of(run.folder, step), run.config, run.encoder, run.config.eval.batch_size)
            first, second = (_responses([getattr(pair, part) for pair in pairs], pairs, run) for part in _PARTS)
            margins.append((score(first) - score(second)).float().cpu())
    if not margins:
        raise InputError("--next disputed: needs a reward model; name a run that has finished its step reward")
    return torch.stack(margins)


def _responses(answers: Sequence[Text], pairs: Sequence[Pair], run: OpenRun) -> Responses:
    """Return answers to the prompts of the pairs as the scores of a run read them."""
    encoder = run.encoder
    examples = [Example(pair.messages, "", None, "labels", "labels") for pair in pairs]
    ids = [encoder.response(answer.text, ended=answer.ended) for answer in answers]
    batch = encoder.batch([encoder.prompt(example) for example in examples], ids).to(device_of(run.config.device))
    ended = torch.tensor([answer.ended for answer in answers])
    return Responses(
        examples, [answer.text for answer in answers], batch, torch.zeros(batch.response_mask.shape), ended
    )
