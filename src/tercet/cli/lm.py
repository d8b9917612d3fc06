"""`tercet lm`: the three steps on a language model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tercet.cli.commands import DebugOption
from tercet.cli.options import OutOption, Overrides, place, presets
from tercet.errors import InputError

if TYPE_CHECKING:  # pydantic and PyYAML cost half of --help's time
    from tercet.config.lm import LmConfig
    from tercet.runs.folder import RunFolder

PresetOption = Annotated[
    str, typer.Option("--preset", "-p", metavar="NAME|FILE", help=f"{presets('lm')}, or a YAML file.")
]

app = typer.Typer(help="The three steps on a language model.", no_args_is_help=True)


@app.command("run")
def run_all(
    overrides: Overrides = None, preset: PresetOption = "smollm2", out: OutOption = None, debug: DebugOption = False
) -> None:
    """All steps, the evaluation and the report; what is done already is skipped.

    Stop it whenever you like: the same command goes on from the last checkpoint.
    """
    with _opened(preset, out, overrides) as (folder, config):
        from tercet.lm import pipeline

        pipeline.run(folder, config)
        print(f"report: {folder.path / 'report.html'}\nfigures: {folder.path / 'results.json'}")


@app.command()
def sft(
    overrides: Overrides = None, preset: PresetOption = "smollm2", out: OutOption = None, debug: DebugOption = False
) -> None:
    """Step 1, imitate: supervised fine-tuning on the chosen answers."""
    with _opened(preset, out, overrides) as (folder, config):
        from tercet.lm import pipeline

        pipeline.run_step(folder, config, "sft")
        print(f"model: {folder.path / 'sft' / 'model'}")


@app.command()
def reward(
    overrides: Overrides = None, preset: PresetOption = "smollm2", out: OutOption = None, debug: DebugOption = False
) -> None:
    """Step 2, judge: a reward model from the better of two answers."""
    with _opened(preset, out, overrides) as (folder, config):
        from tercet.lm import pipeline

        pipeline.run_step(folder, config, "reward")
        print(f"model: {folder.path / 'reward' / 'model'}\nfigures: {folder.path / 'results.json'}")


@app.command()
def ppo(
    overrides: Overrides = None, preset: PresetOption = "smollm2", out: OutOption = None, debug: DebugOption = False
) -> None:
    """Step 3, improve: PPO with actor, critic, reference and reward model."""
    with _opened(preset, out, overrides) as (folder, config):
        from tercet.lm import pipeline

        pipeline.run_step(folder, config, "ppo")
        print(f"model: {folder.path / 'ppo' / 'model'}")


@app.command("eval")
def evaluate(
    overrides: Overrides = None, preset: PresetOption = "smollm2", out: OutOption = None, debug: DebugOption = False
) -> None:
    """Answers of every stage side by side, reward-model scores, and paired win rates on held-out prompts."""
    with _opened(preset, out, overrides) as (folder, config):
        from tercet.lm import pipeline

        pipeline.run_step(folder, config, "eval")
        print(f"figures: {folder.path / 'results.json'}")


@app.command()
def chat(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder.")] = Path("runs/smollm2"),
    stage: Annotated[str, typer.Option("--stage", "-s", help="Who answers: base, sft or ppo.")] = "ppo",
    debug: DebugOption = False,
) -> None:
    """Talk with any stage of a run, several turns, in the terminal."""
    if stage not in ("base", "sft", "ppo"):
        raise InputError(f"--stage {stage}: must be base, sft or ppo")
    hush()
    from tercet.lm import chat

    chat.run(run, stage=stage)


@app.command()
def data(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE|ID|KEY=VALUE", help="Sets to look at; without any, the preset's."),
    ] = None,
    preset: PresetOption = "smollm2",
    debug: DebugOption = False,
) -> None:
    """Samples, lengths, duplicates, ties and leaks of data sets, and what each step would get; trains nothing."""
    from tercet.config.load import load_lm_config

    sets = [text for text in arguments or [] if "=" not in text or Path(text).exists()]
    overrides = [text for text in arguments or [] if text not in sets]
    if sets:
        emptied = [f"data.{name}=[]" for name in ("eval", "sft", "reward", "ppo")]
        overrides = [f"data.train={json.dumps(sets)}", *emptied, *overrides]
    config = load_lm_config(preset, overrides)
    from tercet.lm import inspect

    inspect.run(config)


@contextmanager
def _opened(preset: str, out: Path | None, overrides: list[str] | None) -> Iterator[tuple["RunFolder", "LmConfig"]]:
    """The checked config and its run folder, locked; from here on it is worth importing torch."""
    from tercet.config.load import load_lm_config
    from tercet.runs.folder import RunFolder

    config = load_lm_config(preset, overrides or [])
    with RunFolder.open(out or place(preset), config, preset=preset) as folder:
        hush()
        use_threads(config.threads)
        yield folder, config


def use_threads(threads: int) -> None:
    """Let torch compute with so many; 0: as it likes."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def hush() -> None:
    """Keep transformers and its kin from talking."""
    from tercet.lm.quiet import hush

    hush()
