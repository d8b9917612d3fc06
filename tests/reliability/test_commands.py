"""Any name that is given to a command: one message that says what is wrong, and nothing that commands a terminal."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reliability.amounts import Count, cases
from typer.testing import CliRunner

from tercet.cli import app
from tercet.cli.commands import LONGEST_LINE

COUNT = Count("commands")
count = COUNT.fixture()

COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# every command that takes a name, `@`; with a name that is not what it wants, each ends before anything is trained
TAKE_A_NAME = [
    "report @",
    "label @ --port 0",
    "label folder --port 0 --host @",
    "lm chat @",
    "lm chat folder --stage @",
    "lm data @ --preset tiny",
    "lm data --preset @",
    "lm run --preset @",
    "lm sft --preset tiny --out file --no-@",
    "lm reward --preset tiny --out file @",
    "lm @",
    "arm data @",
    "arm data --preset @",
    "arm ppo --preset @",
    "arm deploy @",
    "arm deploy folder --stage @",
    "arm deploy folder --robot @",
    "arm record folder --robot @",
    "arm record folder --task @",
    "plan --preset @",
    "plan --preset tiny --gpu-gb @",
    "bench --shape @",
    "@",
    "--@",
]
PIECES = [
    *("file", "folder", "run", "loop", "absent", ".", "..", "~", "/", "/dev/null", "/proc/self/mem", ".yaml", ".jsonl"),
    *(
        "x" * 300,
        "x/" * 3000,
        "\0",
        "\n",
        "\r",
        "\x1b[2J",
        "\x9b",
        "\u202e",
        "\udcff",
        "[red]",
        "[/]",
        "{x}",
        "%s",
        "-",
        " ",
    ),
]
names = st.lists(
    st.one_of(st.sampled_from(PIECES), st.text(st.characters(exclude_categories=[]), max_size=8)), max_size=4
)


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder with a file, a folder, a damaged run and loops of links, from which the commands are given."""
    folder, before = tmp_path_factory.mktemp("here"), Path.cwd()
    for name in ("file", "file.jsonl", "file.yaml"):
        (folder / name).write_bytes(b"\xff\x00\x1b[2J: [")
    for name in ("folder", "folder.yaml", "run"):
        (folder / name).mkdir()
    (folder / "run" / "config.yaml").write_bytes(b"\x1b[2J: {")
    for name in ("loop", "loop.yaml", "loop.jsonl"):
        (folder / name).symlink_to(name)
    os.chdir(folder)
    yield
    os.chdir(before)


@settings(max_examples=cases(1000))
@given(command=st.sampled_from(TAKE_A_NAME), name=names.map("".join))
def test_any_name_gives_one_message(command: str, name: str) -> None:
    words = [word.replace("@", name) for word in command.split()]
    result = CliRunner().invoke(app, words)
    said = result.stderr
    COUNT.note(refused=result.exit_code != 0)
    assert isinstance(result.exception, SystemExit | None), words
    assert result.exit_code in (0, 1, 2), said
    assert not COMMANDS.search(result.output)
    assert "internal error" not in said and "Traceback" not in said, said
    if result.exit_code and "Usage" not in said:
        assert said.startswith("tercet: ") and said.endswith("\n")
        assert len([line for line in said.splitlines() if not line.startswith("  ")]) == 1, said
        assert max(map(len, said.splitlines())) < LONGEST_LINE + 100
