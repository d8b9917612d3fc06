"""What people are asked about: pairs of a data set, and pairs of what stages of runs answer."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tercet.config.lm import LmConfig, Source
from tercet.config.load import recorded_config
from tercet.errors import InputError
from tercet.feedback.sheets import Kind
from tercet.lm.data.columns import columns_of_run
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.files import is_folder
from tercet.lm.data.sources import is_built_in, is_file, read
from tercet.lm.data.splits import flat, step_examples
from tercet.lm.models.roles import load_policy
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.stages import Stage, stages_of
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.train.chance import generator

_STAGE = re.compile(r"(?:(?P<run>.+):)?(?P<stage>base|sft|ppo(?:-[1-9]\d*)?)")


@dataclass(frozen=True)
class Text:
    """An answer that a person judges, and the stage that wrote it, if that is known."""

    text: str
    ended: bool
    stage: str | None = None


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt."""

    messages: tuple[Message, ...]
    first: Text
    second: Text


@dataclass(frozen=True)
class OpenRun:
    """A run folder, its config, and its encoder."""

    folder: RunFolder
    config: LmConfig
    encoder: Encoder

    @classmethod
    def at(cls, path: Path) -> "OpenRun":
        """Open the run in a folder; InputError if there is none."""
        folder = RunFolder.read(path)
        config = recorded_config(LmConfig, folder.config_dict, folder.path)
        return cls(folder, config, Encoder.of(config))


@dataclass(frozen=True)
class StageOfRun:
    """A stage that answers prompts; `name` is what the user wrote."""

    name: str
    run: OpenRun
    stage: Stage

    @classmethod
    def of(cls, name: str, run: Path) -> "StageOfRun | None":
        """Find the stage that `sft`, or `runs/other:sft`, names; None if the name is of another form."""
        match = _STAGE.fullmatch(name)
        if match is None:
            return None
        found = OpenRun.at(Path(match["run"]) if match["run"] else run)
        stages = stages_of(found.folder, found.config.ppo.policy, found.config.reward.num_rounds)
        by_name = {stage.name: stage for stage in stages}
        if match["stage"] not in by_name:
            raise InputError(f"{name}: {found.folder.path} has the stages {', '.join(by_name)}")
        return cls(name, found, by_name[match["stage"]])


def sheet_name(word: str, names: Sequence[str], kind: Kind) -> str:
    """Return the name of the sheet about these sources: their last parts to read, and a digest of all of it."""
    parts = [re.sub(r"\.\w+$", "", name.rstrip("/").rpartition("/")[2]) for name in names]
    words = [word, *parts, *(["thumbs"] if kind == "thumbs" else [])]
    whole = repr((kind, *map(_full_name, names))).encode("utf-8", "surrogateescape")
    return re.sub(r"[^\w]+", "-", "-".join(words)) + "-" + hashlib.sha256(whole).hexdigest()[:8]


def _full_name(name: str) -> str:
    """Return the name of a source that is the same from every working folder."""
    match = _STAGE.fullmatch(name)
    if match:
        return f"{Path(match['run']).resolve()}:{match['stage']}" if match["run"] else name
    return str(Path(name).resolve()) if Path(name).exists() else name


def pairs_of_set(path: str) -> list[Pair]:
    """Read the pairs of a local file, a folder or a hub id. InputError if it has none."""
    source = Source(path=path)
    if not (is_file(source) or is_folder(path) or is_built_in(source) or "/" in path):
        raise InputError(f"{path}: neither a data set nor a stage (base, sft, ppo, or RUN:sft)")
    examples = read(source, name="labels", columns={}, needs_response=True).examples
    pairs = [
        Pair(e.messages, Text(e.chosen, e.chosen_ended), Text(e.rejected, e.rejected_ended))
        for e in examples
        if e.rejected is not None
    ]
    if not pairs:
        raise InputError(f"{path}: has no pairs to compare; give prompt, chosen and rejected in each row")
    return pairs


def sampled_pairs(stages: Sequence[StageOfRun], num: int, seed: int) -> list[Pair]:
    """Sample about `num` pairs from one stage or two, on prompts that the first run's PPO learns from.

    Pairs of equal answers are left out.
    """
    first = stages[0].run
    sets = step_examples(first.config.data, "ppo", columns_of_run(first.config)).train
    prompts = flat(first.encoder.within_limits(sets, "questions"))
    unique = list({example.key: example for example in prompts}.values())
    order = torch.randperm(len(unique), generator=generator(seed, "label", "prompts"))
    examples = [unique[number] for number in order[:num].tolist()]
    texts = [_sampled(stage, examples, seed, number) for number, stage in enumerate((*stages, *stages)[:2])]
    pairs = [Pair(example.messages, *both) for example, *both in zip(examples, *texts, strict=True)]
    return [pair for pair in pairs if pair.first.text != pair.second.text]


def _sampled(source: StageOfRun, examples: Sequence[Example], seed: int, number: int) -> list[Text]:
    config, encoder = source.run.config, source.run.encoder
    policy = load_policy(config, path=source.stage.path)
    encoder.check_window(policy.model)
    sampler = Sampler(policy, encoder, config.ppo.temperature, config.eval.batch_size)
    parts = sampler.sample_all(examples, generator(seed, "label", number), title=f"answers of {source.name}")
    return [
        Text(text, ended, source.name)
        for part in parts
        for text, ended in zip(part.texts, part.ended.tolist(), strict=True)
    ]
