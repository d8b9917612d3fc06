"""Turn the tokens of one response into text, piece by piece."""

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"  # what a part of a character is decoded to


class Writer:
    """Collect tokens; hold back text that a later token may change, or that may be the beginning of a stop text."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str]) -> None:
        """`decode` maps all ids of the response so far to its text."""
        self.ids: list[int] = []
        self.stopped = False  # a stop text was found
        self._decode, self._stop = decode, stop
        self._written = ""

    def add(self, token: int) -> str:
        """Add a token and return the text that is certain now."""
        self.ids.append(token)
        text = self._decode(self.ids)
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._up_to(text[: min(found)])
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        return self._up_to(text[: len(text) - held].rstrip(UNFINISHED))

    def end(self) -> str:
        """Return the text that was held back, when no token follows."""
        return "" if self.stopped else self._up_to(self._decode(self.ids))

    def _up_to(self, text: str) -> str:
        if not text.startswith(self._written):  # what was written cannot be taken back
            return ""
        new, self._written = text[len(self._written) :], text
        return new


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of the text are the beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
