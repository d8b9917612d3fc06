"""Measure the policy of one run of a comparison, on starts that all runs of the comparison share."""

import json
from collections.abc import Sequence
from pathlib import Path

from tercet.arm.demonstrations.digests import digests
from tercet.arm.eval import Stage, Trials, outcomes_of, stages_of
from tercet.arm.play import video
from tercet.arm.play.environments import EnvFactory
from tercet.arm.play.episodes import repeats
from tercet.config.arm import ArmConfig
from tercet.errors import FailedError
from tercet.runs.atomic import replace_folder, write_text
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say
from tercet.runs.ranks import share

_SEED = 0  # of the starts: those of `tercet arm eval` with seed=0, whatever the seed of the run


def run(folder: RunFolder, config: ArmConfig) -> None:
    """Write DIR/compare/starts.json, the outcome of each start, and DIR/compare/videos of the first ones.

    The policy is that of step 3, else the one from which step 3 starts; it takes its most likely actions.
    """
    stages = {stage.name: stage for stage in stages_of(folder, config) if not stage.noise}
    stage = stages.get("ppo") or next(iter(stages.values()))
    num, data = config.eval.num_states, digests(config, "compare")
    with folder.step("compare", total=1, shown=[], data=data) as step, EnvFactory.of(config).open(num) as env:
        trials = Trials(env, num, config.horizon, _SEED)
        measured = outcomes_of(trials.play(stage))
        step.log(0, {"compare/success": float(measured.success.float().mean())})
        rows = [measured.of_start(i) for i in range(num)]
        share(lambda: write_text(step.path / "starts.json", json.dumps(rows, indent=1) + "\n"))
        same_starts = share(lambda: repeats(env, seed=trials.starts_seed))
        missing = ""
        if same_starts and config.eval.num_videos:
            title = config.ppo.algorithm if stage.name == "ppo" else stage.name
            shown = range(num)[: config.eval.num_videos]
            missing = share(lambda: _film(step.path / "videos", trials, stage, shown, title))
        step.finish({"compare": {"same_starts": same_starts, **({"videos_missing": missing} if missing else {})}})


def _film(folder: Path, trials: Trials, stage: Stage, starts: Sequence[int], title: str) -> str:
    """Write a video of each start. Without OpenGL there are none, and the reason is printed and returned."""
    try:
        episodes, pictures = trials.film(stage, starts)
    except FailedError as error:
        say(f"compare: no videos: {error}")
        return str(error)
    success = episodes.succeeded().tolist()

    def write(partial: Path) -> None:
        for index, start in enumerate(starts):
            clip = video.Clip(title, pictures[index], video.Curves(), success[index])
            video.write(partial / f"start-{start}.mp4", clip)

    replace_folder(folder, write)
    return ""
