"""Standard streams that are full, closed or limited to few characters."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("started", "code", "said"),
    [
        ("{tercet} --help >/dev/full", 1, "No space left on device"),
        ("{tercet} --version >/dev/full", 1, "No space left on device"),
        ("{tercet} --help >&-", 0, ""),
        ("{tercet} report none 2>&- >&-", 2, ""),
        ("{tercet} report none 2>/dev/full", 2, ""),
        ("PYTHONIOENCODING=ascii {tercet} report 中", 2, "tercet: \\u4e2d: "),
        ("PYTHONIOENCODING=ascii {python} -c 'import tercet.cli.streams as s; s.prepare(); print(chr(0x4e2d))'", 0, ""),
        ("{tercet} --help | head -c 1; exit ${{PIPESTATUS[0]}}", 1, ""),
    ],
)
def test_full_closed_and_ascii_streams_do_not_crash_a_command(started: str, code: int, said: str, tmp_path: Path):
    words = {"tercet": f"{sys.executable} -m tercet", "python": sys.executable}
    command = ["bash", "-c", started.format(**words)]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=buffered, check=False)
    assert result.returncode == code
    assert not re.search("Traceback|Exception ignored", result.stderr)
    assert said in result.stderr
