"""`tercet lm`: the three steps on a language model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tercet.cli.commands import DebugOption
from tercet.cli.options import ALL, add_steps, preset_option, sorted_out
from tercet.errors import InputError

PresetOption = Annotated[str, preset_option("lm")]

app = typer.Typer(help="The three steps on a language model.", no_args_is_help=True)


_ABOUT_ALL = """All steps, the evaluation and the report; what is done already is skipped.

Stop it whenever you like: the same command goes on from the last checkpoint.
"""
add_steps(
    app,
    "lm",
    default="smollm2",
    steps={
        ALL: (_ABOUT_ALL, {"report": "report.html", "figures": "results.json"}),
        "sft": ("Step 1, imitate: supervised fine-tuning on the chosen answers.", {"model": "sft/model"}),
        "reward": (
            "Step 2, judge: a reward model from the better of two answers.",
            {"model": "reward/model", "figures": "results.json"},
        ),
        "ppo": ("Step 3, improve: PPO with actor, critic, reference and reward model.", {"model": "ppo/model"}),
        "eval": (
            "Answers of every stage side by side, reward-model scores, and paired win rates on held-out prompts.",
            {"figures": "results.json"},
        ),
    },
)


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

    sets, overrides = sorted_out(arguments)
    if sets:
        emptied = [f"data.{name}=[]" for name in ("eval", "sft", "reward", "ppo")]
        overrides = [f"data.train={json.dumps(sets)}", *emptied, *overrides]
    config = load_lm_config(preset, overrides)
    from tercet.lm import inspect

    inspect.run(config)


def use_threads(threads: int) -> None:
    """Let torch compute with so many; 0: as it likes."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def hush() -> None:
    """Keep transformers and its kin from talking."""
    from tercet.lm.quiet import hush

    hush()
