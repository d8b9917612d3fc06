"""Atomic writes: if the process is killed at any time, a file or folder is either complete or unchanged."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from tercet.errors import FailedError

_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.partial")
_OLD = re.compile(r"\.(?P<name>.+)\.old")
_FULL = {  # errors of a full or read-only disk: the reason and the remedy
    errno.ENOSPC: ("the disk is full", "Free some space"),
    errno.EDQUOT: ("your disk quota is used up", "Free some space"),
    errno.EROFS: ("the file system is read-only", "Copy the folder to a writable place"),
    errno.EFBIG: ("the file would grow beyond the limit on file sizes", "Raise the limit (`ulimit -f unlimited`)"),
}


def write_text(path: Path, text: str) -> None:
    """Replace the file `path` by `text`; on a full disk, keep the old file and raise FailedError."""
    partial = _partial(path)
    try:
        with full_disk_named(path):
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            _sync(path.parent)
    finally:
        if partial.exists():  # unlink would fail again on a read-only file system
            partial.unlink()


def append(file: FileIO, data: bytes, *, sync: bool) -> None:
    """Append all of `data` to an unbuffered file, or raise OSError and restore the file's length.

    With `sync`, the data is on the disk itself when this returns.
    """
    length = os.fstat(file.fileno()).st_size
    rest = memoryview(data)
    try:
        while rest:  # a disk that fills up may take a part first
            rest = rest[file.write(rest) :]
        if sync:
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):  # report the first error
            os.ftruncate(file.fileno(), length)
        raise


def replace_folder(path: Path, write: Callable[[Path], None], *, old: Path | None = None) -> None:
    """Replace the folder `path` by what `write(folder)` writes; raise FailedError on a full disk.

    The previous folder is renamed to `old` if that is given, else removed. A folder cannot be renamed over another, so
    for a moment the previous one has another name; `clean_leftovers` restores it if the process is killed then.
    """
    with full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clean_leftovers(path.parent, path.name)
        partial, before = _partial(path), old or path.with_name(f".{path.name}.old")
        try:
            partial.mkdir()
            write(partial)
            _sync_tree(partial)
            if path.exists():
                path.rename(before)
            partial.rename(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        if old is None:
            shutil.rmtree(before, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder, if it exists, so that an incomplete one never has its name."""
    if path.exists():
        partial = _partial(path)
        path.rename(partial)
        shutil.rmtree(partial)


def clean_leftovers(folder: Path, name: str | None = None) -> None:
    """Clean up incomplete writes of a killed process in `folder`, for one entry or for all."""
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        match = _OLD.fullmatch(entry.name) or _PARTIAL.fullmatch(entry.name)
        if match is None or name not in (None, match["name"]):
            continue
        if match.re is _PARTIAL and _is_alive(int(match["pid"])):
            continue  # in use by another process, in a shared cache
        if match.re is _OLD and not (folder / match["name"]).exists():
            entry.rename(folder / match["name"])
        elif entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn the error of a full or read-only disk into a FailedError that names `path` and the remedy."""
    try:
        yield
    except Exception as error:
        # by the system's message, since safetensors wraps it in its own exception
        for code, (reason, remedy) in _FULL.items():
            if os.strerror(code) in str(error):
                raise FailedError(
                    f"{path}: {reason}; the previous contents are kept. {remedy} and give the same command again"
                ) from error
        raise


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # left by an earlier process with the same id: this process is not writing now
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if not path.is_symlink():
            _sync(path)
    _sync(folder)
