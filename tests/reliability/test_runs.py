"""Damaged run folders: the same command ends with the same bits, or with one error that says what is damaged."""

import importlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reliability.amounts import THOROUGH, Count, cases

from tercet.config.load import load_arm_config, load_lm_config
from tercet.report import records
from tercet.runs.folder import RunFolder
from tercet.runs.once import run_once
from tercet.runs.step import Step

COUNT = Count("runs")
count = COUNT.fixture()

LM = [
    *("data.eval_fraction=0.3", "data.max_prompt_tokens=64", "data.max_response_tokens=8", "ppo.max_response_tokens=8"),
    "model.architecture={model_type: opt, vocab_size: 260, hidden_size: 8, num_hidden_layers: 1, ffn_dim: 8, "
    "num_attention_heads: 1, max_position_embeddings: 128}",
    *("sft.max_steps=2", "sft.batch_size=4", "sft.micro_batch_size=4", "sft.checkpoint_every=1", "sft.num_eval=4"),
    *("reward.max_steps=2", "reward.batch_size=4", "reward.micro_batch_size=4", "reward.num_sampled_pairs=8"),
    *("reward.num_reference_samples=4", "reward.num_eval=4", "reward.checkpoint_every=1"),
    *("ppo.num_updates=6", "ppo.batch_size=4", "ppo.micro_batch_size=4", "ppo.critic_warmup_updates=0"),
    *("ppo.num_eval_prompts=2", "ppo.eval_every=6", "ppo.samples_every=1", "ppo.checkpoint_every=1"),
    *("eval.num_prompts=2", "eval.max_response_tokens=2", 'eval.prompts=["Hi"]', "threads=1"),
    "ppo.reward={reward_model: 1.0, 'tercet.lm.preferences.judge:polite_and_to_the_point': 0.5}",
]
ARM = [
    *("horizon=8", "threads=1", "policy.hidden_size=8", "bc.num_demonstrations=2", "bc.epochs=2", "bc.batch_size=16"),
    *("bc.num_eval=2", "reward.num_pairs=12", "reward.num_eval=2", "reward.segment_length=4", "reward.noises=[0.5]"),
    *("reward.num_episodes=10", "reward.hidden_size=8", "reward.epochs=2", "reward.batch_size=8"),
    *("reward.checkpoint_every=1", "bc.checkpoint_every=1", "reward.num_rounds=2", "reward.round_every=2"),
    *("reward.pairs_per_round=4", "ppo.num_envs=4", "ppo.num_minibatches=1", "ppo.num_updates=6", "ppo.epochs=1"),
    *("ppo.critic_warmup_updates=1", "ppo.eval_every=6", "ppo.num_eval_states=2", "ppo.checkpoint_every=1"),
    *("eval.num_states=2", "eval.num_videos=0"),
]
# of the clock or of this machine
MAY_DIFFER = ("timings.jsonl", "run.json", "done.json", ".lock")


@dataclass(frozen=True)
class Domain:
    """A run in three states: with PPO under way, finished, and another one that is finished."""

    pipeline: ModuleType
    config: Any  # Any: of either domain
    under_way: Path
    finished: Path
    other: Path

    def command(self, folder: Path) -> None:
        """Take every step that the run needs; the report, which would take most of the time, is left out."""
        with RunFolder.open(folder, self.config, preset="tiny") as run:
            names = self.pipeline.needed(self.config)
            for name in names:
                run_once(run, self.config, name, self.pipeline.STEPS, names, lambda path: None)


