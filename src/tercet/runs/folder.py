"""The folder of a run; the same command resumes the run in it."""

import fcntl
import hashlib
import json
import os
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

from pydantic import BaseModel

from tercet.config import plain_yaml
from tercet.errors import FailedError, InputError
from tercet.runs import done, machine
from tercet.runs.atomic import clean_leftovers, full_disk_named, write_text
from tercet.runs.integrity import Tree, read_sealed, sealed
from tercet.runs.progress import say
from tercet.runs.ranks import first_only, follows, share
from tercet.runs.results import add_results, gather_results, gathered, merged, read_results
from tercet.runs.rows import Row, cut_rows, dump, read_rows
from tercet.runs.step import OnRow, Step, Watch, last_checkpoint
from tercet.runs.trackers import check_installed

CONFIG_DIGEST = "config_sha256"  # in run.json
_ABSENT = object()

# settings that may change when a run is resumed on another machine; they affect the last bits of numbers and the random
# draws inside a loss (dropout, the noise of cloning)
MAY_CHANGE = (
    "micro_batch_size",
    "device",
    "threads",
    "processes",
    "shard",
    "trackers",
    "sampler",
    "engine_for",
    "engine_url",
    "engine_command",
    "on_alarm",
)


class RunFolder:
    """A run folder: config.yaml, run.json, metrics.jsonl, samples.jsonl, timings.jsonl, results.json, and the steps."""

    def __init__(
        self,
        path: Path,
        config_dict: Tree,
        lock: IO[str] | None = None,
        on_row: OnRow | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.path, self.config_dict, self._lock, self._on_row, self._watch = path, config_dict, lock, on_row, watch

    @classmethod
    def open(
        cls,
        path: Path,
        config: BaseModel,
        *,
        preset: str,
        on_row: OnRow | None = None,
        watch: Watch | None = None,
        may_grow: Sequence[str] = (),
        may_add: Sequence[str] = (),
    ) -> Self:
        """Create or reopen the folder, and lock it until this object is closed or deleted.

        `on_row` is called with each row of metrics that a step logs, and `watch` before it with this row and its times.

        A run whose first step has not started takes the new config; any run takes a larger number of a setting that
        `may_grow` names. A run of an earlier version, without a section in `may_add`, takes it: no step has read it.
        Raise InputError if the folder has another config, is in use by another process, or is not a
        run.
        """
        text = plain_yaml.dump(config.model_dump(mode="json"))
        config_dict = plain_yaml.parse(text).value
        if follows():  # rank 0 opens and locks the folder for all
            return cls(path, config_dict)
        check_installed(config_dict.get("trackers", []))
        _make(path)
        lock = _locked(path)
        clean_leftovers(path)
        if _others(path):
            old = _read_config(path)
            added = {name: config_dict[name] for name in may_add if name not in old}
            now = merged(old, {**added, **_grown(old, config_dict, may_grow)})
            _check_same(path, now, config_dict, list(_unknown_defaults(config, now)))
            if now != old:
                _rewrite_config(path, now)
        else:  # new, or stopped before its first step, so that a setting can still be corrected
            info = {**machine.describe(preset), CONFIG_DIGEST: hashlib.sha256(text.encode()).hexdigest()}
            write_text(path / "run.json", sealed(info, indent=2))
            write_text(path / "config.yaml", text)  # last, because it marks the folder as a run
        _check_steps(path)
        gather_results(path)
        return cls(path, config_dict, lock, on_row, watch)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open an existing run for reading; raise InputError if there is none, FailedError if results are damaged."""
        config_dict = _read_config(path)
        done.check(path, done.ended(path), made=False)
        return cls(path, config_dict)

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def info(self) -> Tree:
        """Return run.json: preset, versions, git commit, machine."""
        return {key: value for key, value in _read_info(self.path).items() if key != CONFIG_DIGEST}

    def metrics(self) -> list[Row]:
        """Return the rows of metrics.jsonl in the order of the steps, including the current one."""
        return share(lambda: read_rows(self.path / "metrics.jsonl"))

    def samples(self) -> list[Row]:
        """Return the rows of samples.jsonl."""
        return read_rows(self.path / "samples.jsonl")

    def results(self) -> Tree:
        """Return the results of all steps; results.json is read if the step folders are missing."""
        return share(lambda: gathered(self.path) or read_results(self.path))

    @first_only
    def add_results(self, step: str, tree: Mapping[str, Any]) -> None:  # Any: JSON, nested by the names of results.json
        """Merge results of a step into results.json; values that are not finite are left out."""
        add_results(self.path, step, tree)

    @contextmanager
    def timed(self, step: str, name: str) -> Iterator[None]:
        """Add the time of work before a step to results.json, as `seconds.<name>`."""
        started = time.monotonic()
        yield
        self.add_results(step, {"seconds": {name: round(time.monotonic() - started, 1)}})

    def has_ended(self, name: str) -> bool:
        """Return True if that step is finished, without checking its files."""
        return share(lambda: done.has_ended(self.path, name))

    def is_done(self, name: str) -> bool:
        """Return True if that step is finished; raise FailedError if one of its files is damaged."""
        return share(lambda: done.is_done(self.path, name))

    def end_of_step(self) -> None:
        """Show the results of a step that has finished to whoever watches the run."""
        if self._watch is not None:
            self._watch.end_of_step()

    def step(
        self, name: str, *, total: int, shown: Sequence[str], num_before: int = 0, data: Mapping[str, str] = {}
    ) -> Step:
        """Return a step of `total` units for a `with` statement; metrics in `shown` appear beside the progress bar.

        Each unit has a row; `num_before` rows come before the first, such as the validation before PPO's update 1.
        `data` has the digest of each data set; raise InputError if the step started with other data.
        """
        return Step(
            self.path,
            name,
            total=total,
            shown=shown,
            num_before=num_before,
            config=self.config_dict,
            data=data,
            on_row=self._on_row,
            watch=self._watch,
        )


def _make(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; choose another folder with --out")
    try:
        with full_disk_named(path):
            path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: can't make this folder ({error.strerror}); choose another with --out") from error
    if (path / "config.yaml").exists():
        return
    others = _others(path)
    if others:
        raise InputError(
            f"{path}: contains {', '.join(others[:3])}{' ...' if len(others) > 3 else ''} but no config.yaml, "
            "so it is not a run; choose another folder with --out"
        )


def _others(path: Path) -> list[str]:
    """List what a folder holds besides the files that opening it writes; a kill leaves names that begin with a dot."""
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    return [name for name in names if name not in ("config.yaml", "run.json")]


def _locked(path: Path) -> IO[str]:
    with full_disk_named(path):
        lock = (path / ".lock").open("a+", encoding="utf-8")
    # a child process that outlives a killed run must not keep the lock
    os.register_at_fork(after_in_child=partial(_close, weakref.ref(lock)))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip()
        lock.close()
        raise InputError(
            f"{path}: process {owner or 'of another machine'} is using this folder; "
            "wait for it, or choose another folder with --out"
        ) from None
    with full_disk_named(path):
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
    return lock


def _close(lock: "weakref.ref[IO[str]]") -> None:
    file = lock()
    if file is not None:
        file.close()


def _read_config(path: Path) -> Tree:
    file = path / "config.yaml"
    if not file.exists():
        near = sorted(str(other.parent) for other in path.parent.glob("*/config.yaml"))
        known = f"; runs there: {', '.join(near[:5])}" if near else ""
        raise InputError(f"{path}: not a run folder (no config.yaml){known}")
    try:
        data = file.read_bytes()
        tree = plain_yaml.parse(data.decode()).value
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: not YAML ({reason}); choose another folder with --out") from error
    if not isinstance(tree, dict):
        raise InputError(f"{file}: contains no config; choose another folder with --out")
    recorded = _read_info(path).get(CONFIG_DIGEST)
    if recorded is not None and recorded != hashlib.sha256(data).hexdigest():
        raise FailedError(
            f"{file}: changed since the run wrote it (its SHA-256 differs from the one in run.json); restore it, or "
            f"remove {path / 'run.json'} if you changed it on purpose"
        )
    return tree


def _read_info(path: Path) -> Tree:
    """Return run.json; empty if it was removed."""
    file = path / "run.json"
    remedy = f"restore it, or remove {file}, which only describes how the run was made"
    return read_sealed(file, remedy, since=[CONFIG_DIGEST]) if file.exists() else {}


def _check_steps(path: Path) -> None:
    """Raise FailedError before any work if a finished step or the current one is damaged."""
    done.clean(path)
    done.check(path, done.ended(path))
    for folder in path.iterdir():
        if folder.is_dir() and not folder.name.startswith(".") and not done.has_ended(path, folder.name):
            clean_leftovers(folder)
            last_checkpoint(path, folder.name)
    for kind in done.ROWS:
        cut_rows(path / f"{kind}.jsonl", "", 0)  # drops only lines that are not rows


def _grown(old: Tree, new: Tree, may_grow: Sequence[str]) -> Tree:
    """Return the settings in `may_grow` whose number is larger now; an earlier version has none, which is 0."""
    was, now = dict(_leaves(old)), dict(_leaves(new))
    grown: Tree = {}
    for key in may_grow:
        before, value = was.get(key, 0), now[key]
        if isinstance(before, int) and isinstance(value, int) and value > before:
            section, _, name = key.rpartition(".")
            grown = merged(grown, {section: {name: value}})
    return grown


def _rewrite_config(path: Path, tree: Tree) -> None:
    """Replace config.yaml; after a kill in between, run.json has no digest of it, and it is used unchecked."""
    text, info = plain_yaml.dump(tree), _read_info(path)
    info.pop(CONFIG_DIGEST, None)
    write_text(path / "run.json", dump(info, indent=2) + "\n")
    write_text(path / "config.yaml", text)
    info[CONFIG_DIGEST] = hashlib.sha256(text.encode()).hexdigest()
    write_text(path / "run.json", sealed(info, indent=2))


def _check_same(path: Path, old: Tree, new: Tree, unknown: Sequence[str]) -> None:
    """Raise InputError if a setting differs; settings in `unknown` did not exist when the run was made."""
    was, now = dict(_leaves(old)), dict(_leaves(new))
    may_differ = {key for key in now if any(f"{key}.".startswith(f"{name}.") for name in unknown)}
    may_differ |= {key for key in now if key.rpartition(".")[2] in MAY_CHANGE}
    differing = [key for key in now | was if was.get(key, _ABSENT) != now.get(key, _ABSENT) and key not in may_differ]
    if differing:
        lines = [f"  {key}: {_shown(was, key)} in the run, {_shown(now, key)} now" for key in differing]
        raise InputError(
            f"{path}: this run was made with another config:\n" + "\n".join(lines) + "\n"
            "  Give the same settings to continue it, or choose another folder with --out"
        )
    if unknown:
        say(f"{path}: made by an earlier version without {', '.join(unknown)}; continuing with the default")


def _unknown_defaults(config: BaseModel, old: Tree, prefix: str = "") -> Iterator[str]:
    """Name the keys that hold their default and that `old`, the config of an earlier version, does not have.

    The default is what an earlier version did; exceptions are in the changelog.
    """
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if name not in old and value == field.get_default(call_default_factory=True):
            yield f"{prefix}{name}"
        elif isinstance(value, BaseModel) and isinstance(old.get(name, {}), dict):
            yield from _unknown_defaults(value, old.get(name, {}), f"{prefix}{name}.")


def _leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(leaves: dict[str, object], key: str) -> str:
    return json.dumps(leaves[key], ensure_ascii=False, default=str) if key in leaves else "(absent)"
