"""Digests of the data of a step, by which a run detects that its data has changed."""

import hashlib
from pathlib import Path

from tercet.arm.demonstrations.data import NONE, is_scripted, recording_of
from tercet.arm.lerobot.hub import local_folder
from tercet.arm.sim.cameras import cameras_of
from tercet.arm.sim.tasks.builtin import task_of
from tercet.arm.sim.tasks.own import OwnTask
from tercet.config.arm import ArmConfig

_PICTURES = ("videos", "images")  # their folders in LeRobot's format


def digests(config: ArmConfig, step: str) -> dict[str, str]:
    """SHA-256 of the recording, the policy and the task of the user that behaviour cloning reads.

    Without cloning, every step reads policy and task. Images of the recording count only if the policy sees them.
    """
    if (step == "bc") == (config.bc.demonstrations == NONE):
        return {}
    found = {}
    if step == "bc" and not is_scripted(config.bc.demonstrations):
        left_out = () if cameras_of(config.policy) else _PICTURES
        found["demonstrations"] = _digest(recording_of(config.bc), left_out)
    task = task_of(config.env)
    if isinstance(task, OwnTask):
        found["task"] = task.digest()
    if config.bc.policy:
        found["policy"] = _digest(local_folder(config.bc.policy, kind="model"), ())
    return found


def _digest(source: Path, left_out: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
        name = str(file.relative_to(source))
        if file.is_file() and not (left_out and name.startswith(left_out)):
            with file.open("rb") as content:
                digest.update(name.encode() + hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
