"""A run folder, shared by the tests of its parts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tercet.config.lm import LmConfig
from tercet.runs.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder.open(tmp_path / "run", LmConfig.model_validate({}), preset="tiny") as folder:
        yield folder
