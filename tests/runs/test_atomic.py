"""Files and folders are replaced wholly or not at all."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tercet.errors import FailedError
from tercet.runs.atomic import clean_leftovers, full_disk_named, remove_folder, replace_folder, write_text


@pytest.fixture
def dead_pid() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def _fill(text: str):
    def write(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text(text)

    return write


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_is_replaced_without_leftovers(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "one")
    write_text(tmp_path / "a.json", "zwei Ä 三")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "zwei Ä 三"
    assert _names(tmp_path) == ["a.json"]


def test_a_folder_is_replaced_without_leftovers(tmp_path: Path) -> None:
    replace_folder(tmp_path / "deep" / "model", _fill("one"))
    replace_folder(tmp_path / "deep" / "model", _fill("two"))
    assert (tmp_path / "deep" / "model" / "inner" / "file").read_text() == "two"
    assert _names(tmp_path / "deep") == ["model"]


def test_a_failed_write_keeps_the_old_folder(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyError("mine")

    replace_folder(tmp_path / "model", _fill("one"))
    with pytest.raises(KeyError, match="mine"):
        replace_folder(tmp_path / "model", fails)
    assert (tmp_path / "model" / "inner" / "file").read_text() == "one"
    assert _names(tmp_path) == ["model"]


def test_a_full_disk_is_named_and_the_old_folder_is_kept(tmp_path: Path) -> None:
    def fills_the_disk(folder: Path) -> None:
        (folder / "half").write_text("half")
        Path("/dev/full").write_text("no room")  # the system's own word for a full disk

    replace_folder(tmp_path / "model", _fill("one"))
    with pytest.raises(FailedError, match=rf"{tmp_path}/model: the disk is full; the previous contents are kept"):
        replace_folder(tmp_path / "model", fills_the_disk)
    assert (tmp_path / "model" / "inner" / "file").read_text() == "one"
    assert _names(tmp_path) == ["model"]


def test_a_full_disk_inside_another_exception_is_named() -> None:
    with pytest.raises(FailedError, match="the disk is full"), full_disk_named(Path("model")):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_limit_on_file_sizes_is_named_and_the_old_file_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_text(file, "one")
    reads, writes = os.pipe()
    if os.fork() == 0:  # the limit is the whole process's
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            write_text(file, "x" * 5000)
        except FailedError as error:
            os.write(writes, str(error).encode())
        os._exit(0)
    os.wait()
    said = os.read(reads, 4096).decode()
    os.close(reads)
    os.close(writes)
    assert f"{file}: the file would grow beyond the limit on file sizes" in said
    assert "ulimit -f" in said
    assert file.read_text() == "one"
    assert _names(tmp_path) == ["a.json"]


def test_a_used_up_quota_is_named() -> None:
    with pytest.raises(FailedError, match="your disk quota is used up"), full_disk_named(Path("model")):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(IsADirectoryError), full_disk_named(Path("model")):
        Path("/").write_text("")


def test_leftovers_of_dead_processes_only_are_removed(tmp_path: Path, dead_pid: int) -> None:
    parent = os.getppid()
    (tmp_path / f".model.{dead_pid}.partial").mkdir()
    (tmp_path / f".a.json.{dead_pid}.partial").write_text("half")
    (tmp_path / f".model.{os.getpid()}.partial").mkdir()
    (tmp_path / f".model.{parent}.partial").mkdir()
    (tmp_path / ".hidden").write_text("not ours")
    clean_leftovers(tmp_path)
    assert _names(tmp_path) == [".hidden", f".model.{parent}.partial"]


def test_a_folder_under_a_temporary_name_is_restored(tmp_path: Path) -> None:
    (tmp_path / ".model.old").mkdir()
    (tmp_path / ".model.old" / "file").write_text("one")
    clean_leftovers(tmp_path)
    assert (tmp_path / "model" / "file").read_text() == "one"


def test_an_old_folder_is_removed_if_the_new_one_exists(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / ".model.old").mkdir()
    clean_leftovers(tmp_path)
    assert _names(tmp_path) == ["model"]


def test_only_the_named_entry_is_cleaned(tmp_path: Path, dead_pid: int) -> None:
    for name in ("model", "models"):
        (tmp_path / f".{name}.{dead_pid}.partial").mkdir()
    clean_leftovers(tmp_path, "model")
    assert _names(tmp_path) == [f".models.{dead_pid}.partial"]


def test_removing_a_missing_folder_is_not_an_error(tmp_path: Path) -> None:
    remove_folder(tmp_path / "model")
    replace_folder(tmp_path / "model", _fill("one"))
    remove_folder(tmp_path / "model")
    assert _names(tmp_path) == []


def test_a_read_only_file_system_is_named_with_the_remedy() -> None:
    with (
        pytest.raises(
            FailedError, match=r"^a/\.lock: the file system is read-only; .* Copy the folder to a writable place"
        ),
        full_disk_named(Path("a/.lock")),
    ):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "a/.lock")
