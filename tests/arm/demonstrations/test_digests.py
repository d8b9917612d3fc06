"""The digest changes if the recording changes."""

from pathlib import Path

from tercet.arm.demonstrations.digests import digests
from tercet.config.load import load_arm_config


def test_the_digest_covers_images_only_if_the_policy_uses_them(tmp_path: Path) -> None:
    for name in ("meta", "data", "videos"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("before")
    recorded = [f"bc.demonstrations={tmp_path}"]
    blind = load_arm_config("lift", recorded)
    seeing = load_arm_config("lift", [*recorded, "policy.kind=act", "policy.cameras=[front]"])
    before = digests(blind, "bc"), digests(seeing, "bc")
    (tmp_path / "videos" / "file").write_text("after")
    assert digests(blind, "bc") == before[0]
    assert digests(seeing, "bc") != before[1]
    (tmp_path / "data" / "file").write_text("after")
    assert digests(blind, "bc") != before[0]
    assert digests(blind, "reward") == digests(load_arm_config("lift", []), "bc") == {}


def test_the_digest_covers_a_single_file(tmp_path: Path) -> None:
    file = tmp_path / "r.npz"
    file.write_bytes(b"before")
    config = load_arm_config("lift", [f"bc.demonstrations={file}"])
    before = digests(config, "bc")
    file.write_bytes(b"after")
    assert digests(config, "bc") != before
