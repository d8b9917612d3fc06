"""Pairs that a person made while chatting: DIR/feedback/chat.jsonl, a data set that the reward model can train on."""

import fcntl
import os
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tercet.errors import FailedError
from tercet.runs.atomic import append, write_text
from tercet.runs.rows import Row, dump, read_rows

FILE = "chat.jsonl"
Answer = Mapping[str, Any]  # Any: JSON; stage, text, and whether it ended


class ChatPairs:
    """The pairs of one run; several pages and processes may write at the same time."""

    def __init__(self, run: Path) -> None:
        self.path = run / "feedback" / FILE

    def add(
        self, messages: Sequence[Mapping[str, str]], chosen: Answer, rejected: Sequence[Answer], who: str
    ) -> list[str]:
        """Save one pair for each rejected answer, and return their ids; they are on the disk then."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        rows: list[Row] = [
            {
                "prompt": list(messages),
                "chosen": chosen["text"],
                "rejected": worse["text"],
                "chosen_ended": chosen["ended"],
                "rejected_ended": worse["ended"],
                "chosen_stage": chosen["stage"],
                "rejected_stage": worse["stage"],
                "who": who,
                "when": when,
                "id": secrets.token_hex(8),
            }
            for worse in rejected
        ]
        with self._locked():
            self._append("".join(dump(row) + "\n" for row in rows))
        return [row["id"] for row in rows]

    def take_back(self, ids: Collection[str]) -> None:
        """Remove pairs."""
        with self._locked():
            rows = [row for row in read_rows(self.path) if row.get("id") not in ids]
            write_text(self.path, "".join(dump(row) + "\n" for row in rows))

    def count(self) -> int:
        """Return the number of pairs."""
        return len(read_rows(self.path))

    def _append(self, text: str) -> None:
        with self.path.open("ab", buffering=0) as file:
            data = self.path.read_bytes()
            os.ftruncate(file.fileno(), data.rfind(b"\n") + 1)  # a part of a row that a kill has left
            try:
                append(file, text.encode(), sync=True)
            except OSError as error:
                raise FailedError(f"{self.path}: this pair could not be saved ({error.strerror})") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(exist_ok=True)
        with (self.path.parent / f".{FILE}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
