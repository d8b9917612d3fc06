"""Options that commands of both sides take, and where a run lies that is given no --out."""

from pathlib import Path
from typing import Annotated

import typer


def presets(domain: str) -> str:
    """Names of the presets of `lm`, `arm` or `robot`, as a command's help lists them."""
    return ", ".join(sorted(file.stem for file in (Path(__file__).parents[1] / "presets" / domain).glob("*.yaml")))


OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="The run's folder; runs/PRESET without it.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One line of JSON in place of the table.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Such as seed=1 or ppo.lr=1e-5; docs/config.md has them all."),
]


def place(preset: str) -> Path:
    """Where a run of this preset lies that is given no --out."""
    return Path("runs") / (Path(preset).stem if preset.endswith((".yaml", ".yml")) else preset)
