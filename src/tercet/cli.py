"""The command line: every command reads a config, calls one function and says where the results lie."""

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tercet import __version__
from tercet.errors import FailedError, InputError, WaitingError

if TYPE_CHECKING:  # pydantic and PyYAML cost half of --help's time
    from tercet.config.arm import ArmConfig
    from tercet.config.lm import LmConfig
    from tercet.runs.folder import RunFolder


def _presets(domain: str) -> str:
    return ", ".join(sorted(file.stem for file in (Path(__file__).parent / "presets" / domain).glob("*.yaml")))


class _Commands(TyperGroup):
    """Turns what goes wrong in a command into one message and an exit code; --debug shows where it happened."""

    def invoke(self, ctx: Any) -> Any:  # Any: typer's own context, of another class from version to version
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            code, message = 130, "interrupted; the same command goes on from the last checkpoint"
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise  # typer's own ways to end
        except InputError as error:
            code, message = 2, str(error)
            _show_traceback(ctx)
        except WaitingError as error:
            code, message = 3, str(error)
        except Exception as error:
            if type(error).__module__.startswith(("click", "typer")):
                raise  # a wrong option: typer shows the usage
            code, message = 1, _failure(error)
            message += "" if _show_traceback(ctx) else "\n  (run again with --debug for the traceback)"
        print(f"tercet: {message}", file=sys.stderr)
        raise typer.Exit(code)


def _failure(error: Exception) -> str:
    """One line that says what failed."""
    if isinstance(error, FailedError):
        return str(error)
    reason = next(iter(str(error).splitlines()), "")
    if type(error).__name__ == "OutOfMemoryError":
        return (
            f"out of GPU memory: {reason}\n  lower the step's micro_batch_size, set model.gradient_checkpointing=true, "
            "or train adapters alone with lora.rank=16"
        )
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror or reason}"
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


def _show_traceback(ctx: Any) -> bool:  # Any: see _Commands.invoke
    if ctx.meta.get("tercet.debug"):
        traceback.print_exc()
    return bool(ctx.meta.get("tercet.debug"))


def _note_debug(ctx: Any, value: bool) -> bool:  # Any: see _Commands.invoke
    ctx.meta["tercet.debug"] = value
    return value


def _print_version(value: bool) -> bool:
    if value:
        print(f"tercet {__version__}")
        raise typer.Exit
    return value


