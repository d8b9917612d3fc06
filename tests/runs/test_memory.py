"""The peak of a piece of work is its own, not that of earlier work."""

import platform

import pytest

from tercet.runs import memory
from tercet.runs.memory import peak_memory


def work(megabytes: int) -> int:
    with peak_memory() as peak:
        assert bytes(range(256)) * (megabytes << 12)  # writes every page
    return peak.num_bytes


def test_the_peak_is_that_of_the_work_alone() -> None:
    small, large, again = work(1), work(64), work(1)
    assert large - small > 55 << 20
    assert large - again > 55 << 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries may keep what was freed")
@pytest.mark.slow
def test_what_earlier_work_freed_does_not_count() -> None:
    before = work(1)
    blocks = [bytes(2000) for _ in range(50_000)]
    kept = blocks[::1000]  # in the way of the others, which stay resident when they are freed
    del blocks
    assert work(1) - before < 30 << 20
    assert len(kept) == 50


def test_a_system_that_does_not_tell_gives_0(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(memory, "_RESET", tmp_path / "none" / "clear_refs")
    assert work(1) == 0
