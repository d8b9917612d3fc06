"""The command line: each command reads a config, calls one function and prints where the results are."""

import json
import os
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from tercet import __version__
from tercet.cli import arm, lm
from tercet.cli.commands import Commands, DebugOption
from tercet.cli.label import label
from tercet.cli.lm import PresetOption, hush, use_free_threads, use_threads
from tercet.cli.options import HostOption, JsonOption, KeyOption, Overrides, key_for, port_option
from tercet.cli.streams import prepare
from tercet.errors import InputError
from tercet.runs.progress import say
from tercet.runs.stop import Ended


def _print_version(value: bool) -> bool:
    if value:
        say(f"tercet {__version__}")
        raise typer.Exit
    return value


app = typer.Typer(
    cls=Commands,
    help="Train a language model or a robot arm from feedback: imitation, a reward model, PPO.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(lm.app, name="lm")
app.add_typer(arm.app, name="arm")
app.command("chat")(lm.chat)
app.command("label")(label)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the run.")], debug: DebugOption = False
) -> None:
    """Write the report of a run, or of a comparison, as HTML and Markdown. It may be unfinished."""
    from tercet.report import page
    from tercet.report.comparison import numbers
    from tercet.report.comparison import page as comparison

    write = comparison.write if numbers.plan_of(run) else page.write
    say(f"report: {write(run)}")


@app.command()
def doctor(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the run.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say what is wrong with a run, how one knows, and which key to turn. The run may be unfinished."""
    from tercet.report.doctor import text
    from tercet.report.records import read

    record = read(run)
    say(text.as_json(record) if as_json else "\n".join(text.lines(record)))


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the run.")],
    host: HostOption = "127.0.0.1",
    port: Annotated[int, port_option()] = 8767,
    api_key: KeyOption = "",
    debug: DebugOption = False,
) -> None:
    """Open a web page that shows updates of PPO token by token, or step by step, recomputed from kept rollouts."""
    from tercet.runs.folder import RunFolder
    from tercet.web.inspect_page import serve
    from tercet.web.server import listening

    folder, key = RunFolder.read(run), key_for(host, api_key)
    with listening(host, port) as listener:
        hush()
        if "env" in folder.config_dict:
            from tercet.arm.explain import Inspection
        else:
            from tercet.lm.explain import Inspection

        def ready(url: str) -> None:
            say(f"inspect: {url} (Ctrl-C ends)")

        serve(Inspection(folder), listener, host, key=key, debug=debug, ready=ready)


@app.command("serve")
def serve_api(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the run.")],
    host: HostOption = "127.0.0.1",
    port: Annotated[int, port_option()] = 8000,
    api_key: KeyOption = "",
    debug: DebugOption = False,
) -> None:
    """Serve every stage of a run with OpenAI's API: chat completions and completions, also streamed.

    The names of the models are those of the stages: base, sft, ppo, ppo-N for round N, and dpo.
    """
    from tercet.runs.folder import RunFolder
    from tercet.web.openai_api import serve
    from tercet.web.server import listening

    folder, key = RunFolder.read(run), key_for(host, api_key)
    with listening(host, port) as listener:
        hush()
        from tercet.lm.serving.engine import engine_of

        use_free_threads(folder.config_dict.get("threads", 0))
        engine = engine_of(folder)

        def ready(url: str) -> None:
            say(f"serve: {url} has {', '.join(engine.stages)} (Ctrl-C ends)")
            if key and not api_key:
                say(f"key: {key}")

        serve(engine, run.resolve().name, listener, host, key=key, debug=debug, ready=ready)
        engine.close()


@app.command("plan")
def plan_ahead(
    overrides: Overrides = None,
    preset: PresetOption = "smollm2",
    gpu: Annotated[
        str, typer.Option("--gpu", help="3090, 4090, a100, h100, h200, or auto for the GPU of this machine.")
    ] = "auto",
    gpu_gb: Annotated[float, typer.Option("--gpu-gb", min=0, max=100_000, help="Memory of the GPU in GiB.")] = 0.0,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", min=0, max=10**6, help="Length of prompts; 0 uses the mean of the data.")
    ] = 0,
    response_tokens: Annotated[
        int,
        typer.Option(
            "--response-tokens",
            min=0,
            max=10**6,
            help="Length of responses; 0 uses the longest that the config allows.",
        ),
    ] = 0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Predict the memory and time of a run without loading it, and suggest settings that fit."""
    from tercet.config.load import load_lm_config

    config = load_lm_config(preset, overrides or [])
    hush()
    use_threads(config.threads)
    from tercet.lm.plan import plan, table

    with (
        redirect_stdout(sys.stderr) if as_json else nullcontext()
    ):  # messages about the data must not mix with the JSON
        prediction = plan.plan(
            config, gpu=gpu, gpu_gb=gpu_gb, prompt_tokens=prompt_tokens, response_tokens=response_tokens
        )
    say(json.dumps(prediction.as_json()) if as_json else "\n".join(table.lines(prediction)))


@app.command()
def bench(
    shape: Annotated[str, typer.Option("--shape", help="Model size: opt-125m, small or tiny.")] = "opt-125m",
    threads: Annotated[
        int, typer.Option("--threads", min=0, max=1024, help="CPU threads; 0 uses torch's default.")
    ] = 0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Time one PPO step on random weights and compare it with the limit of this machine. Takes about a minute."""
    if shape not in ("opt-125m", "small", "tiny"):
        raise InputError(f"--shape {shape}: must be opt-125m, small or tiny")
    hush()
    use_threads(threads)
    from tercet.lm.plan import bench_table

    measured = bench_table.run(bench_table.SHAPES[shape])
    say(json.dumps(measured.as_json()) if as_json else "\n".join(bench_table.table(measured)))


def main() -> None:
    """Run the command that the process was started with."""
    # torch's threads wait for one another by spinning for milliseconds, which takes the core from the thread that is
    # awaited if another program is busy; libgomp reads this once, when torch is loaded
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    prepare()
    try:
        app()
    except Ended as error:  # before a command began, or after it had ended
        sys.exit(error.status)
