"""`tercet label`: ask the open questions of a run one by one, and save the answers."""

import getpass
import hashlib
import shlex
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import Path
from time import monotonic
from typing import Any

from tercet.core.agreement import cohens_kappa
from tercet.errors import FailedError, InputError
from tercet.feedback.answers import LONGEST_NAME, AnswerBook, Key, by_question, key_of, read_answers
from tercet.feedback.sheets import Sheet, check_whole, problem, sheets, shown
from tercet.runs.rows import Row
from tercet.web.guard import Refused, Tree, refusing

MOST_SECONDS = 1e6
_NOT_SAVED = "这次操作没有保存，此前的回答都已保存；如果磁盘已满，请腾出空间后再试"
HOLD = 120.0  # seconds for which a question that a page shows is asked on no other page, unless it keeps it longer


class Desk:
    """The questions and answers of one run, for several people at once; it is thread-safe.

    Raise FailedError if files are damaged.
    """

    def __init__(self, run: Path, *, only: Collection[str] = (), same: float = 0.0) -> None:
        """Open the sheets of these names (by default all of them).

        Each question is asked once, but the share `same` of them is asked of every person, to measure their agreement.
        """
        self.run, self.feedback, self._only, self._same = run, run / "feedback", only, same
        if not (self.feedback.is_dir() and sheets(self.feedback)):
            raise InputError(
                f"{run}: no questions here; they are written by `tercet lm run judge=person` or "
                "`tercet arm run reward.judge=person`, and the same --out; or name what to ask about: "
                "`tercet label DIR FILE`, or `tercet label DIR sft ppo`"
            )
        given = by_question(read_answers(self.feedback))
        for sheet in self._sheets():
            check_whole(sheet)
            sheet.answers(given)
        self._book = AnswerBook(self.feedback)
        self._lock = threading.Lock()
        self._shown: dict[Key, tuple[str, float]] = {}  # which page shows a question, and since when

    def close(self) -> None:
        """Release the answers for other processes, after a current write has ended."""
        with self._lock:
            self._book.close()

    def state(self, who: str = "", page: str = "") -> Tree:
        """Return the progress and the next question for a person on a page, if there is one."""
        with self._lock:
            return self._state(who.strip(), page)

    def num_open(self) -> int:
        """Return the number of questions that nobody has answered."""
        with self._lock:
            return sum(not opinions for _, _, opinions in self._asked())

    def answer(self, given: Tree) -> Tree:
        """Save an answer (`sheet`, `question`, `said`, `who`, and if known `seconds`), and return the new state."""
        with self._lock:
            sheet = next((one for one in self._sheets() if one.path.name == given.get("sheet")), None)
            if sheet is None:
                raise Refused(400, f"sheet {shown(given.get('sheet'))}: no such sheet", "没有这份问卷")
            if given.get("digest", sheet.digest) != sheet.digest:
                raise Refused(409, "the questions have changed; reload the page", "问题已更改；请重新载入网页")
            check_whole(sheet)  # a copy or a damaged disk may have changed what the page showed
            index: Any = given.get("question")  # Any: JSON, checked by `problem`
            answer, who, seconds = given.get("said"), person(given), _seconds(given)
            reason = problem(sheet, index, answer)
            if reason:
                raise Refused(400, reason, f"这不是该问题的有效回答（{reason}）")
            if sheet.is_taken():
                said = "the run has used this sheet; its answers can no longer change"
                raise Refused(409, said, "运行已使用这份问卷，其中的回答不能再更改")
            opinions = sheet.opinions(by_question(read_answers(self.feedback)))[index]
            if any(row["who"] == who for row in opinions):
                raise Refused(409, "this question already has an answer", "这个问题你已经回答过了")
            with refusing(500, _NOT_SAVED):
                self._book.write(sheet.key(index), answer, who, seconds=seconds)
            return self._state(who, _page(given))

    def keep(self, given: Tree) -> Tree:
        """Keep the question that a page shows for it, if no other page has been given it."""
        with self._lock:
            page = _page(given)
            self._shown |= {key: (page, monotonic()) for key, (by, _) in self._shown.items() if by == page}
            return {}

    def undo(self, given: Tree) -> Tree:
        """Withdraw this person's last answer, and ask its question again."""
        with self._lock:
            who = person(given)
            mine = self._last(who)
            if mine is None:
                raise Refused(409, "you have no answer to undo", "没有可以撤销的回答")
            with refusing(500, _NOT_SAVED):
                self._book.write(mine, None, who)
            self._shown.pop(mine, None)
            return self._state(who, _page(given))

    def video(self, sheet_name: str, file: str) -> Path:
        """Return the path of a video; only videos of questions are served."""
        for sheet in sheets(self.feedback):
            named = sheet.path.name == sheet_name and not sheet.is_text()
            if named and any(file in question.values() for question in sheet.questions):
                path = (sheet.path / file).resolve()
                if path.is_file() and path.is_relative_to(self.feedback.resolve()):  # a link may lead elsewhere
                    return path
        raise Refused(404, "no such video", "没有这个视频")

    def _sheets(self) -> list[Sheet]:
        """Return the sheets that are asked; raise FailedError if they were moved or removed."""
        asked = [sheet for sheet in sheets(self.feedback) if not self._only or sheet.path.name in self._only]
        if not asked:
            raise FailedError(f"{self.feedback}: the questions are no longer here; put the folder back")
        return asked

    def _asked(self) -> list[tuple[Sheet, int, list[Row]]]:
        """Return the questions whose answers may still change, with what people have said."""
        given = by_question(read_answers(self.feedback))
        opened = [sheet for sheet in self._sheets() if not sheet.is_taken()]
        return [(sheet, index, rows) for sheet in opened for index, rows in enumerate(sheet.opinions(given))]

    def _state(self, who: str, page: str) -> Tree:
        asked = self._asked()
        waiting = [(sheet, index) for sheet, index, rows in asked if not self._is_done(sheet, index, rows, who)]
        answers = [row for _, _, rows in asked for row in rows]
        return {
            "run": self.run.resolve().name,
            "command": f"tercet label {shlex.quote(str(self.run))}",
            "who": user_name(),
            "done": len(asked) - len(waiting),
            "total": len(asked),
            "question": self._next(waiting, page),
            "people": Counter(row["who"] for row in answers),
            "agreement": _agreement([rows for sheet, _, rows in asked if sheet.kind != "moments"]),
        }

    def _is_done(self, sheet: Sheet, index: int, rows: Sequence[Row], who: str) -> bool:
        """Return True if this person need not answer the question."""
        return any(row["who"] == who for row in rows) if who and self._is_for_all(sheet, index) else bool(rows)

    def _next(self, waiting: Sequence[tuple[Sheet, int]], page: str) -> Tree | None:
        """Return the first question that no other page shows, unless every person is asked it."""
        now = monotonic()
        self._shown = {k: v for k, v in self._shown.items() if v[0] != page and now - v[1] < HOLD}
        for sheet, index in waiting:
            if self._is_for_all(sheet, index) or sheet.key(index) not in self._shown:
                self._shown[sheet.key(index)] = page, now
                return _as_asked(sheet, index)
        return None

    def _is_for_all(self, sheet: Sheet, index: int) -> bool:
        """Return True if every person is asked this question; a hash decides, so the choice stays after a restart."""
        digest = hashlib.sha256(repr(sheet.key(index)).encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:6], "big") < self._same * 2**48

    def _last(self, who: str) -> Key | None:
        opened = {(sheet.path.name, sheet.digest) for sheet in self._sheets() if not sheet.is_taken()}
        mine = [key for row in read_answers(self.feedback) if row["who"] == who and (key := key_of(row))[:2] in opened]
        return mine[-1] if mine else None


