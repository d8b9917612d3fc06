"""`tercet lm`: the three steps on a language model."""

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tercet.cli.commands import DebugOption
from tercet.cli.options import (
    ALL,
    ComparisonOption,
    HostOption,
    KeyOption,
    Overrides,
    SeedsOption,
    add_steps,
    comparison_folder,
    key_for,
    port_option,
    preset_option,
    split_arguments,
)
from tercet.errors import InputError
from tercet.runs.progress import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tercet.runs.folder import RunFolder

PresetOption = Annotated[str, preset_option("lm")]

app = typer.Typer(help="The three steps on a language model.", no_args_is_help=True)


_ABOUT_ALL = """Run all steps, the evaluation and the report. Finished steps are skipped.

You can interrupt a run; the same command continues from the last checkpoint.
"""
add_steps(
    app,
    "lm",
    default="smollm2",
    steps={
        ALL: (_ABOUT_ALL, {"report": "report.html", "figures": "results.json"}),
        "sft": ("Step 1: supervised fine-tuning on the chosen answers.", {"model": "sft/model"}),
        "reward": (
            "Step 2: train a reward model on pairs of answers.",
            {"model": "reward/model", "figures": "results.json"},
        ),
        "ppo": ("Step 3: PPO with actor, critic, reference and reward model.", {"model": "ppo/model"}),
        "dpo": (
            "In place of PPO: DPO, on the pairs from which step 2 learns.",
            {"model": "dpo/model", "report": "report.html"},
        ),
        "eval": (
            "Evaluate: answers of every stage, reward-model scores, and paired win rates on held-out prompts.",
            {"figures": "results.json"},
        ),
    },
)


@app.command()
def improve(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the run.")] = Path("runs/smollm2"),
    rounds: Annotated[int, typer.Option("--rounds", "-n", min=1, help="Number of rounds in all.")] = 1,
    debug: DebugOption = False,
) -> None:
    """Continue a run with rounds: judge PPO's own answers, train the reward model on them too, and continue PPO.

    It sets `reward.num_rounds` and runs all steps. Finished steps and rounds are skipped.
    """
    from tercet.api.run import run
    from tercet.config.load import load_lm_config
    from tercet.runs.folder import RunFolder

    RunFolder.read(out)
    run(load_lm_config(str(out / "config.yaml"), [f"reward.num_rounds={rounds}"]), out)
    say(f"report: {out / 'report.html'}\nfigures: {out / 'results.json'}\nmodel: {out / f'ppo-{rounds}' / 'model'}")


@app.command()
def compare(
    overrides: Overrides = None,
    preset: PresetOption = "smollm2",
    out: ComparisonOption = None,
    algorithms: Annotated[
        str,
        typer.Option(
            "--algorithms",
            metavar="NAME,...",
            help="Of ppo, rloo, grpo, dr_grpo, dapo, gspo, reinforce++, dpo, best-of-n (n is eval.best_of_n, or 8).",
        ),
    ] = "ppo,rloo,grpo,dpo,best-of-n",
    seeds: SeedsOption = 3,
    tokens: Annotated[
        int,
        typer.Option(
            "--tokens", min=0, help="Sampled tokens of each run; 0 is what ppo.num_updates sample at SFT's length."
        ),
    ] = 0,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="A run whose SFT and reward model all start from.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Compare algorithms from one SFT policy and one reward model, with an equal budget of sampled tokens.

    It writes one page: win rates against KL, cost, and answers side by side. More algorithms and seeds can be added to
    a finished comparison; what is finished is skipped.
    """
    from tercet.api import compare, compare_lm

    folder = out or comparison_folder(preset)
    page = compare.compare(
        compare_lm, preset, overrides or [], folder, algorithms=algorithms, seeds=seeds, budget=tokens, start=start
    )
    say(f"report: {page}\nfigures: {folder / 'results.json'}")


@app.command()
def chat(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the run.")] = Path("runs/smollm2"),
    others: Annotated[
        list[Path] | None, typer.Argument(metavar="DIR ...", help="Other runs beside it; with --web.")
    ] = None,
    stage: Annotated[
        str, typer.Option("--stage", "-s", help="Stage: base, sft, ppo, ppo-N for round N, or dpo.")
    ] = "ppo",
    web: Annotated[bool, typer.Option("--web", help="Open a web page with all stages side by side.")] = False,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, port_option()] = 8766,
    api_key: KeyOption = "",
    debug: DebugOption = False,
) -> None:
    """Chat with a stage of a run in the terminal, or with all stages of one or several runs on a web page."""
    if not re.fullmatch(r"base|sft|dpo|ppo(-[1-9]\d*)?", stage):
        raise InputError(f"--stage {stage}: must be base, sft, ppo or dpo, or ppo-N for round N")
    from tercet.runs.folder import RunFolder

    folders = [RunFolder.read(path) for path in (run, *(others or []))]  # before transformers is imported: seconds
    if web:
        _chat_on_page(folders, host, port, key_for(host, api_key), debug=debug)
        return
    if others:
        raise InputError(f"{others[0]}: several runs answer on the web page only; add --web")
    hush()
    from tercet.lm import chat

    chat.run(folders[0], stage=stage)


@app.command()
def data(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE|ID|KEY=VALUE", help="Data sets to inspect; by default those of the preset."),
    ] = None,
    preset: PresetOption = "smollm2",
    debug: DebugOption = False,
) -> None:
    """Inspect data sets without training: samples, lengths, duplicates, ties, leaks, and the share of each step."""
    from tercet.config.load import load_lm_config

    sets, overrides = split_arguments(arguments)
    if sets:
        emptied = [f"data.{name}=[]" for name in ("eval", "sft", "reward", "ppo")]
        overrides = [f"data.train={json.dumps(sets)}", *emptied, *overrides]
    config = load_lm_config(preset, overrides)
    from tercet.lm import inspect

    inspect.run(config)


def _chat_on_page(folders: "Sequence[RunFolder]", host: str, port: int, key: str, *, debug: bool) -> None:
    from tercet.lm.serving.asks import names_of_runs
    from tercet.web.chat_page import serve
    from tercet.web.server import listening

    names = names_of_runs([folder.path.resolve() for folder in folders])
    with listening(host, port) as listener:
        hush()
        from tercet.lm.serving.engine import engine_of
        from tercet.lm.serving.several import Several

        def ready(url: str) -> None:
            say(f"chat: {url} (Ctrl-C ends)")

        use_free_threads(folders[0].config_dict.get("threads", 0))
        engines = [engine_of(folder) for folder in folders]
        for engine in engines:
            engine.prepare()  # while the first message is written
        answerer = Several(dict(zip(names, engines, strict=True))) if len(engines) > 1 else engines[0]
        serve(answerer, folders[0].path, listener, host, key=key, debug=debug, ready=ready)
        for engine in engines:
            engine.close()


def use_threads(threads: int) -> None:
    """Set the number of CPU threads of torch; 0 leaves the choice to torch."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def use_free_threads(threads: int) -> None:
    """Set the number of CPU threads of torch; 0 takes the cores that other programs leave free, at least one.

    Threads wait for one another at every layer. If other programs keep the cores busy, one thread answers sooner than
    several.
    """
    import torch

    free = torch.get_num_threads() - round(os.getloadavg()[0])
    torch.set_num_threads(threads or max(1, free))


def hush() -> None:
    """Suppress the messages of transformers and related libraries."""
    from tercet.lm.quiet import hush

    hush()
