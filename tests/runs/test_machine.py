"""The versions and the machine in run.json."""

import resource

import pytest

from tercet.runs import machine


def test_description_has_preset_versions_and_machine() -> None:
    info = machine.describe("tiny")
    assert info["preset"] == "tiny"
    assert info["packages"]["torch"]
    assert info["machine"]["num_cores"] >= 1
    assert info["machine"]["memory_gb"] > 0


def test_spare_memory_respects_the_limit_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    free = machine.spare_memory()
    assert free > 0
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1, 1))  # one byte of address space
    assert machine.spare_memory() == 0