def _agreement(answers: Sequence[Sequence[Row]]) -> list[Tree]:
    """Return for every two people how far they agree on the questions that both have answered."""
    both: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for rows in answers:
        for first, second in combinations(sorted(rows, key=lambda row: row["who"]), 2):
            both[first["who"], second["who"]].append((first["said"], second["said"]))
    return [
        {
            "who": people,
            "num": len(said),
            "same": sum(first == second for first, second in said) / len(said),
            "kappa": cohens_kappa(*zip(*said, strict=True)),
        }
        for people, said in sorted(both.items())
    ]


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
        raise Refused(
            400, f"who: must be a name of 1 to {LONGEST_NAME} letters", f"请填写名字，1 至 {LONGEST_NAME} 个字符"
        )
    return who.strip()


def _seconds(given: Tree) -> float | None:
    """Read how long the person has looked at the question; raise Refused if that is no time."""
    seconds = given.get("seconds")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= MOST_SECONDS:
        limits = f"0 to {MOST_SECONDS:.0f}"
        raise Refused(400, f"seconds {shown(seconds)}: must be a number from {limits}", "回答所用的秒数无效")
    return round(float(seconds), 1)


def _page(given: Tree) -> str:
    """Read which page asks; one that does not say is a page of its own."""
    page = given.get("page", "")
    return page[:LONGEST_NAME] if isinstance(page, str) else ""
