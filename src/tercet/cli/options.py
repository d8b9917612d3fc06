"""Options and commands of the steps that `lm` and `arm` share, and the default run folder."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tercet.cli.commands import DebugOption
from tercet.errors import InputError
from tercet.runs.progress import say


def presets(domain: str) -> str:
    """Return the presets of `lm`, `arm` or `robot` for the help of a command."""
    names = sorted(file.stem for file in (Path(__file__).parents[1] / "presets" / domain).glob("*.yaml"))
    return f"{', '.join(names)}, or a YAML file."


def preset_option(domain: str) -> Any:  # Any: typer's type of an option
    """Return the option --preset of `lm` or `arm`."""
    return typer.Option("--preset", "-p", metavar="NAME|FILE", help=presets(domain))


OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="The folder of the run; by default runs/PRESET.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of the table.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Config overrides such as seed=1 or ppo.lr=1e-5; docs/config.md lists all keys."
    ),
]


ComparisonOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="The folder of the comparison; by default runs/PRESET-compare."),
]
SeedsOption = Annotated[int, typer.Option("--seeds", min=1, max=1000, help="Runs of each algorithm.")]
HostOption = Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 lets other computers connect.")]
KeyOption = Annotated[
    str,
    typer.Option(
        "--api-key",
        envvar="TERCET_API_KEY",
        show_envvar=True,
        help="Key that every request needs; without it, one is made up if other computers can connect.",
    ),
]


def port_option() -> Any:  # Any: typer's type of an option
    """Return the option --port of a command that serves."""
    return typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 chooses a free one.")


def key_for(host: str, key: str) -> str:
    """Return the key that requests need: the given one, or a new one if other computers can connect."""
    from tercet.web.server import is_loopback

    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise InputError("--api-key: a browser cannot send this key; use letters of ASCII, digits and marks")
    return key or ("" if is_loopback(host) else secrets.token_urlsafe(24))


def default_folder(preset: str) -> Path:
    """Return the run folder of a preset without --out."""
    return Path("runs") / (Path(preset).stem if preset.endswith((".yaml", ".yml")) else preset)


def comparison_folder(preset: str) -> Path:
    """Return the folder of a comparison without --out."""
    return default_folder(preset).with_name(f"{default_folder(preset).name}-compare")


def split_arguments(arguments: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Separate names of files and sets from overrides."""
    names = [text for text in arguments or [] if "=" not in text or Path(text).exists()]
    return names, [text for text in arguments or [] if text not in names]


ALL = "run"  # the command that runs all steps


def add_steps(
    app: typer.Typer, domain: Literal["lm", "arm"], *, default: str, steps: Mapping[str, tuple[str, Mapping[str, str]]]
) -> None:
    """Add a command for each step of `domain` and the command `ALL`; each takes a preset and a run folder.

    `steps` maps a command to its help and to the results in the run folder, which it prints at the end.
    """

    def add(step: str, about: str, results: Mapping[str, str]) -> None:
        def command(
            overrides: Overrides = None,
            preset: Annotated[str, preset_option(domain)] = default,
            out: OutOption = None,
            debug: DebugOption = False,
        ) -> None:
            from tercet.api.run import run  # pydantic and PyYAML cost half of --help's time
            from tercet.config.load import load_arm_config, load_lm_config

            load = load_lm_config if domain == "lm" else load_arm_config
            config = load(preset, overrides or [])
            done = run(config, out or default_folder(preset), step=None if step == ALL else step, preset=preset)
            say("\n".join(f"{what}: {done.path / where}" for what, where in results.items()))

        command.__doc__ = about
        app.command(step)(command)

    for step, (about, results) in steps.items():
        add(step, about, results)
