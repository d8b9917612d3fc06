"""Files that are converted once: the result is kept in the user's cache."""

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from tercet.errors import FailedError
from tercet.runs.atomic import replace_folder


def converted(source: Path, write: Callable[[Path], None], *, what: str = "") -> Path:
    """Let `write` fill a folder from the file `source`, once, and return the folder in the user's cache.

    `what` is a suffix of the folder's name, for another conversion of the same file. FailedError if the cache cannot
    be written.
    """
    source = source.resolve()
    stat = source.stat()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tercet"
    # the size is not enough: fine-tuned copies of one model have equal sizes
    digest = hashlib.sha256(f"{source} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    target = cache / f"{source.stem}-{digest}{what}"
    if target.is_dir():  # it was put there as a whole
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f".{target.name}.lock").open("w")
    except OSError as error:
        raise FailedError(f"{cache} cannot be written; set XDG_CACHE_HOME to a folder that can") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two runs that start together, the second uses the result of the first
        if not target.is_dir():
            replace_folder(target, write)
    return target
