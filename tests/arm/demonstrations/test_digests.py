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


def test_without_cloning_every_step_reads_the_policy_from_which_ppo_starts(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("before")
    start = [f"bc.policy={tmp_path}", "bc.demonstrations=none"]
    names = ("reward", "ppo", "eval", "compare")
    before = [digests(load_arm_config("lift", start), name) for name in names]
    (tmp_path / "weights").write_text("after")
    after = [digests(load_arm_config("lift", start), name) for name in names]
    assert all(set(one) == {"policy"} and one != other for one, other in zip(before, after, strict=True))
    assert digests(load_arm_config("lift", start), "bc") == {}
    cloned = load_arm_config("lift", start[:1])
    assert set(digests(cloned, "bc")) == {"policy"} and digests(cloned, "ppo") == {}  # the clone is a file of the run
