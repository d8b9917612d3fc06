"""The command line: every command reads a config, calls one function and says where the results lie."""

import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from tercet import __version__
from tercet.cli import arm, lm
from tercet.cli.commands import Commands, DebugOption
from tercet.cli.lm import PresetOption, hush, use_threads
from tercet.cli.options import JsonOption, Overrides
from tercet.cli.streams import prepare
from tercet.errors import InputError
from tercet.runs.progress import say


def _print_version(value: bool) -> bool:
    if value:
        say(f"tercet {__version__}")
        raise typer.Exit
    return value


app = typer.Typer(
    cls=Commands,
    help="Imitate, judge, improve: PPO from feedback in three steps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(lm.app, name="lm")
app.add_typer(arm.app, name="arm")


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder.")], debug: DebugOption = False
) -> None:
    """Write the report of a run, done or not: one HTML page and the same in Markdown."""
    from tercet.report import page

    say(f"report: {page.write(run)}")


@app.command()
def label(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder, or a copy that has its feedback/.")],
    host: Annotated[str, typer.Option("--host", help="0.0.0.0: for other computers too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8765,
    debug: DebugOption = False,
) -> None:
    """A web page on which a person answers what a run asks: which of two is better, or good and bad moments.

    On a computer far away, leave --host as it is and open a tunnel from yours: ssh -L 8765:127.0.0.1:8765 COMPUTER
    """
    from tercet.web.label_page import serve

    def ready(url: str) -> None:
        say(f"label: {url} (Ctrl-C ends)")

    say(serve(run, host=host, port=port, debug=debug, ready=ready))


@app.command("plan")
def plan_ahead(
    overrides: Overrides = None,
    preset: PresetOption = "smollm2",
    gpu: Annotated[str, typer.Option("--gpu", help="3090, 4090, a100, h100, h200, or auto: this machine's.")] = "auto",
    gpu_gb: Annotated[float, typer.Option("--gpu-gb", min=0, help="Memory of the card in GiB.")] = 0.0,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=0, help="0: as the data has them.")] = 0,
    response_tokens: Annotated[int, typer.Option("--response-tokens", min=0, help="0: as long as allowed.")] = 0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """What goes where in memory and how long a step takes, before anything is loaded; and what would make it fit."""
    from tercet.config.load import load_lm_config

    config = load_lm_config(preset, overrides or [])
    hush()
    use_threads(config.threads)
    from tercet.lm import plan, plan_table

    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # what is said of the data is no JSON
        found = plan.plan(config, gpu=gpu, gpu_gb=gpu_gb, prompt_tokens=prompt_tokens, response_tokens=response_tokens)
    say(json.dumps(found.as_json()) if as_json else "\n".join(plan_table.lines(found)))


@app.command()
def bench(
    shape: Annotated[str, typer.Option("--shape", help="opt-125m, small or tiny.")] = "opt-125m",
    threads: Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0: torch's own choice.")] = 0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """One PPO step on random weights, timed beside what this machine could do at best; about a minute."""
    if shape not in ("opt-125m", "small", "tiny"):
        raise InputError(f"--shape {shape}: must be opt-125m, small or tiny")
    hush()
    use_threads(threads)
    from tercet.lm import bench_table

    found = bench_table.run(bench_table.SHAPES[shape])
    say(json.dumps(found.as_json()) if as_json else "\n".join(bench_table.table(found)))


def main() -> None:
    """Run the command that the process was started with."""
    prepare()
    app()
