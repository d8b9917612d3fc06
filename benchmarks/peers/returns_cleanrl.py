"""Run CleanRL's ppo_continuous_action.py on an environment's own reward; print one line of JSON.

    PYTHONPATH=benchmarks $PEERS/venv-cleanrl/bin/python benchmarks/peers/returns_cleanrl.py \\
        --script $PEERS/cleanrl/cleanrl/ppo_continuous_action.py --task pendulum

The file of CleanRL runs as it is, with its own settings, in an environment with its version of Gymnasium (0.29.1),
which has HalfCheetah as v4. Only its log is replaced: what it writes there tells when an episode ended.
"""

import contextlib
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from returns_work import Race, parser


class Log:
    """In place of a SummaryWriter: record the episodes."""

    def __init__(self, race: Race) -> None:
        self.race = race

    def add_scalar(self, name: str, value: Any, step: int) -> None:
        if name == "charts/episodic_return":
            self.race.ended(step, float(np.asarray(value).reshape(-1)[0]))

    def add_text(self, *given: Any) -> None:
        """Start the clock: the file writes its settings before it makes its environments."""
        self.race.start()

    def close(self) -> None:
        pass


def observation_scale(env: gymnasium.Env) -> Any:
    """Return the running scale of the wrapper NormalizeObservation."""
    while not isinstance(env, gymnasium.wrappers.NormalizeObservation):
        env = env.env
    return env.obs_rms


def main() -> None:
    """Train and report."""
    command = parser(__doc__ or "")
    command.add_argument("--script", required=True)
    settings = command.parse_args()
    script = str(Path(settings.script).resolve())
    del settings.script
    race = Race("cleanrl", settings)
    env_id = race.env_id.replace("HalfCheetah-v5", "HalfCheetah-v4")
    options = [f"--env-id={env_id}", f"--seed={settings.seed}", f"--total-timesteps={settings.steps}", "--no-cuda"]
    with (
        tempfile.TemporaryDirectory() as place,
        contextlib.chdir(place),
        contextlib.redirect_stdout(sys.stderr),
        patch("torch.utils.tensorboard.SummaryWriter", lambda *_: Log(race)),
        patch.object(sys, "argv", [script, *options]),
    ):
        left = runpy.run_path(script, run_name="__main__")
    race.finish(int(left["global_step"]))
    agent, scale = left["agent"], observation_scale(left["envs"].envs[0])

    @torch.no_grad()
    def act(seen: NDArray) -> NDArray:
        scaled = np.clip((seen - scale.mean) / np.sqrt(scale.var + 1e-8), -10, 10)
        action = agent.actor_mean(torch.as_tensor(scaled, dtype=torch.float32)[None])[0].numpy()
        box = gymnasium.make(env_id).action_space
        return np.clip(action, box.low, box.high)

    race.report(act, lambda: gymnasium.make(env_id))


if __name__ == "__main__":
    main()
