"""Read a run: its config, metrics, samples and results."""

from pathlib import Path
from typing import Any, Literal

from tercet.runs.folder import RunFolder
from tercet.runs.progress import silent
from tercet.runs.rounds import in_round, with_rounds
from tercet.runs.rows import Row

Domain = Literal["lm", "arm"]
STEPS: dict[Domain, tuple[str, ...]] = {
    "lm": ("sft", "reward", "ppo", "dpo", "eval"),
    "arm": ("bc", "reward", "ppo", "eval"),
}


class Run:
    """The folder of a run, finished or not; every call reads the current files."""

    def __init__(self, path: str | Path) -> None:
        """Open the run; raise InputError if `path` is not a run."""
        with silent():
            self._folder = RunFolder.read(Path(path))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """Return the folder of the run."""
        return self._folder.path

    @property
    def config(self) -> dict[str, Any]:  # Any: JSON
        """Return config.yaml as a dict of sections."""
        return self._folder.config_dict

    @property
    def domain(self) -> Domain:
        """Return `lm` for a language model, `arm` for a robot arm."""
        return "arm" if "env" in self.config else "lm"

    @property
    def finished(self) -> tuple[str, ...]:
        """Return the finished steps, in order."""
        num_rounds = self.config["reward"].get("num_rounds", 0) if self.domain == "lm" else 0
        steps = with_rounds(STEPS[self.domain], num_rounds)
        steps += [in_round("improve", i + 1) for i in range(self.config.get("improve", {}).get("num_rounds", 0))]
        return tuple(step for step in steps if self._folder.has_ended(step))

    def metrics(self, step: str | None = None) -> list[Row]:
        """Return the rows of metrics.jsonl, of one step or of all: `step`, `index`, and numbers by their names."""
        return _of_step(self._folder.metrics(), step)

    def samples(self, step: str | None = None) -> list[Row]:
        """Return the rows of samples.jsonl, of one step or of all: `step`, `index`, and texts with their scores."""
        return _of_step(self._folder.samples(), step)

    def results(self) -> dict[str, Any]:  # Any: JSON, nested by the names that docs/runs.md lists
        """Return results.json as a dict; empty before a step has written results."""
        return self._folder.results()


def _of_step(rows: list[Row], step: str | None) -> list[Row]:
    return [row for row in rows if step is None or row["step"] == step]
