"""SHA-256 digests of the files of a run, to detect damage before a file is used."""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

Digests = dict[str, str]  # relative path -> SHA-256

_computed: dict[tuple[int, int, int, int, int], str] = {}


def digest(file: Path) -> str:
    """Return the SHA-256 of a file; a file is read again only if its size or time has changed."""
    now = file.stat()
    key = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    if key not in _computed:
        with file.open("rb") as opened:
            _computed[key] = hashlib.file_digest(opened, "sha256").hexdigest()
    return _computed[key]


def digests_below(folder: Path, *, without: Collection[str] = ()) -> Digests:
    """The digest of every file below a folder but those in `without`; names that begin with a dot are left out."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    ours = [name for name in names if name.parts[0] not in without and not any(part[0] == "." for part in name.parts)]
    return {str(name): digest(folder / name) for name in ours}


def changed(folder: Path, noted: Mapping[str, str]) -> list[str]:
    """Return a line for every file below `folder` that differs from `noted`: its name and the difference."""
    lines: list[str] = []
    for name, wanted in noted.items():
        try:
            if digest(folder / name) != wanted:
                lines.append(f"{folder / name}: damaged or replaced (its SHA-256 is not the one that the run noted)")
        except FileNotFoundError:
            lines.append(f"{folder / name}: missing")
        except OSError as error:
            lines.append(f"{folder / name}: cannot be read ({error.strerror})")
    return lines
