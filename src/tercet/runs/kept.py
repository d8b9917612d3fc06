"""Files that a step keeps before it ends, such as sampled pairs; their digests stand in <step>/kept.json."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from tercet.errors import FailedError
from tercet.runs.atomic import replace_folder, write_text
from tercet.runs.digests import Digests, changed, digests_below
from tercet.runs.reading import read_sealed, sealed

FILE = "kept.json"


def keep_file(step: Path, name: str, text: str) -> None:
    """Put a file into the folder of a step, for good."""
    step.mkdir(exist_ok=True)
    # the digest comes first: killed between the two, there is no file yet, and the step makes it again
    _note(step, name, {name: hashlib.sha256(text.encode()).hexdigest()})
    write_text(step / name, text)


def keep_folder(step: Path, name: str, write: Callable[[Path], None]) -> None:
    """Put a folder that `write(folder)` fills into the folder of a step, for good."""

    def write_all(folder: Path) -> None:
        write(folder)
        _note(step, name, {f"{name}/{file}": value for file, value in digests_below(folder).items()})

    replace_folder(step / name, write_all)


def is_kept(step: Path, name: str) -> bool:
    """Whether the file or folder is there; FailedError where it is not as it was kept."""
    if not (step / name).exists():
        return False
    own = {file: value for file, value in _noted(step).items() if _belongs(file, name)}
    lines = changed(step, own) if own else [f"{step / name}: not noted in {step / FILE}"]
    if lines:
        raise FailedError("\n  ".join([*lines, f"put it back as it was, or {_remedy(step)}"]))
    return True


def _note(step: Path, name: str, digests: Digests) -> None:
    others = {file: value for file, value in _noted(step).items() if not _belongs(file, name)}
    write_text(step / FILE, sealed({"files": {**others, **digests}}, indent=1))


def _noted(step: Path) -> Digests:
    return read_sealed(step / FILE, _remedy(step))["files"] if (step / FILE).exists() else {}


def _belongs(file: str, name: str) -> bool:
    return file == name or file.startswith(f"{name}/")


def _remedy(step: Path) -> str:
    return f"remove {step} to start this step anew"