@pytest.fixture(scope="module", autouse=True)
def no_waiting() -> Iterator[None]:
    """Nothing here loses what the system holds in memory, and waiting for the disk would be most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


# a language run takes several times as long to make
@pytest.fixture(scope="module", params=["arm", "lm"] if THOROUGH else ["arm"])
def domain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Domain:
    """Runs to be copied and broken."""
    place = tmp_path_factory.mktemp(request.param)
    pipeline = importlib.import_module(f"tercet.{request.param}.pipeline")
    load, preset, small = {
        "lm": (load_lm_config, "tiny", LM),
        "arm": (load_arm_config, "reach-learned", ARM),
    }[request.param]
    for seed, name in ((1, "other"), (0, "finished")):
        made = Domain(
            pipeline, load(preset, [*small, f"seed={seed}"]), place / "under_way", place / name, place / "other"
        )
        if name == "finished":
            _interrupt(made)
        made.command(place / name)
    return made


def _interrupt(domain: Domain) -> None:
    """Stop a run as Ctrl-C does, once PPO has two checkpoints, and put a copy aside."""
    ppo = domain.finished / "ppo"
    save = Step.save

    def save_and_interrupt(step: Step, *state: Any) -> None:
        save(step, *state)
        if (ppo / "checkpoint-before").exists():
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Step, "save", save_and_interrupt)
        domain.command(domain.finished)
    assert not (ppo / "done.json").exists()
    shutil.copytree(domain.finished, domain.under_way)


@dataclass(frozen=True)
class Damage:
    """What happens to a file: `which` and `where` are shares of the files and of the file's bytes."""

    kind: str
    which: float
    where: float

    def do(self, folder: Path, other: Path) -> str:
        """Break a file of the folder; returns its name and what was done."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        file = files[int(self.which * len(files))]
        name, data = str(file.relative_to(folder)), bytearray(file.read_bytes())
        place = int(self.where * len(data))
        if self.kind == "delete":
            file.unlink()
        elif self.kind == "swap":
            file.write_bytes((other / name).read_bytes() if (other / name).exists() else b"")
        elif self.kind == "flip" and data:
            data[place] ^= 1 << int(self.where * 8e9) % 8
            file.write_bytes(data)
        else:
            junk = bytes(int(self.where * 1e9) >> shift & 255 for shift in (0, 8, 16, 24))
            file.write_bytes({"truncate": data[:place], "append": data + junk}.get(self.kind, b""))
        return f"{self.kind} {name}"


SHARE = st.floats(0, 1, exclude_max=True)
KINDS = st.sampled_from(["flip", "flip", "truncate", "empty", "delete", "swap", "append"])
DAMAGE = st.lists(st.builds(Damage, KINDS, SHARE, SHARE), min_size=1, max_size=2)


@settings(max_examples=cases(250))
@given(damage=DAMAGE)
def test_a_damaged_finished_run_stands_as_it_was_or_is_refused(
    domain: Domain, tmp_path_factory: pytest.TempPathFactory, damage: Sequence[Damage]
) -> None:
    folder, done = _damaged(domain.finished, domain, tmp_path_factory, damage)
    seen = COUNT.attempt(lambda: records.read(folder))
    if not seen.refusal:
        assert _figures(seen.value) == _figures(records.read(domain.finished)), done
    _check_command(domain, folder, done)


@settings(max_examples=cases(50))
@given(damage=DAMAGE)
def test_a_damaged_run_that_goes_on_ends_with_the_same_bits_or_is_refused(
    domain: Domain, tmp_path_factory: pytest.TempPathFactory, damage: Sequence[Damage]
) -> None:
    folder, done = _damaged(domain.under_way, domain, tmp_path_factory, damage)
    _check_command(domain, folder, done)


def _damaged(
    state: Path, domain: Domain, places: pytest.TempPathFactory, damage: Sequence[Damage]
) -> tuple[Path, list[str]]:
    folder = places.mktemp("damaged") / "run"
    shutil.copytree(state, folder)
    return folder, [one.do(folder, domain.other) for one in damage]


def _check_command(domain: Domain, folder: Path, done: list[str]) -> None:
    """The same command ends in one error that names the folder, or with the files of the whole run."""
    outcome = COUNT.attempt(lambda: domain.command(folder))
    if outcome.refusal:
        assert str(folder) in outcome.refusal, done
    else:
        wanted, found = _contents(domain.finished), _contents(folder)
        assert [name for name in wanted | found if wanted.get(name) != found.get(name)] == [], done
    shutil.rmtree(folder.parent)


def _figures(record: records.Record) -> tuple[object, ...]:
    return record.config, record.metrics, record.samples, record.results, record.answers, record.held_out, record.starts


def _contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes; the seconds taken out of the results."""
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in [name for name in contents if Path(name).name == "results.json"]:
        results = json.loads(contents[name])
        results.pop("seconds")
        contents[name] = json.dumps(results).encode()
    return {name: data for name, data in contents.items() if Path(name).name not in MAY_DIFFER}
