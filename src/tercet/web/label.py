"""`tercet label`: ask the open questions of a run one by one, and save the answers."""

import getpass
import shlex
import threading
from pathlib import Path
from typing import Any

from tercet.errors import FailedError, InputError
from tercet.feedback.answers import AnswerBook, Key, read_answers
from tercet.feedback.sheets import Sheet, check_whole, problem, sheets, shown
from tercet.web.guard import Refused, Tree

LONGEST_NAME = 80


class Desk:
    """The questions and answers of one run; it is thread-safe.

    Raise FailedError if files are damaged.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.feedback = run, run / "feedback"
        if not (self.feedback.is_dir() and sheets(self.feedback)):
            raise InputError(
                f"{run}: no questions here; they are written by `tercet lm run judge=person` or "
                "`tercet arm run reward.judge=person`, and the same --out"
            )
        for sheet in self._sheets():
            check_whole(sheet)
            sheet.answers(read_answers(self.feedback))
        self._book = AnswerBook(self.feedback)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Release the answers for other processes, after a current write has ended."""
        with self._lock:
            self._book.close()

    def state(self) -> Tree:
        """Return the progress and the next question, if there is one."""
        with self._lock:
            return self._state()

    def answer(self, given: Tree) -> Tree:
        """Save an answer (`sheet`, `question`, `said`, `who`), and return the new state."""
        with self._lock:
            sheet = next((one for one in self._sheets() if one.path.name == given.get("sheet")), None)
            if sheet is None:
                raise Refused(400, f"sheet {shown(given.get('sheet'))}: no such sheet")
            if given.get("digest", sheet.digest) != sheet.digest:
                raise Refused(409, "the questions have changed; reload the page")
            check_whole(sheet)  # a copy or a damaged disk may have changed what the page showed
            index: Any = given.get("question")  # Any: JSON, checked by `problem`
            answer, who = given.get("said"), person(given)
            reason = problem(sheet, index, answer)
            if reason:
                raise Refused(400, reason)
            if sheet.is_taken():
                raise Refused(409, "the run has used this sheet; its answers can no longer change")
            if sheet.answers(read_answers(self.feedback))[index] is not None:
                raise Refused(409, "this question already has an answer")
            self._book.write(sheet.key(index), answer, who)
            return self._state()

    def undo(self, given: Tree) -> Tree:
        """Withdraw this person's last answer, and ask its question again."""
        with self._lock:
            who = person(given)
            mine = self._last(who)
            if mine is None:
                raise Refused(409, "you have no answer to undo")
            self._book.write(mine, None, who)
            return self._state()

    def video(self, sheet_name: str, file: str) -> Path:
        """Return the path of a video; only videos of questions are served."""
        for sheet in sheets(self.feedback):
            named = sheet.path.name == sheet_name and not sheet.is_text()
            if named and any(file in question.values() for question in sheet.questions):
                path = (sheet.path / file).resolve()
                if path.is_file() and path.is_relative_to(self.feedback.resolve()):  # a link may lead elsewhere
                    return path
        raise Refused(404, "no such video")

    def _sheets(self) -> list[Sheet]:
        """Return all sheets of the run; raise FailedError if they were moved or removed."""
        asked = sheets(self.feedback)
        if not asked:
            raise FailedError(f"{self.feedback}: the questions are no longer here; put the folder back")
        return asked

    def _state(self) -> Tree:
        given = read_answers(self.feedback)
        opened = [sheet for sheet in self._sheets() if not sheet.is_taken()]
        asked = [(sheet, index, row) for sheet in opened for index, row in enumerate(sheet.answers(given))]
        waiting = [(sheet, index) for sheet, index, row in asked if row is None]
        return {
            "run": self.run.resolve().name,
            "command": f"tercet label {shlex.quote(str(self.run))}",
            "who": user_name(),
            "done": len(asked) - len(waiting),
            "total": len(asked),
            "question": _as_asked(*waiting[0]) if waiting else None,
        }

    def _last(self, who: str) -> Key | None:
        opened = {(sheet.path.name, sheet.digest) for sheet in self._sheets() if not sheet.is_taken()}
        mine = [key for key, row in read_answers(self.feedback).items() if row["who"] == who and key[:2] in opened]
        return mine[-1] if mine else None


def _as_asked(sheet: Sheet, index: int) -> Tree:
    """Return a question for the page, with URLs in place of files."""
    name = sheet.path.name
    parts = {
        part: f"videos/{name}/{value}" if isinstance(value, str) and not sheet.is_text() else value
        for part, value in sheet.questions[index].items()
    }
    asked = {"sheet": name, "digest": sheet.digest, "question": index}
    return {**asked, "kind": sheet.kind, "look_for": sheet.look_for, **parts}


def user_name() -> str:
    """Return the name of the user of this computer; '' if it has none."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container may have no user name
        return ""


def person(given: Tree) -> str:
    """Read who answers; raise Refused if that is no name."""
    who = given.get("who")
    if not isinstance(who, str) or not who.strip() or len(who) > LONGEST_NAME:
        raise Refused(400, f"who: must be a name of 1 to {LONGEST_NAME} letters")
    return who.strip()
