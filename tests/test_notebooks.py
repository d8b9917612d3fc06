"""The notebooks run from an empty folder, and are stored with what they showed."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def pictures(notebook: nbformat.NotebookNode) -> list[int]:
    """How many pictures each code cell shows."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in cells]


def texts(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_are_stored_with_their_output(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert sum(pictures(notebook)) >= 2
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert file.stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_run(file: Path, tmp_path: Path) -> None:
    stored, fresh = (nbformat.read(file, as_version=4) for _ in range(2))
    NotebookClient(fresh, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()  # raises on an error
    assert pictures(fresh) == pictures(stored)
    if file.stem == "arm":
        succeeded = re.search(r"ppo (\d+) of 64 succeed", texts(fresh))
        assert succeeded and int(succeeded[1]) > 48
