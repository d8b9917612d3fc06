"""Kill a run at one source line after another, continue it, and compare its files with those of an uninterrupted run.

It is a separate program, because its children are forked from a process that has imported everything:
    python kill_points.py SCRIPT WORK NUM_POINTS    (SCRIPT defines run(folder: Path) -> None)
"""

import json
import os
import random
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import tercet.runs

SOURCE = Path(tercet.runs.__file__).parent.parent
TRACED = (str(SOURCE / "runs"), str(SOURCE / "train"))
# a kill does not lose data in the system's cache, and fsync would take nearly all of the time
os.fsync = lambda descriptor: None
# depend on the clock or the machine
TIMES = ("timings.jsonl", "run.json", "done.json", ".lock")


def _main() -> None:
    run = runpy.run_path(sys.argv[1])["run"]
    work, num_points = Path(sys.argv[2]), int(sys.argv[3])
    whole = work / "whole"
    assert _in_child(run, whole, 0) == 0, "the uninterrupted run failed"
    num_lines = int((work / "lines").read_text())
    wanted, chance, num_killed = _contents(whole), random.Random(0), 0
    for point in range(num_points):
        folder = work / f"killed-{point}"
        # evenly over the run, and once more at a line of the second attempt
        for line in (1 + point * num_lines // num_points, chance.randrange(1, num_lines)):
            status = _in_child(run, folder, line)
            assert status in (0, -signal.SIGKILL), f"killed at line {line}: the next attempt ended with {status}"
            num_killed += status != 0
        assert _in_child(run, folder, 0) == 0, f"point {point}: the last attempt failed"
        found = _contents(folder)
        odd = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
        assert not odd, f"point {point}: {odd} differ from the uninterrupted run"
        shutil.rmtree(folder)
    print(json.dumps({"lines": num_lines, "kills": num_killed}))


def _in_child(run: Callable[[Path], None], folder: Path, line: int) -> int:
    """Run in a forked process that kills itself before the `line`-th source line of Tercet; 0 runs to the end."""
    child = os.fork()
    if child == 0:
        lines = _trace(line)
        code = 1
        try:
            run(folder)
            if line == 0 and folder.name == "whole":
                (folder.parent / "lines").write_text(str(lines[0]))
            code = 0
        finally:
            sys.stdout.flush()
            if code:
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]  # there is one: code is still 1
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _trace(kill_at: int) -> list[int]:
    lines = [0]

    def enter(frame: FrameType, event: str, _: object) -> Callable | None:
        return each_line if frame.f_code.co_filename.startswith(TRACED) else None

    def each_line(frame: FrameType, event: str, _: object) -> Callable:
        if event == "line":
            lines[0] += 1
            if lines[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return each_line

    sys.settrace(enter)
    return lines


def _contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file including leftovers, without the seconds in the results."""
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in [name for name in contents if Path(name).name == "results.json"]:
        results = json.loads(contents[name])
        assert results.pop("seconds"), f"{name} lacks the seconds"
        contents[name] = json.dumps(results).encode()
    return {name: data for name, data in contents.items() if Path(name).name not in TIMES}


if __name__ == "__main__":
    _main()