PresetOption = Annotated[
    str, typer.Option("--preset", "-p", metavar="NAME|FILE", help=f"{_presets('lm')}, or a YAML file.")
]
ArmPresetOption = Annotated[
    str, typer.Option("--preset", "-p", metavar="NAME|FILE", help=f"{_presets('arm')}, or a YAML file.")
]
RobotOption = Annotated[
    str, typer.Option("--robot", "-r", metavar="NAME|FILE", help=f"{_presets('robot')}, or a YAML file.")
]
SecondsOption = Annotated[float, typer.Option("--seconds", min=0.1, max=600, help="How long each takes at most.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="The run's folder; runs/PRESET without it.")
]
DebugOption = Annotated[bool, typer.Option("--debug", callback=_note_debug, help="Show tracebacks.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One line of JSON in place of the table.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Such as seed=1 or ppo.lr=1e-5; docs/config.md has them all."),
]

app = typer.Typer(
    cls=_Commands,
    help="Imitate, judge, improve: PPO from feedback in three steps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
lm = typer.Typer(help="The three steps on a language model.", no_args_is_help=True)
app.add_typer(lm, name="lm")
arm = typer.Typer(help="The three steps on a robot arm.", no_args_is_help=True)
app.add_typer(arm, name="arm")


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@lm.command("run")
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


@lm.command()
def sft(
    overrides: Overrides = None, preset: PresetOption = "smollm2", out: OutOption = None, debug: DebugOption = False
) -> None:
    """Step 1, imitate: supervised fine-tuning on the chosen answers."""
    with _opened(preset, out, overrides) as (folder, config):
        from tercet.lm import pipeline

        pipeline.run_step(folder, config, "sft")
        print(f"model: {folder.path / 'sft' / 'model'}")


@lm.command()
def reward(
    overrides: Overrides = None, preset: PresetOption = "smollm2", out: OutOption = None, debug: DebugOption = False
) -> None:
    """Step 2, judge: a reward model from the better of two answers."""
    with _opened(preset, out, overrides) as (folder, config):
        from tercet.lm import pipeline

        pipeline.run_step(folder, config, "reward")
        print(f"model: {folder.path / 'reward' / 'model'}\nfigures: {folder.path / 'results.json'}")


@lm.command()
def ppo(
    overrides: Overrides = None, preset: PresetOption = "smollm2", out: OutOption = None, debug: DebugOption = False
) -> None:
    """Step 3, improve: PPO with actor, critic, reference and reward model."""
    with _opened(preset, out, overrides) as (folder, config):
        from tercet.lm import pipeline

        pipeline.run_step(folder, config, "ppo")
        print(f"model: {folder.path / 'ppo' / 'model'}")


@lm.command("eval")
def evaluate(
    overrides: Overrides = None, preset: PresetOption = "smollm2", out: OutOption = None, debug: DebugOption = False
) -> None:
    """Answers of every stage side by side, reward-model scores, and paired win rates on held-out prompts."""
    with _opened(preset, out, overrides) as (folder, config):
        from tercet.lm import pipeline

        pipeline.run_step(folder, config, "eval")
        print(f"figures: {folder.path / 'results.json'}")


@lm.command()
def chat(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder.")] = Path("runs/smollm2"),
    stage: Annotated[str, typer.Option("--stage", "-s", help="Who answers: base, sft or ppo.")] = "ppo",
    debug: DebugOption = False,
) -> None:
    """Talk with any stage of a run, several turns, in the terminal."""
    if stage not in ("base", "sft", "ppo"):
        raise InputError(f"--stage {stage}: must be base, sft or ppo")
    _hush()
    from tercet.lm import chat

    chat.run(run, stage=stage)


@lm.command()
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


@arm.command("run")
def arm_run(
    overrides: Overrides = None, preset: ArmPresetOption = "lift", out: OutOption = None, debug: DebugOption = False
) -> None:
    """All steps, the evaluation, videos and the report; what is done already is skipped.

    Stop it whenever you like: the same command goes on from the last checkpoint.
    """
    with _opened_arm(preset, out, overrides) as (folder, config):
        from tercet.arm import pipeline

        pipeline.run(folder, config)
        print(f"report: {folder.path / 'report.html'}\nfigures: {folder.path / 'results.json'}")


@arm.command("bc")
def arm_bc(
    overrides: Overrides = None, preset: ArmPresetOption = "lift", out: OutOption = None, debug: DebugOption = False
) -> None:
    """Step 1, imitate: behaviour cloning from demonstrations."""
    with _opened_arm(preset, out, overrides) as (folder, config):
        from tercet.arm import pipeline

        pipeline.run_step(folder, config, "bc")
        print(f"model: {folder.path / 'bc' / 'model'}")


@arm.command("reward")
def arm_reward(
    overrides: Overrides = None, preset: ArmPresetOption = "lift", out: OutOption = None, debug: DebugOption = False
) -> None:
    """Step 2, judge: a reward model from the better of two segments."""
    with _opened_arm(preset, out, overrides) as (folder, config):
        from tercet.arm import pipeline

        pipeline.run_step(folder, config, "reward")
        print(f"model: {folder.path / 'reward' / 'model'}\nfigures: {folder.path / 'results.json'}")


@arm.command("ppo")
def arm_ppo(
    overrides: Overrides = None, preset: ArmPresetOption = "lift", out: OutOption = None, debug: DebugOption = False
) -> None:
    """Step 3, improve: PPO with actor, critic, reference and reward."""
    with _opened_arm(preset, out, overrides) as (folder, config):
        from tercet.arm import pipeline

        pipeline.run_step(folder, config, "ppo")
        print(f"model: {folder.path / 'ppo' / 'model'}")


@arm.command("eval")
def arm_evaluate(
    overrides: Overrides = None, preset: ArmPresetOption = "lift", out: OutOption = None, debug: DebugOption = False
) -> None:
    """Success of every stage on fresh starts, start by start, and videos side by side."""
    with _opened_arm(preset, out, overrides) as (folder, config):
        from tercet.arm import pipeline

        pipeline.run_step(folder, config, "eval")
        print(f"figures: {folder.path / 'results.json'}")


@arm.command("check")
def arm_check(
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the starts.")] = 0, debug: DebugOption = False
) -> None:
    """Is the arm itself sound: nothing jams, everything is reached, the experts succeed? About 15 seconds."""
    from tercet.arm import check

    checks = check.run(seed=seed)
    print(check.table(checks))
    failed = sum(not one.ok for one in checks)
    if failed:
        raise FailedError(f"{failed} of {len(checks)} checks of the arm failed; those marked FAIL")


@arm.command("deploy")
def arm_deploy(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder.")],
    overrides: Overrides = None,
    robot: RobotOption = "simulated",
    stage: Annotated[str, typer.Option("--stage", "-s", help="Whose policy: bc or ppo.")] = "ppo",
    times: Annotated[int, typer.Option("--times", min=1, help="How often it is tried.")] = 1,
    seconds: SecondsOption = 10.0,
    send: Annotated[bool, typer.Option("--send", help="Move the arm; without it, nothing is sent.")] = False,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Where to keep what a person shows who takes over.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Put a run's policy on an arm, within limits; a dry run that prints and plots, unless --send."""
    from tercet.config.load import load_robot_config

    config = load_robot_config(robot, overrides or [])
    from tercet.arm import console, deploy

    task, pilot = deploy.policy_of(run, stage, speed=config.speed)
    tries = console.steer(config, deploy.Session(task, pilot, times, seconds, send, keep))
    picture = run / "deploy" / ("sent.png" if send else "would_be_sent.png")
    print("\n".join(deploy.show(picture, tries, deploy.limits_of(config))))
    print(f"picture: {picture}" if send else f"picture: {picture}\nnothing was sent; --send moves the arm")


@arm.command("record")
def arm_record(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the recording is, or begins.")],
    overrides: Overrides = None,
    robot: RobotOption = "simulated",
    task: Annotated[str, typer.Option("--task", help="reach, lift, place or push.")] = "lift",
    times: Annotated[int, typer.Option("--times", min=1, help="How many demonstrations.")] = 10,
    seconds: SecondsOption = 30.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the simulated arm's starts.")] = 0,
    debug: DebugOption = False,
) -> None:
    """Record demonstrations that a person gives with a teacher's arm, in LeRobot's format."""
    from tercet.config.load import load_robot_config

    config = load_robot_config(robot, overrides or [])
    from tercet.arm import console, deploy
    from tercet.arm.env import checked_task

    session = deploy.Session(checked_task(task), None, times, seconds, True, folder, seed)
    tries = console.steer(config, session)
    print(f"recording: {folder} ({sum(one.success for one in tries)} of {len(tries)} succeeded)")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder.")], debug: DebugOption = False
) -> None:
    """Write the report of a run, done or not: one HTML page and the same in Markdown."""
    from tercet.report import page

    print(f"report: {page.write(run)}")


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
    from tercet.web import server

    print(server.serve(run, host=host, port=port, ready=lambda url: print(f"label: {url} (Ctrl-C ends)", flush=True)))


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
    _hush()
    _use_threads(config.threads)
    from tercet.lm import plan, plan_table

    found = plan.plan(config, gpu=gpu, gpu_gb=gpu_gb, prompt_tokens=prompt_tokens, response_tokens=response_tokens)
    print(json.dumps(found.as_json()) if as_json else "\n".join(plan_table.lines(found)))


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
    _hush()
    _use_threads(threads)
    from tercet.lm import bench_table

    found = bench_table.run(bench_table.SHAPES[shape])
    print(json.dumps(found.as_json()) if as_json else "\n".join(bench_table.table(found)))


@contextmanager
def _opened(preset: str, out: Path | None, overrides: list[str] | None) -> Iterator[tuple["RunFolder", "LmConfig"]]:
    """The checked config and its run folder, locked; from here on it is worth importing torch."""
    from tercet.config.load import load_lm_config
    from tercet.runs.folder import RunFolder

    config = load_lm_config(preset, overrides or [])
    with RunFolder.open(out or _place(preset), config, preset=preset) as folder:
        _hush()
        _use_threads(config.threads)
        yield folder, config


@contextmanager
def _opened_arm(
    preset: str, out: Path | None, overrides: list[str] | None
) -> Iterator[tuple["RunFolder", "ArmConfig"]]:
    """The same for the arm; its networks are small, and a second thread would cost more than it brings."""
    from tercet.config.load import load_arm_config
    from tercet.runs.folder import RunFolder

    config = load_arm_config(preset, overrides or [])
    with RunFolder.open(out or _place(preset), config, preset=preset) as folder:
        import torch

        torch.set_num_threads(1)
        yield folder, config


def _place(preset: str) -> Path:
    """Where a run of this preset lies that is given no --out."""
    return Path("runs") / (Path(preset).stem if preset.endswith((".yaml", ".yml")) else preset)


def _use_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _hush() -> None:
    from tercet.lm.quiet import hush

    hush()


def main() -> None:
    """The entry point of the `tercet` command."""
    app()
