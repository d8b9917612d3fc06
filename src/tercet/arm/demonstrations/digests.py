"""Digests of what a step reads, by which a run sees that its data has changed."""

import hashlib
from pathlib import Path

from tercet.arm.demonstrations.data import NONE, is_scripted
from tercet.arm.sim.cameras import cameras_of
from tercet.config.arm import ArmConfig

_PICTURES = ("videos", "images")  # where a folder in LeRobot's format holds them


def digests(config: ArmConfig, step: str) -> dict[str, str]:
    """The SHA-256 of the recording that behaviour cloning reads, its pictures included where the policy sees them."""
    source = config.bc.demonstrations
    if step != "bc" or source == NONE or is_scripted(source):
        return {}
    place, digest = Path(source), hashlib.sha256()
    for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
        inside = str(file.relative_to(place))
        if file.is_file() and (cameras_of(config.policy) or not inside.startswith(_PICTURES)):
            with file.open("rb") as content:
                digest.update(inside.encode() + hashlib.file_digest(content, "sha256").digest())
    return {"demonstrations": digest.hexdigest()}
