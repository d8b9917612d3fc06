"""Digests of the data of a step, by which a run detects that its data has changed."""

import hashlib

from tercet.arm.demonstrations.data import NONE, is_scripted, recording_of
from tercet.arm.sim.cameras import cameras_of
from tercet.config.arm import ArmConfig

_PICTURES = ("videos", "images")  # their folders in LeRobot's format


def digests(config: ArmConfig, step: str) -> dict[str, str]:
    """SHA-256 of the recording that behaviour cloning reads; images count only if the policy sees them."""
    source = config.bc.demonstrations
    if step != "bc" or source == NONE or is_scripted(source):
        return {}
    recording, digest = recording_of(config.bc), hashlib.sha256()
    for file in sorted(recording.rglob("*")) if recording.is_dir() else [recording]:
        name = str(file.relative_to(recording))
        if file.is_file() and (cameras_of(config.policy) or not name.startswith(_PICTURES)):
            with file.open("rb") as content:
                digest.update(name.encode() + hashlib.file_digest(content, "sha256").digest())
    return {"demonstrations": digest.hexdigest()}
