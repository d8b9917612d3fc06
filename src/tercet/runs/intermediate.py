"""Files that a step stores before it is finished, such as sampled pairs; their digests are in <step>/kept.json."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from tercet.errors import FailedError
from tercet.runs.atomic import replace_folder, write_text
from tercet.runs.integrity import Digests, changed, digests_below, read_sealed, sealed
from tercet.runs.ranks import share

FILE = "kept.json"


def keep_file(step: Path, name: str, text: str) -> None:
    """Write a file of a step that resuming reuses; every rank may read it then."""
    share(lambda: _keep_file(step, name, text))


def _keep_file(step: Path, name: str, text: str) -> None:
    step.mkdir(exist_ok=True)
    # write the digest first: after a kill between the two there is no file, and the step creates it again
    _record(step, name, {name: hashlib.sha256(text.encode()).hexdigest()})
    write_text(step / name, text)


def keep_folder(step: Path, name: str, write: Callable[[Path], None]) -> None:
    """Write a folder of a step that resuming reuses; `write(folder)` fills it. Every rank may read it then."""

    def write_all(folder: Path) -> None:
        write(folder)
        _record(step, name, {f"{name}/{file}": value for file, value in digests_below(folder).items()})

    share(lambda: replace_folder(step / name, write_all))


def is_kept(step: Path, name: str) -> bool:
    """Return True if the file or folder exists, on every rank alike; raise FailedError if it has changed."""
    return share(lambda: _is_kept(step, name))


def _is_kept(step: Path, name: str) -> bool:
    if not (step / name).exists():
        return False
    digests = {file: value for file, value in _recorded(step).items() if _belongs(file, name)}
    lines = changed(step, digests) if digests else [f"{step / name}: not recorded in {step / FILE}"]
    if lines:
        raise FailedError("\n  ".join([*lines, f"restore it, or {_remedy(step)}"]))
    return True


def _record(step: Path, name: str, digests: Digests) -> None:
    others = {file: value for file, value in _recorded(step).items() if not _belongs(file, name)}
    write_text(step / FILE, sealed({"files": {**others, **digests}}, indent=1))


def _recorded(step: Path) -> Digests:
    return read_sealed(step / FILE, _remedy(step))["files"] if (step / FILE).exists() else {}


def _belongs(file: str, name: str) -> bool:
    return file == name or file.startswith(f"{name}/")


def _remedy(step: Path) -> str:
    return f"remove {step} to restart this step"
